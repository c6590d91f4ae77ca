"""UniPC (Zhao et al. 2023): a predictor and a corrector that share one evaluation of the denoiser.

A row corrects the sample it was evaluated at, from the corrected sample of the step before (``saved``), and predicts
the next one from the result. Both are one step of the same kind, written over m_0, m_1, … by :func:`_step`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dit_deploy.sampling.conversion import epsilon_from, sample_from
from dit_deploy.sampling.levels import LEVEL_OPTIONS, Levels, unipc_levels
from dit_deploy.sampling.options import BETAS, DYNAMIC_THRESHOLDING, Options, Request
from dit_deploy.sampling.rows import TAKE, Combination, Row, Rows
from dit_deploy.sampling.table import SolverTable

__all__ = ["OPTIONS", "build"]

OPTIONS = {
    **BETAS,
    **DYNAMIC_THRESHOLDING,
    **LEVEL_OPTIONS,
    "solver_order": 2,
    "prediction_type": "epsilon",
    "predict_x0": True,
    "solver_type": "bh2",
    "lower_order_final": True,
    "disable_corrector": [],
    "solver_p": None,
    "sigma_min": None,
    "sigma_max": None,
    "shift_terminal": None,
}
#: the names of DPM-Solver and DEIS, which diffusers reads as bh2
_BH2 = ("bh2", "midpoint", "heun", "logrho")

Floats = NDArray[np.float64]


def build(options: Options, request: Request) -> SolverTable:
    """Return the table of diffusers' ``UniPCMultistepScheduler``."""
    data = options.flag("predict_x0")
    prediction_type = options.choice(
        "prediction_type", ("epsilon", "sample", "v_prediction", *(["flow_prediction"] if data else []))
    )
    solver_order = options.integer("solver_order", 1, 3)
    bh1 = options.choice("solver_type", ("bh1", *_BH2)) == "bh1"
    lower_order_final = options.flag("lower_order_final")
    uncorrected = options.get("disable_corrector")
    if options.get("solver_p") is not None:
        options.refuse("solver_p", "only None, the predictor of UniPC itself")
    if not isinstance(uncorrected, (list, tuple)) or not all(isinstance(step, int) for step in uncorrected):
        options.refuse("disable_corrector", "a list of steps")
    if prediction_type == "flow_prediction" and not options.flag("use_flow_sigmas"):
        options.refuse("prediction_type", "flow_prediction needs use_flow_sigmas=True")
    if options.get("final_sigmas_type") == "zero" and not (data and lower_order_final):
        options.refuse("final_sigmas_type", "predict_x0=False or lower_order_final=False needs sigma_min")
    levels = unipc_levels(options, request)
    convert = sample_from if data else epsilon_from

    rows = Rows()
    order = 0
    for index in range(request.begin, len(levels)):
        corrected = Combination(sample=1.0)
        # diffusers counts the steps of disable_corrector from the start of the whole schedule
        if index > request.begin and index - 1 not in uncorrected:
            decay, outputs = _step(levels, index - 1, order, data, bh1, corrector=True)
            corrected = Combination(saved=decay, outputs=outputs.tolist())
        order = min(solver_order, index - request.begin + 1)
        if lower_order_final:
            order = min(order, len(levels) - index)
        decay, outputs = _step(levels, index, order, data, bh1, corrector=False)
        width = max(len(corrected.outputs), len(outputs))
        rows.add(
            Row(
                timestep=levels.timesteps[index],
                step=index - request.begin,
                output=convert(prediction_type, levels.signal[index], levels.noise[index]),
                sample=Combination(
                    sample=decay * corrected.sample,
                    saved=decay * corrected.saved,
                    outputs=(decay * _padded(corrected.outputs, width) + _padded(outputs, width)).tolist(),
                ),
                saved=corrected if corrected.saved else TAKE,
            )
        )
    return rows.table(start=(levels.signal[request.begin], levels.noise[request.begin]))


def _padded(values: object, width: int) -> Floats:
    array = np.asarray(values, np.float64)
    return np.concatenate([array, np.zeros(width - len(array))])


def _step(levels: Levels, index: int, order: int, data: bool, bh1: bool, *, corrector: bool) -> tuple[float, Floats]:
    """Return the step from level ``index`` to the next one: (factor of the sample, factors of the outputs).

    Args:
        levels: the noise levels.
        index: where the step starts.
        order: how many outputs up to and with that at ``index`` are used.
        data: whether m is x₀ or ε.
        bh1: whether B(h) is h, or exp(h) − 1.
        corrector: the output at ``index + 1`` is there too. Then m_0 is that one, and the others follow it.
    """
    start, h = levels.half_log_snr(index), levels.half_log_snr(index + 1) - levels.half_log_snr(index)
    signal, noise = levels.signal[index + 1], levels.noise[index + 1]
    decay, scale = (noise / levels.noise[index], signal) if data else (signal / levels.signal[index], noise)
    outputs = np.zeros(order + corrector)
    if h == 0.0:  # Karras sigmas that end at sigma_min: the last step goes nowhere
        return decay, outputs
    x = -h if data else h
    weight = x if bh1 else math.expm1(x)
    first = int(corrector)  # where the output at `index` stands
    outputs[first] = -scale * math.expm1(x)
    ratios = np.array([(levels.half_log_snr(index - k) - start) / h for k in range(1, order)] + [1.0] * corrector)
    # the outputs that belong to the ratios: those before `index`, then the one at its end
    places = [first + k for k in range(1, order)] + [0] * corrector
    if len(ratios):
        factors = _solve(ratios, x, weight, corrector)
        for place, factor, ratio in zip(places, factors, ratios, strict=True):
            outputs[place] -= scale * weight * factor / ratio
            outputs[first] += scale * weight * factor / ratio
    return decay, outputs


def _solve(ratios: Floats, x: float, weight: float, corrector: bool) -> Floats:
    """Return the ρ of eq. 12: powers of the ratios times ρ give the moments of the exponential integral."""
    if len(ratios) == 1:
        return np.array([0.5])  # the paper's choice for the lowest order, not the solution
    moments, value, factorial = [], math.expm1(x) / x - 1, 1
    for power in range(1, len(ratios) + 1):
        moments.append(value * factorial / weight)
        factorial *= power + 1
        value = value / x - 1 / factorial
    return np.linalg.solve(np.vander(ratios, increasing=True).T, np.array(moments))
