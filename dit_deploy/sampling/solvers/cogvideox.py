"""The two samplers of CogVideoX (Yang et al. 2024, arXiv 2408.06072): DDIM and an SDE DPM-Solver++ of order 2.

Both step over the noise schedule of latent diffusion, moved to more noise: ᾱ becomes ᾱ / (s + (1 − s) ᾱ), which
divides the signal-to-noise ratio by s. Neither clips, whatever the config's ``clip_sample`` says, as in diffusers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dit_deploy.sampling.conversion import sample_from
from dit_deploy.sampling.options import BETAS, Options, Request
from dit_deploy.sampling.rows import Combination, Row, Rows
from dit_deploy.sampling.schedules import betas, check_steps, levels_at, spaced_timesteps
from dit_deploy.sampling.table import SolverTable

__all__ = ["OPTIONS", "build_ddim", "build_dpm"]

OPTIONS = {
    **BETAS,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "sample_max_value": 1.0,
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "rescale_betas_zero_snr": False,
    "snr_shift_scale": 3.0,
}


def build_ddim(options: Options, request: Request) -> SolverTable:
    """Return the table of diffusers' ``CogVideoXDDIMScheduler``, which is deterministic."""
    rows = Rows()
    steps = list(_steps(options, request))
    for step in steps:
        kept = math.sqrt((1 - step.next) / (1 - step.level))
        rows.add(
            Row(
                timestep=step.timestep,
                step=step.index,
                output=step.output,
                sample=Combination(sample=kept, outputs=(math.sqrt(step.next) - math.sqrt(step.level) * kept,)),
            )
        )
    return rows.table(start=steps[0].start)


def build_dpm(options: Options, request: Request) -> SolverTable:
    """Return the table of diffusers' ``CogVideoXDPMScheduler``.

    With λ half the logarithm of the signal-to-noise ratio and h its step, the new sample is
    decay · sample + weight · D + deviation · noise, where D extrapolates the predicted x₀ over the last two rows. The
    first row, and a row whose next timestep lies below 0, take the predicted x₀ itself. The others draw noise twice
    and use the second draw: diffusers makes the step of order 1 too, and throws it away.
    """
    rows = Rows()
    steps = list(_steps(options, request))
    before = None
    for step in steps:
        h = _half_log_snr(step.next) - _half_log_snr(step.level)
        weight = -math.expm1(-2 * h) * math.sqrt(step.next)
        outputs: tuple[float, ...] = (weight,)
        second = before is not None and not step.last
        if second:
            assert before is not None
            # h over twice the last step; 0 after a step from pure noise
            slope = h / (2 * (_half_log_snr(step.level) - _half_log_snr(before.level)))
            outputs = (weight * (1 + slope), -weight * slope)
        rows.add(
            Row(
                timestep=step.timestep,
                step=step.index,
                output=step.output,
                sample=Combination(
                    sample=math.sqrt((1 - step.next) / (1 - step.level)) * math.exp(-h),
                    noise=math.sqrt(1 - step.next) * math.sqrt(-math.expm1(-2 * h)),
                    outputs=outputs,
                ),
                noise_draws=2 if second else 1,
            )
        )
        before = step
    return rows.table(start=steps[0].start)


@dataclass(frozen=True)
class _Step:
    """One step, from ᾱ = ``level`` to ᾱ = ``next``; ``last`` where the timestep of ``next`` lies below 0."""

    index: int
    timestep: int
    level: float
    next: float
    last: bool
    output: tuple[float, float]

    @property
    def start(self) -> tuple[float, float]:
        return math.sqrt(self.level), math.sqrt(1 - self.level)


def _steps(options: Options, request: Request) -> Iterator[_Step]:
    """Yield the steps that are run.

    The next timestep is always ``num_train_timesteps // num_inference_steps`` lower, as in diffusers, also where the
    next row's timestep is another one (linspace, trailing).
    """
    prediction_type = options.choice("prediction_type", ("epsilon", "sample", "v_prediction"))
    check_steps(options, request.num_inference_steps)
    products = _products(options)
    final = 1.0 if options.flag("set_alpha_to_one") else float(products[0])
    timesteps = spaced_timesteps(options, request.num_inference_steps).astype(int).tolist()
    levels = levels_at(timesteps, products, options)
    stride = len(products) // request.num_inference_steps
    for index in range(request.begin, len(timesteps)):
        level, following = levels[index], timesteps[index] - stride
        yield _Step(
            index=index - request.begin,
            timestep=timesteps[index],
            level=level,
            next=float(products[following]) if following >= 0 else final,
            last=following < 0,
            output=sample_from(prediction_type, math.sqrt(level), math.sqrt(1 - level)),
        )


def _products(options: Options) -> NDArray[np.floating]:
    """Return ᾱ, in the precision of the class: float64 where ``scaled_linear`` makes β, else float32."""
    scaled = options.get("trained_betas") is None and options.get("beta_schedule") == "scaled_linear"
    steps: NDArray[np.floating] = betas(options, rescale=False)
    if scaled:
        low, high = (options.number(f"beta_{end}", 0.0, 1.0) for end in ("start", "end"))
        steps = np.linspace(low**0.5, high**0.5, len(steps)) ** 2
    products = np.cumprod((1 - steps).astype(np.float64)).astype(steps.dtype)
    scale = options.number("snr_shift_scale", 0.0)
    products = products / (scale + (1 - scale) * products)
    if options.flag("rescale_betas_zero_snr"):
        roots = np.sqrt(products)
        products = ((roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))) ** 2
    return products


def _half_log_snr(level: float) -> float:
    """Return λ = ½ log(ᾱ / (1 − ᾱ)), infinite where there is no noise, or nothing but noise."""
    if level <= 0.0:
        return -math.inf
    return math.inf if level >= 1.0 else 0.5 * math.log(level / (1 - level))
