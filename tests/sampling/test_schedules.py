"""Noise schedules, timesteps, sigmas and the beta quantile against diffusers and scipy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dit_deploy.errors import InputError
from dit_deploy.sampling import solver_table
from dit_deploy.sampling.options import BETAS, Options
from dit_deploy.sampling.schedules import alphas_cumprod, betas, spaced_timesteps
from dit_deploy.sampling.special import beta_quantile

diffusers = pytest.importorskip("diffusers")

ALL = ("sigmoid", "laplace", "exp")
SCHEDULES: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("DDPMScheduler", {}),
    "linear of 37": ("DDPMScheduler", {"num_train_timesteps": 37}),
    "one": ("DDPMScheduler", {"num_train_timesteps": 1}),
    "scaled": ("DDIMScheduler", {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}),
    "cosine": ("DDIMScheduler", {"beta_schedule": "squaredcos_cap_v2"}),
    "sigmoid": ("DDPMScheduler", {"beta_schedule": "sigmoid"}),
    "laplace": ("DDPMScheduler", {"beta_schedule": "laplace"}),
    "exp": ("HeunDiscreteScheduler", {"beta_schedule": "exp", "beta_start": 0.0001, "beta_end": 0.02}),
    "trained": ("DDIMScheduler", {"trained_betas": [0.1, 0.2, 0.3], "num_train_timesteps": 3}),
}


def options(**given: Any) -> Options:
    defaults = {**BETAS, "rescale_betas_zero_snr": False, "timestep_spacing": "leading", "steps_offset": 0}
    return Options("a test", defaults, given)


@pytest.mark.parametrize("case", SCHEDULES)
def test_schedules_are_diffusers_to_the_last_bits(case: str) -> None:
    name, given = SCHEDULES[case]
    theirs = getattr(diffusers, name)(**given)
    # one unit in the last place: the exponentials differ
    np.testing.assert_allclose(betas(options(**given), ALL), theirs.betas.numpy(), rtol=2.4e-7)
    ours = alphas_cumprod(options(**given), ALL)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs.alphas_cumprod.numpy(), rtol=1e-6)


def test_zero_terminal_snr() -> None:
    theirs = diffusers.DDIMScheduler(rescale_betas_zero_snr=True).alphas_cumprod.numpy()
    ours = alphas_cumprod(options(rescale_betas_zero_snr=True))
    assert ours[-1] == theirs[-1] == 0.0
    # absolute: the last ones are differences of nearly equal square roots, in float32
    np.testing.assert_allclose(np.sqrt(ours), np.sqrt(theirs), atol=3e-7)
    assert alphas_cumprod(options(rescale_betas_zero_snr=True), smallest=2.0**-24)[-1] == 2.0**-24
    assert alphas_cumprod(options(), smallest=2.0**-24)[-1] > 2.0**-24


@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
def test_every_number_of_steps_has_the_timesteps_of_diffusers(spacing: str) -> None:
    theirs = diffusers.DDIMScheduler(timestep_spacing=spacing)
    euler = diffusers.EulerDiscreteScheduler(timestep_spacing=spacing)
    given = options(timestep_spacing=spacing)
    for steps in [*range(1, 130), 250, 333, 500, 999, 1000]:
        theirs.set_timesteps(steps)
        # diffusers lists one more, −1, for some numbers (61 is the first): it is no timestep
        listed = theirs.timesteps.numpy()
        assert len(listed) == steps or (spacing == "trailing" and listed[-1] == -1 and steps >= 61)
        np.testing.assert_array_equal(spaced_timesteps(given, steps), listed[:steps])
        if steps < 60:
            euler.set_timesteps(steps)
            np.testing.assert_array_equal(spaced_timesteps(given, steps, rounded=False), euler.timesteps.numpy())


@pytest.mark.parametrize("name", ["DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler"])
def test_61_trailing_steps_are_61(name: str) -> None:
    table = solver_table({"_class_name": name, "timestep_spacing": "trailing"}, 61)
    assert len(table) == 61
    assert table.timesteps.min() >= 0


@pytest.mark.parametrize(("a", "b"), [(0.6, 0.6), (0.5, 2.0), (3.0, 1.5), (1.0, 1.0), (8.0, 0.3)])
def test_the_beta_quantile_is_scipys(a: float, b: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    p = np.concatenate([np.linspace(0, 1, 251), 10.0 ** -np.arange(3, 12), 1 - 10.0 ** -np.arange(3, 12)])
    np.testing.assert_allclose(beta_quantile(p, a, b), stats.beta.ppf(p, a, b), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"beta_schedule": "cubic"}, "beta_schedule='cubic' is not supported: one of linear, scaled_linear"),
        ({"trained_betas": [0.1, 0.2]}, r"trained_betas=\[0.1, 0.2\] is not supported: a list of num_train_timesteps"),
        (
            {"trained_betas": ["a", "b", "c", "d"], "num_train_timesteps": 4},
            "a list of num_train_timesteps = 4 numbers of 0 to 1",
        ),
        (
            {"trained_betas": [[0.1], [0.1, 0.2], 0.1, 0.1], "num_train_timesteps": 4},
            "a list of num_train_timesteps = 4",
        ),
        ({"trained_betas": [0.1, 0.1, 0.1, -2.0], "num_train_timesteps": 4}, "numbers of 0 to 1"),
        ({"trained_betas": [0.1, 0.1, 0.1, 1.5], "num_train_timesteps": 4}, "numbers of 0 to 1"),
        ({"trained_betas": [0.1, 0.1, 0.1, float("nan")], "num_train_timesteps": 4}, "numbers of 0 to 1"),
        ({"trained_betas": "abcd", "num_train_timesteps": 4}, "trained_betas='abcd'"),
        ({"num_train_timesteps": 0}, "num_train_timesteps=0"),
        ({"num_train_timesteps": 10.5}, "num_train_timesteps=10.5"),
        ({"beta_start": -0.1}, "beta_start=-0.1"),
        ({"beta_end": "0.02"}, "beta_end='0.02'"),
        ({"rescale_betas_zero_snr": "yes"}, "rescale_betas_zero_snr='yes' is not supported: true or false"),
        ({"timestep_spacing": "cosine"}, "timestep_spacing='cosine' is not supported: one of linspace, leading"),
        ({"steps_offset": -1}, "steps_offset=-1"),
        ({"steps_offset": 400}, "steps_offset=400 is not supported: timestep 1150 is past the last one, 999"),
    ],
)
def test_bad_options(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        solver_table({"_class_name": "DDIMScheduler", **given}, 4)
