"""The front door: defaults, configs as diffusers carries them over, image-to-image, and what is refused."""

from __future__ import annotations

import inspect
import json
import math
from typing import Any

import numpy as np
import pytest

from dit_deploy.errors import InputError
from dit_deploy.sampling import SCHEDULERS, image_to_image_begin, resolve_scheduler, solver_table
from dit_deploy.sampling.schedulers import SHORT_NAMES

diffusers = pytest.importorskip("diffusers")

DIT = {  # facebook/DiT-XL-2-256
    "_class_name": "DDIMScheduler",
    "_diffusers_version": "0.12.0",
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "trained_betas": None,
}
BASES: dict[str, dict[str, Any]] = {
    "DiT": DIT,
    "DDPM": {"_class_name": "DDPMScheduler", "variance_type": "learned_range", "clip_sample_range": 2.0},
    "DPM": {
        "_class_name": "DPMSolverMultistepScheduler",
        "algorithm_type": "sde-dpmsolver++",
        "solver_type": "heun",
        "use_karras_sigmas": True,
        "timestep_spacing": "leading",
    },
    "UniPC": {"_class_name": "UniPCMultistepScheduler", "solver_order": 3, "solver_type": "bh1", "sigma_min": 0.1},
    "Euler": {"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True, "sigma_min": 0.1, "sigma_max": 20.0},
    "LCM": {"_class_name": "LCMScheduler", "original_inference_steps": 40, "timestep_scaling": 5.0},
    "PNDM": {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "steps_offset": 1},
    "flow": {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0, "use_karras_sigmas": True},
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_options_and_defaults_are_those_of_the_class(name: str) -> None:
    parameters = inspect.signature(getattr(diffusers, name).__init__).parameters
    expected = {key: parameter.default for key, parameter in parameters.items() if key != "self"}
    assert SCHEDULERS[name].options == expected
    # what a class reads through hasattr is no parameter of it
    assert not set(SCHEDULERS[name].leaking) & set(expected)


def test_compatible_classes_are_those_of_diffusers() -> None:
    for name, solver in SCHEDULERS.items():
        assert solver.compatible == bool(getattr(diffusers, name)._compatibles), name


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if SCHEDULERS[name].compatible])
def test_options_of_every_compatible_class_may_be_carried_along(name: str) -> None:
    foreign: dict[str, Any] = {}
    for other in diffusers.schedulers.scheduling_utils.KarrasDiffusionSchedulers:
        cls = getattr(diffusers, other.name, None)
        if cls is not None and hasattr(cls, "from_config"):
            parameters = inspect.signature(cls.__init__).parameters.values()
            foreign.update({p.name: p.default for p in parameters if p.name not in ("self", "args", "kwargs")})
    carried = {key: value for key, value in foreign.items() if key not in SCHEDULERS[name].options}
    ours, plain = solver_table({"_class_name": name, **carried}, 4), solver_table({"_class_name": name}, 4)
    np.testing.assert_array_equal(ours.sample, plain.sample)


@pytest.mark.parametrize("target", SHORT_NAMES)
@pytest.mark.parametrize("live", [False, True], ids=["json", "live"])
@pytest.mark.parametrize("base", BASES)
def test_a_name_is_from_config(base: str, live: bool, target: str) -> None:
    """``live``: the config of a scheduler object, which knows which of its values are defaults."""
    scheduler = getattr(diffusers, BASES[base]["_class_name"]).from_config(BASES[base])
    config = dict(scheduler.config) if live else BASES[base]
    cls = getattr(diffusers, SHORT_NAMES[target])
    theirs = cls.from_config(scheduler.config if live else dict(config)).config
    resolved = resolve_scheduler(config, target)
    defaults = SCHEDULERS[SHORT_NAMES[target]].options
    assert resolved.pop("_class_name") == cls.__name__
    ours = {**defaults, **resolved}
    if target.startswith("dpmsolver++"):
        assert ours.pop("algorithm_type") == ("sde-dpmsolver++" if target.endswith("sde") else "dpmsolver++")
    for key in set(defaults) & set(ours):
        expected = theirs[key]
        if key == "solver_type":  # diffusers rewrites the other classes' names, which the builders read so too
            expected = {("bh2", "midpoint"): "bh2", ("bh1", "midpoint"): "bh1", ("heun", "bh2"): "heun"}.get(
                (ours[key], expected), expected
            )
        assert ours[key] == expected, key
    assert set(ours) <= set(defaults) | {"sigma_min", "sigma_max"}


