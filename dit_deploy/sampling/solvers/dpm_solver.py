"""Multistep DPM-Solver and DPM-Solver++ (Lu et al. 2022), deterministic and SDE, orders 1 to 3.

All four variants are one formula. With λ = log(signal / noise), h the step in λ, and m the predicted x₀ (++) or ε:

    new = decay · sample + φ₁ m_0 + c₁ D₁ + c₂ D₂ + deviation · noise

where D₁ and D₂ are divided differences of m over λ. Written out over m_0, m_1, m_2 the divisions by h cancel, so
that the coefficients stay finite for the empty last step of Karras sigmas that end at sigma_min.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dit_deploy.sampling.conversion import epsilon_from, sample_from
from dit_deploy.sampling.levels import LEVEL_OPTIONS, Levels, dpm_levels
from dit_deploy.sampling.options import BETAS, DYNAMIC_THRESHOLDING, Options, Request
from dit_deploy.sampling.rows import Combination, Row, Rows
from dit_deploy.sampling.table import SolverTable

__all__ = ["OPTIONS", "build"]

OPTIONS = {
    **BETAS,
    **DYNAMIC_THRESHOLDING,
    **LEVEL_OPTIONS,
    "solver_order": 2,
    "prediction_type": "epsilon",
    "algorithm_type": "dpmsolver++",
    "solver_type": "midpoint",
    "lower_order_final": True,
    "euler_at_final": False,
    "use_lu_lambdas": False,
    "lambda_min_clipped": -math.inf,
    # A denoiser with a learned variance hands over its prediction alone here, so this changes nothing.
    "variance_type": None,
}
#: the names of UniPC and DEIS, which diffusers reads as midpoint
_MIDPOINT = ("midpoint", "logrho", "bh1", "bh2")


def build(options: Options, request: Request) -> SolverTable:
    """Return the table of diffusers' ``DPMSolverMultistepScheduler``."""
    algorithm = options.choice("algorithm_type", tuple(_ALGORITHMS))
    variant = _ALGORITHMS[algorithm]
    plus = variant.signal_scaled
    prediction_type = options.choice(
        "prediction_type", ("epsilon", "sample", "v_prediction", *(["flow_prediction"] if plus else []))
    )
    solver_order = options.integer("solver_order", 1, 2 if algorithm == "sde-dpmsolver" else 3)
    heun = options.choice("solver_type", (*_MIDPOINT, "heun")) == "heun"
    if prediction_type == "flow_prediction" and not options.flag("use_flow_sigmas"):
        options.refuse("prediction_type", "flow_prediction needs use_flow_sigmas=True")
    if not plus and options.get("final_sigmas_type") == "zero":
        options.refuse("final_sigmas_type", f"algorithm_type={algorithm!r} needs sigma_min")
    options.choice("time_shift_type", ("exponential",))
    levels = dpm_levels(options, request)
    convert = sample_from if plus else epsilon_from

    rows = Rows()
    for index in range(request.begin, len(levels)):
        order = min(solver_order, index - request.begin + 1, _order_limit(options, index, len(levels)))
        rows.add(
            Row(
                timestep=levels.timesteps[index],
                step=index - request.begin,
                output=convert(prediction_type, levels.signal[index], levels.noise[index]),
                sample=_combination(levels, index, order, variant, heun),
                noise_draws=int(variant.stochastic),
            )
        )
    return rows.table(start=(levels.signal[request.begin], levels.noise[request.begin]))


def _order_limit(options: Options, index: int, steps: int) -> int:
    """The order that diffusers allows near the end; it counts all steps, also those that ``begin`` leaves out."""
    few = options.flag("lower_order_final") and steps < 15
    left = steps - index
    if left == 1 and (few or options.flag("euler_at_final") or options.get("final_sigmas_type") == "zero"):
        return 1
    return 2 if left == 2 and few else 3


@dataclass(frozen=True)
class _Variant:
    """What sets the four algorithms apart.

    Args:
        exponent: x / h, where exp(x) is what the integral over λ leaves.
        signal_scaled: whether m multiplies the next level's signal (x₀) or noise (ε), and the sample the other ratio.
        weight: the factor before it.
        stochastic: whether noise is added.
        curvature: the sign before x² / 2 in the third-order term. Diffusers has a plus for sde-dpmsolver++, where
            the other variants, and the expansion, have a minus; followed so that the pictures agree.
    """

    exponent: float
    signal_scaled: bool
    weight: float = -1.0
    stochastic: bool = False
    curvature: float = -1.0


_ALGORITHMS = {
    "dpmsolver++": _Variant(exponent=-1.0, signal_scaled=True),
    "sde-dpmsolver++": _Variant(exponent=-2.0, signal_scaled=True, stochastic=True, curvature=1.0),
    "dpmsolver": _Variant(exponent=1.0, signal_scaled=False),
    "sde-dpmsolver": _Variant(exponent=1.0, signal_scaled=False, weight=-2.0, stochastic=True),
}


def _combination(levels: Levels, index: int, order: int, variant: _Variant, heun: bool) -> Combination:
    """Return the step from level ``index`` to the next one over the last ``order`` outputs."""
    h = _gap(levels, index)
    x = variant.exponent * h
    signal, noise = levels.signal[index + 1], levels.noise[index + 1]
    if variant.signal_scaled:
        scale, decay = variant.weight * signal, noise / levels.noise[index]
    else:
        scale, decay = variant.weight * noise, signal / levels.signal[index]
    deviation = 0.0
    if variant.stochastic and variant.signal_scaled:
        decay *= math.exp(-h)
        deviation = noise * math.sqrt(-math.expm1(-2 * h))
    elif variant.stochastic:
        deviation = noise * math.sqrt(math.expm1(2 * h))

    # φ₁, and h times the factor of D₁ / h: all that remains finite at h = 0
    outputs = np.array([scale * math.expm1(x), 0.0, 0.0])
    if order > 1:
        slope = np.array([1.0, -1.0, 0.0]) / _gap(levels, index - 1)
        linear = scale * (math.expm1(x) - x) / variant.exponent
        if order == 2:
            outputs += slope * (linear if heun else 0.5 * scale * h * math.expm1(x))
        else:
            before, earlier = _gap(levels, index - 1), _gap(levels, index - 2)
            bend = (slope - np.array([0.0, 1.0, -1.0]) / earlier) / (before + earlier)
            quadratic = scale * (math.expm1(x) - x + variant.curvature * x**2 / 2) / variant.exponent**2
            outputs += linear * (slope + before * bend) + quadratic * bend
    return Combination(sample=decay, noise=deviation, outputs=outputs[:order].tolist())


def _gap(levels: Levels, index: int) -> float:
    """The step in λ from level ``index`` to the next one."""
    return levels.half_log_snr(index + 1) - levels.half_log_snr(index)
