"""The noise levels that DPM-Solver and UniPC step through, in the half log-SNR of Lu et al. 2022."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dit_deploy.sampling.options import Options, Request
from dit_deploy.sampling.schedules import alphas_cumprod, check_steps, edm_sigmas, spaced_timesteps
from dit_deploy.sampling.sigmas import SIGMA_SPACINGS, respaced, stretched_to_terminal, time_shifted, timesteps_of

__all__ = ["LEVEL_OPTIONS", "Levels", "dpm_levels", "unipc_levels"]

Floats = NDArray[np.float64]

#: The options that the two classes share, with diffusers' defaults.
LEVEL_OPTIONS = {
    **SIGMA_SPACINGS,
    "use_flow_sigmas": False,
    "flow_shift": 1.0,
    "timestep_spacing": "linspace",
    "steps_offset": 0,
    "final_sigmas_type": "zero",
    "rescale_betas_zero_snr": False,
    "use_dynamic_shifting": False,
    "time_shift_type": "exponential",
}
#: diffusers' stand-in for a zero terminal SNR
_SMALLEST_PRODUCT = 2.0**-24


@dataclass(frozen=True)
class Levels:
    """Noise levels from high to low; level i belongs to timestep i, the last one is where sampling ends.

    Args:
        timesteps: [steps], whole numbers.
        signal: [steps + 1], sample = signal · x₀ + noise · ε.
        noise: [steps + 1].
    """

    timesteps: list[float]
    signal: list[float]
    noise: list[float]

    def __len__(self) -> int:
        return len(self.timesteps)

    def half_log_snr(self, index: int) -> float:
        """Return λ = log(signal / noise): infinite at the end of sampling where the noise is 0."""
        signal, noise = self.signal[index], self.noise[index]
        if signal <= 0:
            return math.nan  # the table refuses it by timestep
        return math.log(signal / noise) if noise > 0 else math.inf


def dpm_levels(options: Options, request: Request) -> Levels:
    """Return the levels of ``DPMSolverMultistepScheduler``."""
    products = alphas_cumprod(options, smallest=_SMALLEST_PRODUCT)
    schedule = edm_sigmas(products)
    steps = request.num_inference_steps
    spacing = options.exclusive([*SIGMA_SPACINGS, "use_lu_lambdas"])
    check_steps(options, steps)
    if options.flag("use_flow_sigmas"):
        if spacing is not None:
            options.refuse(spacing, "not together with use_flow_sigmas (diffusers makes sigmas above 1 of them)")
        shift = options.number("flow_shift", 0.0)
        if request.mu is not None and options.flag("use_dynamic_shifting"):
            shift = math.exp(request.mu)
        plain = 1.0 - np.linspace(1, 1 / len(products), steps + 1)
        sigmas = np.asarray(_shifted(shift, plain)[::-1][:-1], np.float64)
        timesteps = sigmas * len(products)
    elif spacing is not None:
        sigmas = respaced(spacing, schedule[::-1], steps, options)
        timesteps = timesteps_of(sigmas, schedule)
        if spacing in ("use_karras_sigmas", "use_lu_lambdas") and options.get("beta_schedule") != "squaredcos_cap_v2":
            timesteps = timesteps.round()
    else:
        timesteps = spaced_timesteps(options, steps, last=_last_timestep(options, products), beyond=1)
        sigmas = np.interp(timesteps, np.arange(len(schedule)), schedule)
    return _levels(options, timesteps, sigmas, float(schedule[0]))


def unipc_levels(options: Options, request: Request) -> Levels:
    """Return the levels of ``UniPCMultistepScheduler``."""
    schedule = edm_sigmas(alphas_cumprod(options, smallest=_SMALLEST_PRODUCT))
    steps = request.num_inference_steps
    spacing = options.exclusive([*SIGMA_SPACINGS])
    flow = options.flag("use_flow_sigmas")
    terminal = options.optional_number("shift_terminal", 0.0)
    check_steps(options, steps)
    if terminal and not flow:
        options.refuse("shift_terminal", "only with use_flow_sigmas=True")
    if spacing is not None:
        if flow and spacing != "use_karras_sigmas":
            options.refuse(spacing, "not together with use_flow_sigmas (diffusers makes sigmas above 1 of them)")
        sigmas = respaced(spacing, schedule[::-1], steps, options)
        if flow:
            sigmas = sigmas / (sigmas + 1)
            timesteps = sigmas * len(schedule)
        else:
            timesteps = timesteps_of(sigmas, schedule)
            timesteps = timesteps.round() if spacing == "use_karras_sigmas" else timesteps
        smallest = float(sigmas[-1])
    elif flow:
        sigmas = _unipc_flow_sigmas(options, request, len(schedule), terminal)
        timesteps = sigmas * len(schedule)
        smallest = float(sigmas[-1])
    else:
        timesteps = spaced_timesteps(options, steps, beyond=1)
        sigmas = np.interp(timesteps, np.arange(len(schedule)), schedule)
        smallest = float(schedule[0])
    return _levels(options, timesteps, sigmas, smallest)


def _unipc_flow_sigmas(options: Options, request: Request, count: int, terminal: float | None) -> Floats:
    sigmas: NDArray[np.floating]
    if request.sigmas is None:
        sigmas = np.linspace(1, 1 / count, request.num_inference_steps + 1)[:-1]
    else:
        sigmas = np.array(request.sigmas, np.float64)
    if options.flag("use_dynamic_shifting"):
        sigmas = time_shifted(
            options.choice("time_shift_type", ("exponential", "linear")), _mu(options, request), sigmas
        )
    else:
        sigmas = _shifted(options.number("flow_shift", 0.0), sigmas)
    if terminal:
        sigmas = stretched_to_terminal(sigmas, terminal)
    if abs(sigmas[0] - 1) < 1e-6:
        sigmas[0] -= 1e-6  # the signal must not be 0: its logarithm is taken
    return np.asarray(sigmas, np.float64)


def _mu(options: Options, request: Request) -> float:
    if request.mu is None:
        options.refuse("use_dynamic_shifting", "mu must be given with it")
    return request.mu


def _shifted(shift: float, sigmas: NDArray[np.floating]) -> NDArray[np.floating]:
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def _last_timestep(options: Options, products: NDArray[np.float32]) -> int:
    """Return one past the highest timestep whose λ is not below ``lambda_min_clipped``."""
    half_log_snr = np.log(np.sqrt(products)) - np.log(np.sqrt(1 - products))
    clipped = np.searchsorted(half_log_snr[::-1], np.float32(options.number("lambda_min_clipped")))
    return len(products) - int(clipped)


def _levels(options: Options, timesteps: Floats, sigmas: Floats, smallest: float) -> Levels:
    final = smallest if options.choice("final_sigmas_type", ("zero", "sigma_min")) == "sigma_min" else 0.0
    # diffusers keeps sigmas in float32 and derives everything from those
    values = np.append(sigmas, final).astype(np.float32).astype(np.float64)
    if options.flag("use_flow_sigmas"):
        signal, noise = 1 - values, values
    else:
        signal = 1 / np.sqrt(values**2 + 1)
        noise = values * signal
    return Levels(np.trunc(timesteps).tolist(), signal.tolist(), noise.tolist())
