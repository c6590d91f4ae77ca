"""CogVideoX's DDIM and DPM-Solver++ against diffusers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dit_deploy.errors import InputError
from dit_deploy.sampling import resolve_scheduler, solver_table
from tests.sampling.reference import SHAPE, STEPS, Trajectory, compare, denoiser, make_scheduler, run_table, start_of
from tests.sampling.reference import check as check_ddim

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

NAMES = ("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler")
#: THUDM/CogVideoX-2b; the 5B's have snr_shift_scale 1.
PUBLISHED = {
    "clip_sample": False,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}
CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "2B": PUBLISHED,
    "5B": {**PUBLISHED, "snr_shift_scale": 1.0},
    "sample": {**PUBLISHED, "prediction_type": "sample"},
    "linear": {"beta_schedule": "linear", "prediction_type": "v_prediction"},
    "cosine": {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"},
    "linspace": {"timestep_spacing": "linspace", "prediction_type": "v_prediction", "snr_shift_scale": 0.5},
    "not to one": {"set_alpha_to_one": False, "steps_offset": 1},
    "trained": {"trained_betas": [0.001 * (i + 1) for i in range(250)], "num_train_timesteps": 250},
}


def run_dpm(options: dict[str, Any], steps: int, begin: int = 0) -> Trajectory:
    """Run diffusers' class as ``CogVideoXPipeline`` does: it is handed the x₀ and the timestep of the step before."""
    scheduler = make_scheduler(NAMES[1], options, steps, exact=False)
    generator = torch.Generator("cpu").manual_seed(5)
    sample = torch.randn(SHAPE, generator=generator)
    timesteps = scheduler.timesteps[begin:]
    old, samples = None, []
    with torch.inference_mode():
        for row, timestep in enumerate(timesteps):
            prediction = torch.from_numpy(denoiser(sample.numpy(), float(timestep), row))
            back = timesteps[row - 1] if row else None
            sample, old = scheduler.step(prediction, old, timestep, back, sample, generator=generator)
            sample = sample.float()
            samples.append(sample.double().numpy().copy())
    after = torch.randn(40, generator=generator).numpy()
    return Trajectory([float(timestep) for timestep in timesteps], samples, after)


def check_dpm(options: dict[str, Any], steps: int, begin: int = 0) -> None:
    table = solver_table({"_class_name": NAMES[1], **options}, steps, begin=begin)
    compare(run_table(table), run_dpm(options, steps, begin))
    scheduler = make_scheduler(NAMES[1], options, steps, exact=False)
    assert table.start == pytest.approx(start_of(scheduler, begin), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("case", CASES)
def test_ddim(case: str, steps: int) -> None:
    check_ddim(NAMES[0], CASES[case], steps)


@pytest.mark.parametrize("steps", [*STEPS, 7, 51])
@pytest.mark.parametrize("case", CASES)
def test_dpm(case: str, steps: int) -> None:
    """7 and 51 do not divide 1000: the next timestep of a step is then not the one that is listed next."""
    check_dpm(CASES[case], steps)


@pytest.mark.parametrize("begin", [1, 7, 19])
@pytest.mark.parametrize("case", ["default", "2B"])
def test_video_to_video(case: str, begin: int) -> None:
    check_ddim(NAMES[0], CASES[case], 20, begin=begin)
    check_dpm(CASES[case], 20, begin=begin)


@pytest.mark.parametrize("schedule", ["scaled_linear", "linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("name", NAMES)
def test_levels_with_a_zero_terminal_snr(name: str, schedule: str) -> None:
    """The levels themselves: where β is float32, torch's square roots are off by a last place, which 1 − ᾱ shows."""
    options = {**PUBLISHED, "beta_schedule": schedule, "timestep_spacing": "leading"}
    theirs = make_scheduler(name, options, 1000, exact=False).alphas_cumprod
    table = solver_table({"_class_name": name, **options}, 1000)
    signal = np.flip(table.output[:, 0])  # of x₀ from v
    np.testing.assert_allclose(signal**2, theirs.double().numpy(), atol=5e-7)


def test_noise_is_drawn_twice_but_in_the_first_and_last_step() -> None:
    table = solver_table({"_class_name": NAMES[1], **PUBLISHED}, 10)
    assert table.noise_draws.tolist() == [1, *[2] * 8, 1]
    assert table.history == 2
    assert not solver_table({"_class_name": NAMES[0], **PUBLISHED}, 10).noise_draws.any()


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be(name: str) -> None:
    options = {**PUBLISHED, "prediction_type": "epsilon"}
    with pytest.raises(InputError, match="no finite step at timestep 999"):  # diffusers divides by 0
        solver_table({"_class_name": name, **options}, 10)
    with pytest.raises(InputError, match=r"snr_shift_scale=-1\.0 is not supported"):
        solver_table({"_class_name": name, "snr_shift_scale": -1.0}, 10)
    with pytest.raises(InputError, match=r"eta: CogVideoX.* has no use for it"):
        solver_table({"_class_name": name}, 10, eta=0.5)


def test_one_class_takes_the_others_config() -> None:
    config = {"_class_name": NAMES[0], **PUBLISHED, "snr_shift_scale": 1.0}
    resolved = resolve_scheduler(config, NAMES[1])
    theirs = diffusers.CogVideoXDPMScheduler.from_config(config).config
    assert all(theirs[key] == value for key, value in resolved.items() if key != "_class_name")
    np.testing.assert_array_equal(
        solver_table(resolved, 5).sample, solver_table({**config, "_class_name": NAMES[1]}, 5).sample
    )
