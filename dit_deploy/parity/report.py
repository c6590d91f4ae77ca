"""What a comparison found: the numbers, whether they are within the limits, and where the first excess is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dit_deploy.parity.limits import Limits

__all__ = ["ComponentError", "ParityReport", "PictureError", "Run"]

FORMAT = 1
_RUN_FIELDS = (
    "name", "implementation", "settings", "conditions", "timesteps", "accumulated", "single_step", "failure",
)  # fmt: skip


@dataclass(frozen=True)
class ComponentError:
    """One output of one component at one size.

    Attributes:
        sizes: the free sizes, such as ``{"batch": 1, "patch_height": 16, …}``.
        shape: of the output.
        largest: max |engine − reference|.
        relative: that, relative to max |reference|.
        cosine: of the angle between the two as vectors; NaN where that is undefined.
    """

    component: str
    output: str
    sizes: Mapping[str, int]
    shape: tuple[int, ...]
    largest: float
    relative: float
    cosine: float

    @property
    def where(self) -> str:
        """The place in words: ``denoiser at batch 1, patch height 16, patch width 16``."""
        sizes = ", ".join(f"{name} {size}" for name, size in self.sizes.items())
        return f"{self.component} at {sizes}".replace("_", " ")


@dataclass(frozen=True)
class PictureError:
    """One picture against its reference, both with values in 0 … 1.

    Attributes:
        psnr: decibels, infinite where both are equal.
        ssim: at most 1.
        largest: of a pixel's difference, in units of 1/255.
    """

    label: int
    name: str
    psnr: float
    ssim: float
    largest: float


@dataclass(frozen=True)
class Run:
    """One generation by both sides, from the same seed.

    Attributes:
        name: ``generation``, ``generation from a picture`` or ``image-to-image``.
        implementation: what ran on the side of PyTorch, in words.
        settings: what was asked for, JSON-able.
        timesteps: of each step's first evaluation, [steps].
        accumulated: relative error of the latents before the first step and after each, [steps + 1].
        single_step: what the engine adds to the relative error in a step, started from the reference's latents,
            [steps].
        conditions: relative error of what each side makes of the given pictures for its denoiser, by name.
        failure: why the engine's run ended early; empty where it did not.
        images, reference_images: float32 [batch, height, width, channels] in 0 … 1, where both drew them.
    """

    name: str
    implementation: str
    settings: Mapping[str, Any]
    timesteps: tuple[float, ...]
    accumulated: tuple[float, ...]
    single_step: tuple[float, ...]
    pictures: tuple[PictureError, ...]
    conditions: Mapping[str, float] = field(default_factory=dict)
    failure: str = ""
    images: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    reference_images: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)

    @property
    def steps(self) -> int:
        """How many steps there are."""
        return len(self.single_step)

    def first_step_beyond(self, limit: float) -> int | None:
        """Return the first step, counted from 1, after which the error is beyond ``limit``; 0 for the first noise."""
        return next((step for step, error in enumerate(self.accumulated) if not error <= limit), None)


@dataclass(frozen=True)
class ParityReport:
    """The outcome of :func:`dit_deploy.parity.parity`.

    Attributes:
        subject: what was compared, with what, when and where: names → text.
        limits: those that were applied.
        components: every output at every size.
        runs: generations.
        notes: what the reader should know besides, a sentence each.
        engine: the name of the engine that ran, under which a bundle keeps the report.
    """

    subject: Mapping[str, str]
    limits: Limits
    components: Sequence[ComponentError]
    runs: Sequence[Run]
    notes: Sequence[str] = ()
    engine: str = "onnx"

    @property
    def passed(self) -> bool:
        """Whether everything is within the limits."""
        return self.first_excess is None

    @cached_property
    def first_excess(self) -> str | None:
        """Where the first value beyond its limit is, in words; ``None`` where there is none."""
        for row in self.components:
            if not row.relative <= self.limits.component:
                return f"{row.where}: {row.output} {_off(row.relative, 'its', self.limits.component)}"
        for run in self.runs:
            if excess := self._run_excess(run):
                return f"{run.name}, {excess}"
        return None

    def _run_excess(self, run: Run) -> str | None:
        for name, error in run.conditions.items():
            if not error <= self.limits.component:
                return f"what is made of the pictures: {name} {_off(error, 'its', self.limits.component)}"
        step = run.first_step_beyond(self.limits.latents)
        if step == 0:
            return f"before the first step: latents {_off(run.accumulated[0], 'their', self.limits.latents)}"
        if step is not None:
            off = _off(run.accumulated[step], "their", self.limits.latents)
            return f"step {step} of {run.steps}: latents {off}; {_cause(run, step, self.limits.latents)}"
        if run.failure:
            return run.failure
        for picture in run.pictures:
            what = f"the picture of {picture.name or f'class {picture.label}'}"
            if not picture.largest <= self.limits.picture:
                return f"{what} differs by up to {picture.largest:.3g}/255, the limit is {self.limits.picture:g}/255"
            if not picture.psnr >= self.limits.psnr:
                return f"{what} has a PSNR of {picture.psnr:.1f} dB, the limit is {self.limits.psnr:g} dB"
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return the report without pictures, ready for JSON; ``null`` stands for an infinity and for NaN."""
        return {
            "format": FORMAT,
            "passed": self.passed,
            "first_excess": self.first_excess,
            "subject": dict(self.subject),
            "limits": self.limits.to_dict(),
            "components": [_plain(asdict(row)) for row in self.components],
            "runs": [
                {
                    **{name: _plain(getattr(run, name)) for name in _RUN_FIELDS},
                    "pictures": [_plain(asdict(picture)) for picture in run.pictures],
                }
                for run in self.runs
            ],
            "notes": list(self.notes),
        }

    def table(self) -> Any:
        """Return what a terminal shows, as a rich renderable."""
        from dit_deploy.parity.table import report_table

        return report_table(self)


def _off(error: float, whose: str, limit: float) -> str:
    if not math.isfinite(error):
        return "with values that are not finite"
    return f"off by {error:.2g} of {whose} largest value, the limit is {limit:g}"


def _cause(run: Run, step: int, limit: float) -> str:
    """Say whether one evaluation is wrong, or many small errors added up."""
    singles = run.single_step[:step]
    worst = max(range(step), key=lambda index: singles[index])
    if not math.isfinite(singles[worst]):
        return f"step {worst + 1} alone, from PyTorch's latents, is not finite either"
    if singles[worst] >= run.accumulated[step] / 3:
        return f"step {worst + 1} alone adds {singles[worst]:.2g}: the denoiser errs there"
    # A tenth of the limit is where drift becomes visible on the plot.
    begin = run.first_step_beyond(limit / 10) or 1
    return f"no step up to there adds more than {singles[worst]:.2g} alone: the error accumulated, from step {begin} on"


def _plain(value: Any) -> Any:
    """Return ``value`` as JSON has it: lists for tuples, ``None`` for what is not finite."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
