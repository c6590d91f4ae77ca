"""Multistep consistency sampling of latent consistency models (Luo et al. 2023)."""

from __future__ import annotations

import math

import numpy as np

from dit_deploy.errors import InputError
from dit_deploy.sampling.conversion import sample_from
from dit_deploy.sampling.options import BETAS, DYNAMIC_THRESHOLDING, Options, Request
from dit_deploy.sampling.rows import Combination, Row, Rows
from dit_deploy.sampling.schedules import SPACINGS, alphas_cumprod, check_steps
from dit_deploy.sampling.table import SolverTable

__all__ = ["OPTIONS", "build"]

OPTIONS = {
    **BETAS,
    **DYNAMIC_THRESHOLDING,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "original_inference_steps": 50,
    "clip_sample": False,
    "clip_sample_range": 1.0,
    # diffusers reads neither of these two, nor the spacing: a next timestep below 0 does not occur
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "timestep_spacing": "leading",
    "prediction_type": "epsilon",
    "timestep_scaling": 10.0,
    "rescale_betas_zero_snr": False,
}
_SIGMA_DATA = 0.5


def build(options: Options, request: Request) -> SolverTable:
    """Return the table of diffusers' ``LCMScheduler``."""
    prediction_type = options.choice("prediction_type", ("epsilon", "sample", "v_prediction"))
    options.choice("timestep_spacing", SPACINGS)
    clip = options.number("clip_sample_range", 0.0) if options.flag("clip_sample") else math.inf
    scaling = options.number("timestep_scaling")
    steps = request.num_inference_steps
    check_steps(options, steps)
    products = alphas_cumprod(options).tolist()
    original = options.integer("original_inference_steps", 1, len(products))
    if steps > original:
        raise InputError(f"num_inference_steps: {steps} came, at most original_inference_steps = {original} can be run")
    distilled = (np.arange(1, original + 1) * (len(products) // original) - 1)[::-1]
    timesteps = distilled[np.floor(np.linspace(0, original, steps, endpoint=False)).astype(int)].tolist()

    rows = Rows()
    for index in range(request.begin, steps):
        level = products[timesteps[index]]
        scaled = timesteps[index] * scaling
        skip = _SIGMA_DATA**2 / (scaled**2 + _SIGMA_DATA**2)
        out = scaled / math.sqrt(scaled**2 + _SIGMA_DATA**2)
        last = index + 1 == steps
        following = 1.0 if last else products[timesteps[index + 1]]
        signal = math.sqrt(following)
        rows.add(
            Row(
                timestep=timesteps[index],
                step=index - request.begin,
                output=sample_from(prediction_type, math.sqrt(level), math.sqrt(1 - level)),
                clip=clip,
                sample=Combination(sample=signal * skip, noise=math.sqrt(1 - following), outputs=(signal * out,)),
                noise_draws=int(not last),
            )
        )
    first = products[timesteps[request.begin]]
    return rows.table(start=(math.sqrt(first), math.sqrt(1 - first)))
