"""Heun's second-order steps over sigma (Karras et al. 2022, algorithm 1): two evaluations a step, one in the last."""

from __future__ import annotations

import math

from dit_deploy.sampling.conversion import derivative_from
from dit_deploy.sampling.edm import edm_levels
from dit_deploy.sampling.options import BETAS, Options, Request
from dit_deploy.sampling.rows import TAKE, Combination, Row, Rows
from dit_deploy.sampling.sigmas import SIGMA_SPACINGS
from dit_deploy.sampling.table import SolverTable

__all__ = ["OPTIONS", "build"]

OPTIONS = {
    **BETAS,
    **SIGMA_SPACINGS,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "epsilon",
    "clip_sample": False,
    "clip_sample_range": 1.0,
    "timestep_spacing": "linspace",
    "steps_offset": 0,
}


def build(options: Options, request: Request) -> SolverTable:
    """Return the table of diffusers' ``HeunDiscreteScheduler``."""
    prediction_type = options.choice("prediction_type", ("epsilon", "sample", "v_prediction"))
    clip = options.number("clip_sample_range", 0.0) if options.flag("clip_sample") else math.inf
    levels = edm_levels(options, request, ("exp",))

    def output(sigma: float) -> tuple[float, float]:
        sample, prediction = derivative_from(prediction_type, sigma)
        # Only x₀ can be clipped; the derivative is as well conditioned at the low sigmas as the prediction itself.
        return (sample, prediction) if clip == math.inf else (1 - sigma * sample, -sigma * prediction)

    rows = Rows()
    for index in range(request.begin, len(levels)):
        sigma, target = levels.sigmas[index], levels.sigmas[index + 1]
        dt = target - sigma
        rows.add(
            Row(
                timestep=levels.timesteps[index],
                step=index - request.begin,
                input_scale=levels.input_scale(index),
                output=output(sigma),
                clip=clip,
                saved=TAKE,
                sample=Combination(sample=1.0, outputs=(dt,))
                if clip == math.inf
                else Combination(sample=1 + dt / sigma, outputs=(-dt / sigma,)),
            )
        )
        if index + 1 == len(levels):
            break
        half = dt / 2
        rows.add(
            Row(
                timestep=levels.timesteps[index + 1],
                step=index - request.begin,
                input_scale=levels.input_scale(index + 1),
                output=output(target),
                clip=clip,
                sample=Combination(saved=1.0, outputs=(half, half))
                if clip == math.inf
                else Combination(sample=half / target, saved=1 + half / sigma, outputs=(-half / target, -half / sigma)),
            )
        )
    return rows.table(start=(1.0, levels.sigmas[request.begin]), initial_noise_scale=levels.initial_noise_scale)
