"""Flow matching (Lipman et al. 2023; Liu et al. 2022): Euler and Heun steps along the predicted velocity."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dit_deploy.sampling.options import Options, Request
from dit_deploy.sampling.rows import TAKE, Combination, Row, Rows
from dit_deploy.sampling.schedules import check_steps
from dit_deploy.sampling.sigmas import SIGMA_SPACINGS, respaced, stretched_to_terminal, time_shifted
from dit_deploy.sampling.table import SolverTable

__all__ = ["HEUN_OPTIONS", "OPTIONS", "build", "build_heun"]

HEUN_OPTIONS: dict[str, Any] = {"num_train_timesteps": 1000, "shift": 1.0}
OPTIONS: dict[str, Any] = {
    **HEUN_OPTIONS,
    **SIGMA_SPACINGS,
    "use_dynamic_shifting": False,
    # these four give mu from the number of image tokens; the pipelines compute it, and so does the caller here
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "invert_sigmas": False,
    "shift_terminal": None,
    "time_shift_type": "exponential",
    "stochastic_sampling": False,
}


def build(options: Options, request: Request) -> SolverTable:
    """Return the table of diffusers' ``FlowMatchEulerDiscreteScheduler``."""
    stochastic = options.flag("stochastic_sampling")
    timesteps, sigmas = _finished(options, _euler_sigmas(options, request), inverted=options.flag("invert_sigmas"))
    rows = Rows()
    for index in range(request.begin, len(timesteps)):
        sigma, target = sigmas[index], sigmas[index + 1]
        if stochastic:  # back to x₀, then noise anew
            step = Combination(sample=1 - target, prediction=-(1 - target) * sigma, noise=target)
        else:
            step = Combination(sample=1.0, prediction=target - sigma)
        rows.add(Row(timestep=timesteps[index], step=index - request.begin, sample=step, noise_draws=int(stochastic)))
    return rows.table(start=(1 - sigmas[request.begin], sigmas[request.begin]))


def build_heun(options: Options, request: Request) -> SolverTable:
    """Return the table of diffusers' ``FlowMatchHeunDiscreteScheduler``: two evaluations a step, one in the last."""
    timesteps, sigmas = _finished(options, _shifted(options, _evenly(options, request)), inverted=False)
    rows = Rows()
    for index in range(request.begin, len(timesteps)):
        dt = sigmas[index + 1] - sigmas[index]
        step = index - request.begin
        rows.add(Row(timestep=timesteps[index], step=step, sample=Combination(sample=1.0, outputs=(dt,)), saved=TAKE))
        if index + 1 < len(timesteps):
            corrected = Combination(saved=1.0, outputs=(dt / 2, dt / 2))
            rows.add(Row(timestep=timesteps[index + 1], step=step, sample=corrected))
    return rows.table(start=(1 - sigmas[request.begin], sigmas[request.begin]))


def _euler_sigmas(options: Options, request: Request) -> NDArray[np.floating]:
    kind = options.choice("time_shift_type", ("exponential", "linear"))
    terminal = options.optional_number("shift_terminal", 0.0)
    spacing = options.exclusive([*SIGMA_SPACINGS])
    # own sigmas are shifted in float32, the scheduler's in float64, as in diffusers
    sigmas = _evenly(options, request) if request.sigmas is None else np.array(request.sigmas, np.float32)
    if options.flag("use_dynamic_shifting"):
        if request.mu is None:
            options.refuse("use_dynamic_shifting", "mu must be given with it")
        sigmas = time_shifted(kind, request.mu, sigmas)
    else:
        sigmas = _shifted(options, sigmas)
    if terminal:
        sigmas = stretched_to_terminal(sigmas, terminal)
    if spacing is not None:
        sigmas = respaced(spacing, sigmas, request.num_inference_steps, options)
    return sigmas


def _evenly(options: Options, request: Request) -> NDArray[np.floating]:
    """Sigmas at even distances between the ends of the training schedule.

    The ends are shifted already, and the caller shifts what comes between them: diffusers shifts twice.
    """
    count = options.integer("num_train_timesteps", 1)
    check_steps(options, request.num_inference_steps)
    ends = np.array([count, 1], np.float32) / np.float32(count)
    if not (options.has("use_dynamic_shifting") and options.flag("use_dynamic_shifting")):
        ends = _shifted(options, ends)
    high, low = (float(end) * count for end in ends)
    return np.linspace(high, low, request.num_inference_steps) / count


def _shifted(options: Options, sigmas: NDArray[np.floating]) -> NDArray[np.floating]:
    shift = options.number("shift", 0.0)
    return np.asarray(shift * sigmas / (1 + (shift - 1) * sigmas), sigmas.dtype)


def _finished(options: Options, sigmas: NDArray[np.floating], *, inverted: bool) -> tuple[list[float], list[float]]:
    """Return timesteps [steps] and sigmas [steps + 1], each a float32 value as in diffusers."""
    values = sigmas.astype(np.float32)
    if inverted:
        values = np.float32(1) - values
    timesteps = values * np.float32(options.integer("num_train_timesteps", 1))
    end = np.float32(1.0 if inverted else 0.0)
    return timesteps.astype(np.float64).tolist(), np.append(values, end).astype(np.float64).tolist()