def test_ends_of_another_class_leak() -> None:
    """Diffusers' Karras sigmas take ``sigma_min`` from a config of Euler, whatever class reads it."""
    base = BASES["Euler"]
    for target in ("dpmsolver++", "heun", "euler"):
        theirs = getattr(diffusers, SHORT_NAMES[target]).from_config(base)
        theirs.set_timesteps(8)
        assert float(theirs.sigmas[0]) == pytest.approx(20.0)
        table = solver_table(resolve_scheduler(base, target), 8)
        np.testing.assert_allclose(table.timesteps, theirs.timesteps.numpy(), rtol=1e-6)


def test_none_and_mappings() -> None:
    assert resolve_scheduler(DIT, None) == DIT
    assert resolve_scheduler(DIT, BASES["flow"]) == BASES["flow"]
    assert resolve_scheduler(DIT, "EulerDiscreteScheduler") == resolve_scheduler(DIT, "euler")


@pytest.mark.parametrize("name", ["eulr", "", "DEISMultistepScheduler", 3])
def test_an_unknown_scheduler_lists_the_known(name: Any) -> None:
    with pytest.raises(InputError, match=r"is not known; expected one of ddpm, ddim, .*flow-heun, .*PNDMScheduler"):
        resolve_scheduler(DIT, name)


@pytest.mark.parametrize("names", [5, None, "clip_sample", [["clip_sample"]]])
def test_default_names_that_are_none(names: Any) -> None:
    with pytest.raises(InputError, match=r"_use_default_values=.* came, a list of options' names was expected"):
        resolve_scheduler({**DIT, "_use_default_values": names}, "euler")


@pytest.mark.parametrize("config", [{}, {"_class_name": "KDPM2DiscreteScheduler"}, {"_class_name": ["DDIMScheduler"]}])
def test_an_unknown_class_lists_the_known(config: dict[str, Any]) -> None:
    for call in (
        lambda: solver_table(config, 4),
        lambda: resolve_scheduler(DIT, config),
        lambda: resolve_scheduler(config, "ddim"),
    ):
        with pytest.raises(InputError, match=r"_class_name=.* is not supported; supported: DDPMScheduler"):
            call()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_no_option_is_ignored(name: str) -> None:
    with pytest.raises(InputError, match=rf"{name}: unknown option clip_sampel=False; it has"):
        solver_table({"_class_name": name, "clip_sampel": False}, 4)
    options = SCHEDULERS[name].options
    if "thresholding" in options:
        with pytest.raises(InputError, match="thresholding=True is not supported: dynamic thresholding"):
            solver_table({"_class_name": name, "thresholding": True}, 4)
    if "prediction_type" in options:
        with pytest.raises(InputError, match="prediction_type='score' is not supported: one of epsilon"):
            solver_table({"_class_name": name, "prediction_type": "score"}, 4)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("steps", [0, -3, 2.0, "4", None, True])
