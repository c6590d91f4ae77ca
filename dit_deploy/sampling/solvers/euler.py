"""Euler steps over sigma (Karras et al. 2022, algorithm 2 without churn), plain and ancestral."""

from __future__ import annotations

import math
from typing import Any

from dit_deploy.sampling.conversion import derivative_from
from dit_deploy.sampling.edm import EdmLevels, edm_levels
from dit_deploy.sampling.options import BETAS, Options, Request
from dit_deploy.sampling.rows import Combination, Row, Rows
from dit_deploy.sampling.sigmas import SIGMA_SPACINGS
from dit_deploy.sampling.table import SolverTable

__all__ = ["ANCESTRAL_OPTIONS", "OPTIONS", "build", "build_ancestral"]

ANCESTRAL_OPTIONS: dict[str, Any] = {
    **BETAS,
    "prediction_type": "epsilon",
    "timestep_spacing": "linspace",
    "steps_offset": 0,
    "rescale_betas_zero_snr": False,
}
OPTIONS: dict[str, Any] = {
    **ANCESTRAL_OPTIONS,
    **SIGMA_SPACINGS,
    "interpolation_type": "linear",
    "sigma_min": None,
    "sigma_max": None,
    "timestep_type": "discrete",
    "final_sigmas_type": "zero",
}


def build(options: Options, request: Request) -> SolverTable:
    """Return the table of diffusers' ``EulerDiscreteScheduler``, without churn, as the pipelines run it."""
    prediction_type = options.choice("prediction_type", ("epsilon", "sample", "original_sample", "v_prediction"))
    continuous = options.choice("timestep_type", ("discrete", "continuous")) == "continuous"
    levels = edm_levels(options, request)
    timesteps = levels.timesteps
    if continuous and prediction_type == "v_prediction":
        timesteps = [0.25 * math.log(sigma) for sigma in levels.sigmas[: len(levels)]]
    return _euler(levels, timesteps, request, prediction_type, ancestral=False)


def build_ancestral(options: Options, request: Request) -> SolverTable:
    """Return the table of diffusers' ``EulerAncestralDiscreteScheduler``."""
    prediction_type = options.choice("prediction_type", ("epsilon", "v_prediction"))
    levels = edm_levels(options, request)
    return _euler(levels, levels.timesteps, request, prediction_type, ancestral=True)


def _euler(
    levels: EdmLevels, timesteps: list[float], request: Request, prediction_type: str, *, ancestral: bool
) -> SolverTable:
    rows = Rows()
    for index in range(request.begin, len(levels)):
        sigma, target = levels.sigmas[index], levels.sigmas[index + 1]
        fresh = 0.0
        if ancestral:
            fresh = math.sqrt(target**2 * (sigma**2 - target**2) / sigma**2)
            target = math.sqrt(target**2 - fresh**2)
        rows.add(
            Row(
                timestep=timesteps[index],
                step=index - request.begin,
                input_scale=levels.input_scale(index),
                output=derivative_from(prediction_type, sigma),
                sample=Combination(sample=1.0, noise=fresh, outputs=(target - sigma,)),
                noise_draws=int(ancestral),
            )
        )
    return rows.table(start=(1.0, levels.sigmas[request.begin]), initial_noise_scale=levels.initial_noise_scale)
