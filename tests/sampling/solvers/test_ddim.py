"""DDIM against diffusers."""

from __future__ import annotations

from typing import Any

import pytest

from dit_deploy.errors import InputError
from dit_deploy.sampling import solver_table
from tests.sampling.reference import STEPS, check

NAME = "DDIMScheduler"
CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "original DiT": {"clip_sample": False},
    "v": {"prediction_type": "v_prediction", "clip_sample": False},
    "sample": {"prediction_type": "sample", "clip_sample": False},
    "clipped v": {"prediction_type": "v_prediction", "clip_sample_range": 0.5},
    "clipped sample": {"prediction_type": "sample", "clip_sample_range": 0.5},
    "not to one": {"set_alpha_to_one": False, "steps_offset": 1, "clip_sample": False},
    "trailing": {"timestep_spacing": "trailing", "clip_sample": False},
    "linspace": {"timestep_spacing": "linspace", "clip_sample": False},
    "scaled": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "trained": {"trained_betas": [0.001 * (i + 1) for i in range(250)], "num_train_timesteps": 250},
}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("case", CASES)
def test_against_diffusers(case: str, steps: int) -> None:
    check(NAME, CASES[case], steps)


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("steps", STEPS)
def test_eta(steps: int, eta: float) -> None:
    check(NAME, {"clip_sample": False}, steps, eta=eta)
    check(NAME, {"clip_sample_range": 2.0, "prediction_type": "v_prediction"}, steps, eta=eta)


@pytest.mark.parametrize("begin", [1, 7, 19])
def test_image_to_image(begin: int) -> None:
    check(NAME, {"clip_sample": False}, 20, begin=begin)


@pytest.mark.parametrize("steps", [4, 20, 50])
def test_zero_terminal_snr(steps: int) -> None:
    options = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "clip_sample": False}
    check(NAME, {**options, "prediction_type": "v_prediction"}, steps)
    check(NAME, {**options, "prediction_type": "sample"}, steps)
    with pytest.raises(InputError, match="no finite step at timestep 999"):  # diffusers divides by 0
        solver_table({"_class_name": NAME, **options}, steps)
