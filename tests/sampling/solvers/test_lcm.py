"""LCM against diffusers."""

from __future__ import annotations

from typing import Any

import pytest

from dit_deploy.errors import InputError
from dit_deploy.sampling import solver_table
from tests.sampling.reference import STEPS, check, make_scheduler

NAME = "LCMScheduler"
#: 250 steps need as many steps in the distilled schedule
LONG = {"original_inference_steps": 250}
CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "long": LONG,
    "v": {"prediction_type": "v_prediction", **LONG},
    "sample": {"prediction_type": "sample", **LONG},
    "clipped": {"clip_sample": True, "clip_sample_range": 1.2, "timestep_scaling": 3.0, **LONG},
    "zero SNR": {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", **LONG},
}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("case", CASES)
def test_against_diffusers(case: str, steps: int) -> None:
    if CASES[case].get("original_inference_steps", 50) < steps:
        with pytest.raises(ValueError, match="smaller than `num_inference_steps`"):
            make_scheduler(NAME, CASES[case], steps, exact=False)
        with pytest.raises(InputError, match="at most original_inference_steps = 50"):
            solver_table({"_class_name": NAME, **CASES[case]}, steps)
        return
    check(NAME, CASES[case], steps)


@pytest.mark.parametrize("begin", [1, 3])
def test_image_to_image(begin: int) -> None:
    check(NAME, {}, 4, begin=begin)


def test_the_last_step_draws_nothing() -> None:
    assert solver_table({"_class_name": NAME}, 4).noise_draws.tolist() == [1, 1, 1, 0]
