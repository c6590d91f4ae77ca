"""Euler and Euler ancestral against diffusers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sampling.reference import STEPS, check

PLAIN, ANCESTRAL = "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "default": (PLAIN, {}),
    "v": (PLAIN, {"prediction_type": "v_prediction"}),
    "sample": (PLAIN, {"prediction_type": "sample"}),
    "original_sample": (PLAIN, {"prediction_type": "original_sample", "timestep_spacing": "trailing"}),
    "leading": (PLAIN, {"timestep_spacing": "leading", "steps_offset": 1}),
    "trailing": (PLAIN, {"timestep_spacing": "trailing", "final_sigmas_type": "sigma_min"}),
    "Karras": (PLAIN, {"use_karras_sigmas": True}),
    "own ends": (PLAIN, {"use_karras_sigmas": True, "sigma_min": 0.05, "sigma_max": 40.0}),
    "exponential": (PLAIN, {"use_exponential_sigmas": True, "timestep_spacing": "leading"}),
    "beta": (PLAIN, {"use_beta_sigmas": True, "beta_schedule": "scaled_linear"}),
    "log-linear": (PLAIN, {"interpolation_type": "log_linear"}),
    "log-linear Karras": (PLAIN, {"interpolation_type": "log_linear", "use_karras_sigmas": True}),
    "continuous": (
        PLAIN,
        {"timestep_type": "continuous", "prediction_type": "v_prediction", "use_karras_sigmas": True},
    ),
    "zero SNR": (
        PLAIN,
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"},
    ),
    "ancestral": (ANCESTRAL, {}),
    "ancestral v": (ANCESTRAL, {"prediction_type": "v_prediction", "timestep_spacing": "leading", "steps_offset": 1}),
    "ancestral trailing": (ANCESTRAL, {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True}),
}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("case", CASES)
def test_against_diffusers(case: str, steps: int) -> None:
    name, options = CASES[case]
    check(name, options, steps)


@pytest.mark.parametrize("begin", [1, 8, 19])
@pytest.mark.parametrize("name", [PLAIN, ANCESTRAL])
def test_image_to_image(name: str, begin: int) -> None:
    check(name, {"timestep_spacing": "leading"}, 20, begin=begin)