def test_bad_numbers_of_steps(name: str, steps: Any) -> None:
    with pytest.raises(InputError, match=r"num_inference_steps: .* an integer of 1 or more"):
        solver_table({"_class_name": name}, steps)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_more_steps_than_training_steps(name: str) -> None:
    with pytest.raises(InputError, match="num_inference_steps: 1001 came, at most num_train_timesteps = 1000"):
        solver_table({"_class_name": name}, 1001)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"begin": 4}, "begin: 4 came, fewer than num_inference_steps = 4"),
        ({"begin": -1}, "begin: -1"),
        ({"eta": 1.5}, "eta: 1.5 came, a number of 0 to 1"),
        ({"eta": math.nan}, "eta: nan"),
        ({"eta": "1"}, "eta: '1'"),
        ({"mu": 1.0}, "mu: DDIMScheduler has no use for it; these have: DPMSolver"),
        ({"sigmas": [1.0, 0.5, 0.3, 0.2]}, "sigmas: DDIMScheduler has no use for it; these have: UniPC"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        solver_table(DIT, 4, **arguments)


def test_eta_is_ddims_alone() -> None:
    with pytest.raises(InputError, match="eta: EulerDiscreteScheduler has no use for it; these have: DDIMScheduler"):
        solver_table({"_class_name": "EulerDiscreteScheduler"}, 4, eta=0.5)
    with pytest.raises(InputError, match="mu: inf came, a finite number"):
        solver_table(BASES["flow"], 4, mu=math.inf)


@pytest.mark.parametrize("steps", [1, 3, 10, 50])
@pytest.mark.parametrize("strength", [0.05, 0.3, 0.5, 0.75, 0.999, 1.0])
def test_image_to_image_begin_is_diffusers(steps: int, strength: float) -> None:
    pipeline = pytest.importorskip("diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img")

    class Pipeline:
        scheduler = diffusers.DDIMScheduler()

    Pipeline.scheduler.set_timesteps(steps)
    timesteps, left = pipeline.StableDiffusionImg2ImgPipeline.get_timesteps(Pipeline(), steps, strength, "cpu")
    if left == 0:
        with pytest.raises(InputError, match="leaves none to run"):
            image_to_image_begin(steps, strength)
    else:
        assert image_to_image_begin(steps, strength) == steps - left
        table = solver_table({"_class_name": "DDIMScheduler"}, steps, begin=steps - left)
        np.testing.assert_array_equal(table.timesteps, timesteps.numpy())


@pytest.mark.parametrize("steps", [1, 3, 7, 10, 50])
@pytest.mark.parametrize("strength", [0.05, 0.3, 0.5, 0.6, 0.75, 0.999, 1.0])
def test_flow_models_round_the_steps_up(steps: int, strength: float) -> None:
    pipeline = pytest.importorskip("diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3_img2img")

    class Pipeline:
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler()

    Pipeline.scheduler.set_timesteps(steps)
    timesteps, left = pipeline.StableDiffusion3Img2ImgPipeline.get_timesteps(Pipeline(), steps, strength, "cpu")
    assert image_to_image_begin(steps, strength, round_up=True) == steps - left
    table = solver_table({"_class_name": "FlowMatchEulerDiscreteScheduler"}, steps, begin=steps - left)
    np.testing.assert_allclose(table.timesteps, timesteps.numpy(), rtol=1e-6)


def test_no_strength_leaves_no_step() -> None:
    for round_up in (False, True):
        with pytest.raises(InputError, match="leaves none to run"):
            image_to_image_begin(10, 0.0, round_up=round_up)


@pytest.mark.parametrize("strength", [-0.1, 1.1, math.nan, "1"])
def test_bad_strength(strength: Any) -> None:
    with pytest.raises(InputError, match="strength: "):
        image_to_image_begin(10, strength)


def test_a_config_from_a_file() -> None:
    # a lambda_min_clipped of minus infinity is not JSON, but Python writes and reads it
    config = json.loads(diffusers.DPMSolverMultistepScheduler(lambda_min_clipped=-math.inf).to_json_string())
    assert len(solver_table(config, 10)) == 10


@pytest.mark.parametrize(
    ("config", "steps"),
    [
        ({"_class_name": "DDIMScheduler", "steps_offset": 2**70}, 10),
        ({"_class_name": "EulerDiscreteScheduler", "use_exponential_sigmas": True, "sigma_max": 0}, 10),
        (
            {
                "_class_name": "EulerAncestralDiscreteScheduler",
                "rescale_betas_zero_snr": True,
                "timestep_spacing": "trailing",
            },
            1000,
        ),
        ({"_class_name": "UniPCMultistepScheduler", "solver_order": 3}, 1000),
    ],
)
def test_levels_that_are_none_are_an_input_error(config: dict[str, Any], steps: int) -> None:
    with pytest.raises(InputError, match=config["_class_name"]) as caught:
        solver_table(config, steps)
    assert "\n" not in str(caught.value)
