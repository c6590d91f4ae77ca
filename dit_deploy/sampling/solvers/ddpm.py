"""Ancestral sampling (Ho et al. 2020), with the fixed variances and the learned range of Nichol & Dhariwal 2021."""

from __future__ import annotations

import math

from dit_deploy.sampling.conversion import sample_from
from dit_deploy.sampling.options import BETAS, DYNAMIC_THRESHOLDING, Options, Request
from dit_deploy.sampling.rows import Combination, Row, Rows
from dit_deploy.sampling.schedules import alphas_cumprod, check_steps, levels_at, spaced_timesteps
from dit_deploy.sampling.table import SolverTable

__all__ = ["OPTIONS", "build"]

OPTIONS = {
    **BETAS,
    **DYNAMIC_THRESHOLDING,
    "variance_type": "fixed_small",
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 0,
    "rescale_betas_zero_snr": False,
}

# "learned" is left out: its variance is the network's output itself, whose square root is a term of its own.
_VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned_range")
#: diffusers' floor of the variance, whose logarithm is taken
_SMALLEST_VARIANCE = 1e-20


def build(options: Options, request: Request) -> SolverTable:
    """Return the table of diffusers' ``DDPMScheduler``.

    The original DiT's respacing (``SpacedDiffusion``) is ``timestep_spacing="linspace"``. ``fixed_large_log`` is the
    large variance, as its name and its origin (Glide) say; diffusers takes a square root of the logarithm there,
    which is NaN.
    """
    prediction_type = options.choice("prediction_type", ("epsilon", "sample", "v_prediction"))
    # None, as a config of DPM-Solver has it, leaves the variance as it is computed: that is the small one.
    unnamed = options.get("variance_type") is None
    variance_type = "fixed_small" if unnamed else options.choice("variance_type", _VARIANCES)
    clip = options.number("clip_sample_range", 0.0) if options.flag("clip_sample") else math.inf
    check_steps(options, request.num_inference_steps)
    timesteps = spaced_timesteps(options, request.num_inference_steps).astype(int).tolist()
    levels = levels_at(timesteps, alphas_cumprod(options, ("sigmoid", "laplace")), options)

    rows = Rows()
    for index in range(request.begin, len(timesteps)):
        level, before = levels[index], levels[index + 1] if index + 1 < len(levels) else 1.0
        alpha = level / before
        beta = 1 - alpha
        variance = max((1 - before) / (1 - level) * beta, _SMALLEST_VARIANCE)
        random = timesteps[index] > 0
        learned = random and variance_type == "learned_range"
        fixed = (
            math.sqrt(variance if variance_type.startswith("fixed_small") else beta) if random and not learned else 0.0
        )
        rows.add(
            Row(
                timestep=timesteps[index],
                step=index - request.begin,
                output=sample_from(prediction_type, math.sqrt(level), math.sqrt(1 - level)),
                clip=clip,
                sample=Combination(
                    sample=math.sqrt(alpha) * (1 - before) / (1 - level),
                    noise=fixed,
                    outputs=(math.sqrt(before) * beta / (1 - level),),
                ),
                noise_draws=int(random),
                log_variance=(math.log(variance), math.log(beta)) if learned else (math.nan, math.nan),
            )
        )
    first = levels[request.begin]
    return rows.table(start=(math.sqrt(first), math.sqrt(1 - first)))
