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
_ALGORITHMS = ("dpmsolver++", "sde-dpmsolver++", "dpmsolver", "sde-dpmsolver")
#: the names of UniPC and DEIS, which diffusers reads as midpoint
_MIDPOINT = ("midpoint", "logrho", "bh1", "bh2")


def build(options: Options, request: Request) -> SolverTable:
    """Return the table of diffusers' ``DPMSolverMultistepScheduler``."""
    algorithm = options.choice("algorithm_type", _ALGORITHMS)
    plus = algorithm.endswith("++")
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
        step = _Step(levels, index, algorithm, heun)
        rows.add(
            Row(
                timestep=levels.timesteps[index],
                step=index - request.begin,
                output=convert(prediction_type, levels.signal[index], levels.noise[index]),
                sample=step.combination(order),
                noise_draws=int(step.stochastic),
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
class _Step:
    levels: Levels
    index: int
    algorithm: str
    heun: bool

    @property
    def stochastic(self) -> bool:
        return self.algorithm.startswith("sde")

    def combination(self, order: int) -> Combination:
        levels, index = self.levels, self.index
        h = levels.half_log_snr(index + 1) - levels.half_log_snr(index)
        noise_ratio = levels.noise[index + 1] / levels.noise[index]
        signal_ratio = levels.signal[index + 1] / levels.signal[index]
        deviation = 0.0
        # x: the exponent of the integral over λ; scale: what stands before it
        if self.algorithm == "dpmsolver++":
            x, scale, decay = -h, -levels.signal[index + 1], noise_ratio
        elif self.algorithm == "sde-dpmsolver++":
            x, scale, decay = -2 * h, -levels.signal[index + 1], noise_ratio * math.exp(-h)
            deviation = levels.noise[index + 1] * math.sqrt(-math.expm1(-2 * h))
        elif self.algorithm == "dpmsolver":
            x, scale, decay = h, -levels.noise[index + 1], signal_ratio
        else:
            x, scale, decay = h, -2 * levels.noise[index + 1], signal_ratio
            deviation = levels.noise[index + 1] * math.sqrt(math.expm1(2 * h))
        outputs = np.zeros(order)
        outputs[0] = scale * math.expm1(x)
        if order == 2:
            outputs += self._second(h, x, scale)
        elif order == 3:
            outputs += self._third(h, x, scale)
        return Combination(sample=decay, noise=deviation, outputs=outputs.tolist())

    def _gap(self, back: int) -> float:
        """The step in λ that was made ``back`` steps before this one."""
        return self.levels.half_log_snr(self.index - back + 1) - self.levels.half_log_snr(self.index - back)

    def _second(self, h: float, x: float, scale: float) -> np.ndarray:
        # D₁ = (m_0 − m_1) h / h₀
        if self.heun:
            # (expm1(x) / x − 1), times h: x is ±h or −2h; noise prediction changes the sign, as in the paper
            weight = -scale * (math.expm1(x) - x) * (h / x if x else 0.0)
            weight = -weight if x > 0 else weight
        else:
            weight = 0.5 * scale * math.expm1(x) * h
        return weight / self._gap(1) * np.array([1.0, -1.0])

    def _third(self, h: float, x: float, scale: float) -> np.ndarray:
        raise NotImplementedError
