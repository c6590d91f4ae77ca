"""Discrete noise schedules and timestep spacings, rounded as diffusers rounds them.

The cumulative products are float32 values: a float64 schedule would differ from the model's training and from
diffusers by 1e-7, which the small differences between neighbouring steps magnify.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from dit_deploy.errors import InputError
from dit_deploy.sampling.options import Options

__all__ = ["SPACINGS", "alphas_cumprod", "betas", "check_steps", "edm_sigmas", "levels_at", "spaced_timesteps"]

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

SPACINGS = ("linspace", "leading", "trailing")


def betas(options: Options, schedules: tuple[str, ...] = (), *, rescale: bool = True) -> Singles:
    """Return β_t, float32 [num_train_timesteps], in (0, 1].

    Args:
        options: with ``num_train_timesteps``, ``beta_start``, ``beta_end``, ``beta_schedule``, ``trained_betas``
            and, where the class has it, ``rescale_betas_zero_snr``.
        schedules: names that the class has beyond linear, scaled_linear and squaredcos_cap_v2.
        rescale: whether ``rescale_betas_zero_snr`` is heeded.
    """
    count = options.integer("num_train_timesteps", 1)
    schedule = options.choice("beta_schedule", ("linear", "scaled_linear", "squaredcos_cap_v2", *schedules))
    low, high = options.number("beta_start", 0.0, 1.0), options.number("beta_end", 0.0, 1.0)
    trained = options.get("trained_betas")
    values: Singles
    if trained is not None:
        values = _trained(trained, count, options)
    elif schedule == "linear":
        values = _linspace(low, high, count)
    elif schedule == "scaled_linear":
        values = _linspace(low**0.5, high**0.5, count) ** 2
    elif schedule == "sigmoid":
        sigmoid = 1 / (1 + np.exp(-_linspace(-6.0, 6.0, count)))
        values = (sigmoid * np.float32(high - low) + np.float32(low)).astype(np.float32)
    else:
        values = _betas_for_alpha_bar(_ALPHA_BARS[schedule], count)
    if rescale and options.has("rescale_betas_zero_snr") and options.flag("rescale_betas_zero_snr"):
        values = _rescale_zero_terminal_snr(values)
    return values


def alphas_cumprod(options: Options, schedules: tuple[str, ...] = (), smallest: float = 0.0) -> Singles:
    """Return ᾱ_t = Π (1 − β), float32 [num_train_timesteps].

    Args:
        options: see :func:`betas`.
        schedules: see :func:`betas`.
        smallest: takes the place of the last value where a zero terminal SNR makes that 0; the solvers over
            sigma use 2⁻²⁴, as diffusers does, because sigma would be infinite.
    """
    # torch accumulates float32 products in float64
    products = np.cumprod((1 - betas(options, schedules)).astype(np.float64)).astype(np.float32)
    if smallest and options.has("rescale_betas_zero_snr") and options.flag("rescale_betas_zero_snr"):
        products[-1] = smallest
    return products


def edm_sigmas(products: Singles) -> Singles:
    """Return √((1 − ᾱ) / ᾱ), float32: the noise level of a sample whose signal is scaled to 1 (Karras et al. 2022)."""
    return np.asarray(np.sqrt((1 - products) / products), np.float32)


def spaced_timesteps(
    options: Options, steps: int, *, last: int | None = None, beyond: int = 0, rounded: bool = True
) -> Floats:
    """Return ``steps`` training timesteps from high to low, float64 (whole numbers where ``rounded``).

    The three spacings are those of table 2 of Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps
    are Flawed".

    Args:
        options: with ``num_train_timesteps``, ``timestep_spacing`` and ``steps_offset``.
        steps: how many.
        last: one past the highest timestep; ``num_train_timesteps`` by default.
        beyond: points computed beyond ``steps`` and dropped at the low end: the multistep solvers of diffusers
            take 1, so that the step to sigma 0 has a level of its own.
        rounded: whether linspace is rounded to whole timesteps.
    """
    count = options.integer("num_train_timesteps", 1)
    last = count if last is None else last
    spacing = options.choice("timestep_spacing", SPACINGS)
    if spacing == "linspace":
        points = np.linspace(0, last - 1, steps + beyond)[::-1][:steps]
        # the solvers that do not round keep the timesteps in float32
        return points.round() if rounded else points.astype(np.float32).astype(np.float64)
    if spacing == "leading":
        ratio = last // (steps + beyond)
        return np.arange(steps + beyond, dtype=np.float64)[::-1][:steps] * ratio + options.integer("steps_offset", 0)
    # np.arange yields one point more, −1 after rounding, for some numbers of steps (61 of 1000): it is no timestep
    return np.arange(last, 0, -count / steps).round()[:steps] - 1


def levels_at(timesteps: Sequence[int], products: Singles, options: Options) -> list[float]:
    """Return ᾱ at whole timesteps.

    Raises:
        InputError: ``steps_offset`` moves a timestep past the last one.
    """
    last = len(products) - 1
    if max(timesteps) > last:
        options.refuse("steps_offset", f"timestep {max(timesteps)} is past the last one, {last}; use fewer steps")
    return [float(products[timestep]) for timestep in timesteps]


def check_steps(options: Options, steps: int) -> None:
    """Raise InputError where there are more inference steps than training steps."""
    count = options.integer("num_train_timesteps", 1)
    if steps > count:
        raise InputError(f"num_inference_steps: {steps} came, at most num_train_timesteps = {count} can be run")


def _trained(trained: object, count: int, options: Options) -> Singles:
    """Return ``trained_betas`` as an array; refuse what is no list of ``count`` numbers of 0 to 1."""
    listed = trained.tolist() if isinstance(trained, np.ndarray) else trained
    if isinstance(listed, (list, tuple)) and len(listed) == count and all(map(_is_beta, listed)):
        return np.asarray(listed, np.float32)
    options.refuse("trained_betas", f"a list of num_train_timesteps = {count} numbers of 0 to 1")


def _is_beta(value: object) -> bool:
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    return number and bool(0 <= value <= 1)  # type: ignore[operator]


def _linspace(low: float, high: float, count: int) -> Singles:
    """torch.linspace in float32: from both ends to the middle, each point one fused multiply-add."""
    first, end = float(np.float32(low)), float(np.float32(high))
    if count == 1:
        return np.array([first], np.float32)
    step = float((np.float32(high) - np.float32(low)) / np.float32(count - 1))
    index = np.arange(count, dtype=np.float64)
    return np.where(index < count // 2, first + step * index, end - step * (count - 1 - index)).astype(np.float32)


def _laplace(t: float) -> float:
    decay = -0.5 * math.copysign(1, 0.5 - t) * math.log(1 - 2 * math.fabs(0.5 - t) + 1e-6)
    snr = math.exp(decay)
    return math.sqrt(snr / (1 + snr))


_ALPHA_BARS: dict[str, Callable[[float], float]] = {
    "squaredcos_cap_v2": lambda t: math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2,
    "exp": lambda t: math.exp(t * -12.0),
    "laplace": _laplace,
}


def _betas_for_alpha_bar(alpha_bar: Callable[[float], float], count: int) -> Singles:
    """β from a continuous ᾱ(t), t in 0 … 1, at most 0.999 (Nichol & Dhariwal 2021)."""
    values = [1 - alpha_bar((i + 1) / count) / alpha_bar(i / count) for i in range(count)]
    return np.minimum(values, 0.999).astype(np.float32)


def _rescale_zero_terminal_snr(values: Singles) -> Singles:
    """Shift and scale √ᾱ so that the last one is 0 and the first one stays (Lin et al. 2023, algorithm 1)."""
    roots = np.sqrt(np.cumprod((1 - values).astype(np.float64)).astype(np.float32))
    first, last = roots[0], roots[-1]
    roots = (roots - last) * (first / (first - last))
    squares = roots**2
    alphas = np.concatenate([squares[:1], squares[1:] / squares[:-1]])
    return 1 - alphas
