"""Heun against diffusers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sampling.reference import STEPS, check

NAME = "HeunDiscreteScheduler"
# Clipping with the default spacing is left out: two steps go from sigma 16 to 0.03 at once, and the clipped
# derivative, divided by the lower one, magnifies the float32 rounding of the sample itself several hundred times.
CLIPPED = {"clip_sample": True, "clip_sample_range": 1.5, "timestep_spacing": "trailing"}
CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "v": {"prediction_type": "v_prediction"},
    "sample": {"prediction_type": "sample"},
    "clipped": CLIPPED,
    "clipped v": {**CLIPPED, "prediction_type": "v_prediction"},
    "clipped sample": {**CLIPPED, "prediction_type": "sample"},
    "leading": {"timestep_spacing": "leading", "steps_offset": 1},
    "Karras": {"use_karras_sigmas": True, "beta_schedule": "scaled_linear"},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True, "timestep_spacing": "trailing"},
    "exp": {"beta_schedule": "exp"},
}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("case", CASES)
def test_against_diffusers(case: str, steps: int) -> None:
    check(NAME, CASES[case], steps)


@pytest.mark.parametrize("begin", [1, 8, 19])
def test_image_to_image(begin: int) -> None:
    check(NAME, {}, 20, begin=begin)
    check(NAME, CLIPPED, 20, begin=begin)
