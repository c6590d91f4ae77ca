"""The noise levels that the solvers over sigma step through (Karras et al. 2022): sample = x₀ + sigma · ε."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dit_deploy.sampling.options import Options, Request
from dit_deploy.sampling.schedules import alphas_cumprod, check_steps, edm_sigmas, spaced_timesteps
from dit_deploy.sampling.sigmas import SIGMA_SPACINGS, respaced, timesteps_of

__all__ = ["EdmLevels", "edm_levels"]

#: diffusers' stand-in for a zero terminal SNR, whose sigma would be infinite
_SMALLEST_PRODUCT = 2.0**-24


@dataclass(frozen=True)
class EdmLevels:
    """Noise levels from high to low; level i belongs to timestep i.

    Args:
        timesteps: [steps], fractional training timesteps.
        sigmas: [steps + 1 or more]; a step ends at the next one.
        initial_noise_scale: see :class:`SolverTable`.
    """

    timesteps: list[float]
    sigmas: list[float]
    initial_noise_scale: float

    def __len__(self) -> int:
        return len(self.timesteps)

    def input_scale(self, index: int) -> float:
        """Return what makes the sample of level ``index`` unit variance."""
        return float(1 / np.sqrt(self.sigmas[index] ** 2 + 1))


def edm_levels(options: Options, request: Request, schedules: tuple[str, ...] = ()) -> EdmLevels:
    """Return the levels of the Euler, Euler ancestral, Heun and LMS schedulers.

    Args:
        options: of the class; those that it does not have count as off.
        request: how many steps.
        schedules: beta schedules that the class has beyond the common ones.
    """
    steps = request.num_inference_steps
    check_steps(options, steps)
    schedule = edm_sigmas(alphas_cumprod(options, schedules, smallest=_SMALLEST_PRODUCT))
    timesteps = spaced_timesteps(options, steps, rounded=False)
    sigmas = np.interp(timesteps, np.arange(len(schedule)), schedule)
    if (
        options.has("interpolation_type")
        and options.choice("interpolation_type", ("linear", "log_linear")) == "log_linear"
    ):
        # from end to end of the whole schedule; a value more than steps, so that the last step ends at the smallest
        sigmas = np.geomspace(float(schedule[-1]), float(schedule[0]), steps + 1)
    spacing = options.exclusive([*SIGMA_SPACINGS])
    if spacing is not None:
        sigmas = respaced(spacing, sigmas, steps, options)
        timesteps = timesteps_of(sigmas, schedule)
    final = 0.0
    if options.has("final_sigmas_type") and options.choice("final_sigmas_type", ("zero", "sigma_min")) == "sigma_min":
        final = float(schedule[0])
    # diffusers keeps sigmas and timesteps in float32
    values: NDArray[np.float32] = np.append(sigmas, final).astype(np.float32)
    largest = float(values.max())
    from_zero = options.get("timestep_spacing") == "leading"
    return EdmLevels(
        timesteps=timesteps.astype(np.float32).astype(np.float64).tolist(),
        sigmas=values.astype(np.float64).tolist(),
        initial_noise_scale=float(np.sqrt(largest**2 + 1)) if from_zero else largest,
    )
