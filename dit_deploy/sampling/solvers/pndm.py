"""Pseudo numerical methods for diffusion models (Liu et al. 2022): Runge-Kutta warm-up (PRK), then linear multistep."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from dit_deploy.errors import InputError
from dit_deploy.sampling.options import BETAS, Options, Request
from dit_deploy.sampling.rows import KEEP, TAKE, Combination, Row, Rows
from dit_deploy.sampling.schedules import alphas_cumprod, check_steps, spaced_timesteps
from dit_deploy.sampling.table import SolverTable

__all__ = ["OPTIONS", "build"]

OPTIONS = {
    **BETAS,
    "skip_prk_steps": False,
    "set_alpha_to_one": False,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 0,
}
#: Adams-Bashforth weights of the newest output first, by how many there are
_MULTISTEP = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}
_WARM_UP_STEPS = 3


def build(options: Options, request: Request) -> SolverTable:
    """Return the table of diffusers' ``PNDMScheduler``.

    Image-to-image starts the warm-up over at its first timestep. Diffusers' pipelines cut the list of timesteps,
    which holds the second one twice, and so feed the denoiser a timestep that is not the sample's.
    """
    prediction_type = options.choice("prediction_type", ("epsilon", "v_prediction"))
    steps = request.num_inference_steps
    check_steps(options, steps)
    products = alphas_cumprod(options).tolist()
    timesteps = spaced_timesteps(options, steps).astype(int).tolist()[request.begin :]
    final = 1.0 if options.flag("set_alpha_to_one") else products[0]
    plan = _Plan(products, final, prediction_type == "v_prediction", len(products) // steps)
    if options.flag("skip_prk_steps"):
        plan.halved_start(timesteps)
    elif len(timesteps) <= _WARM_UP_STEPS:
        raise InputError(
            f"num_inference_steps: PNDMScheduler with skip_prk_steps=False needs at least {_WARM_UP_STEPS + 1} steps "
            f"to run, {len(timesteps)} came; set skip_prk_steps=True"
        )
    else:
        plan.runge_kutta_start(timesteps)
    level = plan.level(timesteps[0])
    return plan.rows.table(start=(math.sqrt(level), math.sqrt(1 - level)))


@dataclass
class _Plan:
    """Writes the rows, remembering at which rows the outputs that the multistep uses were made."""

    products: list[float]
    final: float
    velocity: bool
    stride: int
    rows: Rows = field(default_factory=Rows)
    kept: list[int] = field(default_factory=list)

    def halved_start(self, timesteps: list[int]) -> None:
        """The first step is made twice, the second time with the mean of the outputs at its two ends."""
        first = timesteps[0]
        self.add(first, 0, (first, first - self.stride), [1.0], saved=TAKE, keep=True)
        if len(timesteps) > 1:
            second = timesteps[1]
            self.add(second, 0, (second + self.stride, second), [0.5, 0.5], base="saved")
        self.multistep(timesteps, 1)

    def runge_kutta_start(self, timesteps: list[int]) -> None:
        """Three steps of four evaluations each, at the start, twice halfway and at the end."""
        half = self.stride // 2
        for step in range(_WARM_UP_STEPS):
            here, after = timesteps[step], timesteps[step + 1]
            self.add(here, step, (here, here - half), [1.0], saved=TAKE, keep=True)
            self.add(after + half, step, (here, after + half), [1.0], base="saved")
            self.add(after + half, step, (here, after), [1.0], base="saved")
            self.add(after, step, (here, after), [1 / 6, 1 / 3, 1 / 3, 1 / 6], base="saved")
        self.multistep(timesteps, _WARM_UP_STEPS)

    def multistep(self, timesteps: list[int], begin: int) -> None:
        """Adams-Bashforth over the outputs kept so far."""
        for step in range(begin, len(timesteps)):
            self.kept.append(len(self.rows.rows))
            recent = self.kept[: -len(_MULTISTEP) - 1 : -1]
            weights = [0.0] * (recent[0] - recent[-1] + 1)
            for row, weight in zip(recent, _MULTISTEP[len(recent)], strict=True):
                weights[recent[0] - row] = weight
            self.add(timesteps[step], step, (timesteps[step], timesteps[step] - self.stride), weights)

    def level(self, timestep: int) -> float:
        """Return ᾱ of a timestep; below 0 that of the end."""
        if timestep >= len(self.products):
            raise InputError(
                f"PNDMScheduler: timestep {timestep} is past the last one, {len(self.products) - 1}; "
                "use another timestep_spacing, a smaller steps_offset or fewer steps"
            )
        return self.products[timestep] if timestep >= 0 else self.final

    def add(
        self,
        timestep: int,
        step: int,
        span: tuple[int, int],
        weights: list[float],
        *,
        base: str = "sample",
        saved: Combination = KEEP,
        keep: bool = False,
    ) -> None:
        """Append the row that goes from one timestep of ``span`` to the other, from ``base`` (eq. 11 of the paper)."""
        if keep:
            self.kept.append(len(self.rows.rows))
        level, target = self.level(span[0]), self.level(span[1])
        slope = -(target - level) / (level * math.sqrt(1 - target) + math.sqrt(level * (1 - level) * target))
        factor = math.sqrt(target / level)
        if self.velocity:  # ε = signal · v + noise · (the sample that the step starts from)
            factor += slope * math.sqrt(1 - level)
            slope *= math.sqrt(level)
        outputs = [slope * weight for weight in weights]
        combination = Combination(outputs=outputs, **{base: factor})
        self.rows.add(Row(timestep=timestep, step=step, sample=combination, saved=saved))
