"""Noise levels over inference steps: Karras, exponential and beta spacing, and the shifts of flow matching."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dit_deploy.errors import InputError
from dit_deploy.sampling.options import Options
from dit_deploy.sampling.special import beta_quantile

__all__ = [
    "SIGMA_SPACINGS",
    "respaced",
    "stretched_to_terminal",
    "time_shifted",
    "timesteps_of",
]

Floats = NDArray[np.float64]

#: The flags that replace the sigmas of the timesteps by a spacing between the largest and smallest one.
SIGMA_SPACINGS = {
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
}
_RHO = 7.0  # Karras et al. 2022, table 1
_BETA = 0.6  # Lee et al. 2024, "Beta Sampling is All You Need"


def respaced(spacing: str, sigmas: NDArray[np.floating], steps: int, options: Options) -> Floats:
    """Return ``steps`` sigmas from the largest to the smallest of ``sigmas`` (given from large to small).

    Args:
        spacing: ``use_karras_sigmas``, ``use_exponential_sigmas``, ``use_beta_sigmas`` or ``use_lu_lambdas``.
        sigmas: their ends count.
        steps: how many.
        options: its ``sigma_min`` and ``sigma_max`` replace the ends where they are there and not None.
    """
    high, low = float(sigmas[0]), float(sigmas[-1])
    if spacing != "use_lu_lambdas":
        high = _own_end(options, "sigma_max", high)
        low = _own_end(options, "sigma_min", low)
    ramp = np.linspace(0, 1, steps)
    if spacing == "use_karras_sigmas":
        first, last = high ** (1 / _RHO), low ** (1 / _RHO)
        return np.asarray((first + ramp * (last - first)) ** _RHO, np.float64)
    if spacing == "use_beta_sigmas":
        return low + beta_quantile(1 - ramp, _BETA, _BETA) * (high - low)
    if low <= 0:
        raise InputError(f"{options.scheduler}: {spacing} needs a smallest sigma above 0, {low} came")
    if spacing == "use_lu_lambdas":  # Lu et al. 2022 with rho 1: uniform in the logarithm, as float32 values give it
        top, bottom = (float(np.log(np.float32(end))) for end in (high, low))
        return np.asarray(np.exp(top + ramp * (bottom - top)), np.float64)
    return np.asarray(np.exp(np.linspace(math.log(high), math.log(low), steps)), np.float64)


def _own_end(options: Options, name: str, default: float) -> float:
    value = options.optional_number(name, 0.0) if options.has(name) else None
    return default if value is None else value


def timesteps_of(sigmas: Floats, schedule: NDArray[np.float32]) -> Floats:
    """Return the fractional training timestep of each sigma, by interpolating the schedule's log sigmas.

    Args:
        sigmas: float64 [steps].
        schedule: float32 [num_train_timesteps], the sigma of each training timestep, rising.
    """
    logarithms = np.log(schedule)
    wanted = np.log(np.maximum(sigmas, 1e-10))
    below = np.cumsum(wanted - logarithms[:, None] >= 0, axis=0).argmax(axis=0).clip(max=len(schedule) - 2)
    low, high = logarithms[below], logarithms[below + 1]
    weight = np.clip((low - wanted) / (low - high), 0, 1)
    return np.asarray((1 - weight) * below + weight * (below + 1), np.float64)


def time_shifted(kind: str, mu: float, sigmas: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return sigmas shifted by a resolution-dependent ``mu`` (Esser et al. 2024, eq. 23), 0 < sigma ≤ 1.

    Args:
        kind: ``exponential`` (mu is the logarithm of the shift) or ``linear`` (mu is the shift).
        mu: see ``kind``.
        sigmas: the type is kept.
    """
    shift = math.exp(mu) if kind == "exponential" else mu
    return np.asarray(shift / (shift + (1 / sigmas - 1)), sigmas.dtype)


def stretched_to_terminal(sigmas: NDArray[np.floating], terminal: float) -> NDArray[np.floating]:
    """Return sigmas stretched about 1 so that the last one is ``terminal`` (as in LTX-Video)."""
    rest = 1 - sigmas
    if rest[-1] == 0:
        raise InputError(f"shift_terminal={terminal}: one step from sigma 1 cannot be stretched; use 2 or more steps")
    return np.asarray(1 - rest / (rest[-1] / (1 - terminal)), sigmas.dtype)
