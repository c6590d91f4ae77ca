"""Denoising diffusion implicit models (Song et al. 2021), with eta from 0 (deterministic) to 1 (ancestral)."""

from __future__ import annotations

import math

from dit_deploy.sampling.conversion import epsilon_from, sample_from
from dit_deploy.sampling.options import BETAS, DYNAMIC_THRESHOLDING, Options, Request
from dit_deploy.sampling.rows import Combination, Row, Rows
from dit_deploy.sampling.schedules import alphas_cumprod, check_steps, levels_at, spaced_timesteps
from dit_deploy.sampling.table import SolverTable

__all__ = ["OPTIONS", "build"]

OPTIONS = {
    **BETAS,
    **DYNAMIC_THRESHOLDING,
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "rescale_betas_zero_snr": False,
}


def build(options: Options, request: Request) -> SolverTable:
    """Return the table of diffusers' ``DDIMScheduler``.

    The previous timestep is always ``num_train_timesteps // num_inference_steps`` lower, as in diffusers, also where
    the next row's timestep is another one (linspace, trailing).
    """
    prediction_type = options.choice("prediction_type", ("epsilon", "sample", "v_prediction"))
    clip = options.number("clip_sample_range", 0.0) if options.flag("clip_sample") else math.inf
    check_steps(options, request.num_inference_steps)
    timesteps = spaced_timesteps(options, request.num_inference_steps).astype(int).tolist()
    schedule = alphas_cumprod(options)
    levels, products = levels_at(timesteps, schedule, options), schedule.tolist()
    stride = len(products) // request.num_inference_steps
    final = 1.0 if options.flag("set_alpha_to_one") else products[0]

    rows = Rows()
    for index in range(request.begin, len(timesteps)):
        level = levels[index]
        before = products[timesteps[index] - stride] if timesteps[index] >= stride else final
        signal, noise = math.sqrt(level), math.sqrt(1 - level)
        variance = request.eta**2 * (1 - before) / (1 - level) * (1 - level / before)
        # ε stays that of the unclipped prediction, so it is written over sample and prediction, not over m_0
        direction = math.sqrt(max(1 - before - variance, 0.0))
        epsilon = epsilon_from(prediction_type, signal, noise)
        rows.add(
            Row(
                timestep=timesteps[index],
                step=index - request.begin,
                output=sample_from(prediction_type, signal, noise),
                clip=clip,
                sample=Combination(
                    sample=direction * epsilon[0],
                    prediction=direction * epsilon[1],
                    noise=math.sqrt(variance),
                    outputs=(math.sqrt(before),),
                ),
                noise_draws=int(request.eta > 0),
            )
        )
    first = levels[request.begin]
    return rows.table(start=(math.sqrt(first), math.sqrt(1 - first)))
