"""Writing a solver table row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dit_deploy.errors import InputError
from dit_deploy.sampling.table import BASIS, SolverTable

__all__ = ["KEEP", "Combination", "Row", "Rows"]


@dataclass(frozen=True)
class Combination:
    """A linear combination over the basis of a table; ``outputs`` multiply m_0, m_1, …"""

    sample: float = 0.0
    saved: float = 0.0
    prediction: float = 0.0
    noise: float = 0.0
    outputs: Sequence[float] = ()

    def over(self, history: int) -> list[float]:
        """Return the coefficients of a basis that holds ``history`` outputs."""
        named = [float(getattr(self, name)) for name in BASIS]
        return named + [float(value) for value in self.outputs] + [0.0] * (history - len(self.outputs))


#: The saved sample stays.
KEEP = Combination(saved=1.0)
#: The saved sample becomes the sample before this row.
TAKE = Combination(sample=1.0)


@dataclass(frozen=True)
class Row:
    """One evaluation of the denoiser; the fields are the columns of :class:`SolverTable`."""

    timestep: float
    step: int
    sample: Combination
    output: tuple[float, float] = (0.0, 1.0)
    saved: Combination = KEEP
    input_scale: float = 1.0
    clip: float = np.inf
    noise_draws: int = 0
    log_variance: tuple[float, float] = (np.nan, np.nan)


@dataclass
class Rows:
    """Rows in the order in which they run."""

    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Append a row."""
        self.rows.append(row)

    def table(self, start: tuple[float, float], initial_noise_scale: float = 1.0) -> SolverTable:
        """Return the table; see :class:`SolverTable` for the two arguments."""
        if not self.rows:
            raise InputError("begin: no step is left to run; begin earlier")
        history = max(max(len(row.sample.outputs), len(row.saved.outputs)) for row in self.rows)
        sample = np.array([row.sample.over(history) for row in self.rows], np.float64)
        saved = np.array([row.saved.over(history) for row in self.rows], np.float64)
        output = np.array([row.output for row in self.rows], np.float64)
        clip = np.array([row.clip for row in self.rows], np.float64)
        sample, saved = _fold_outputs(sample, saved, output, clip)
        return SolverTable(
            timesteps=np.array([row.timestep for row in self.rows], np.float64),
            step=np.array([row.step for row in self.rows], np.int64),
            num_steps=self.rows[-1].step + 1,
            input_scale=np.array([row.input_scale for row in self.rows], np.float64),
            output=output,
            clip=clip,
            saved=saved,
            sample=sample,
            noise_draws=np.array([row.noise_draws for row in self.rows], np.int64),
            log_variance=np.array([row.log_variance for row in self.rows], np.float64),
            initial_noise_scale=float(initial_noise_scale),
            start=(float(start[0]), float(start[1])),
        )


Floats = NDArray[np.float64]


def _fold_outputs(sample: Floats, saved: Floats, output: Floats, clip: Floats) -> tuple[Floats, Floats]:
    """Write m_0 out as sample and prediction wherever nothing clips it.

    The two coefficients of the sample often cancel, by a factor of sigma at a long step: summed here they do so in
    float64, where an m_0 rounded to float32 would leave its rounding. And where no later row wants m_0, the loop has
    no need to make it.
    """
    width = len(BASIS)
    if sample.shape[1] == width:
        return sample, saved
    for target in (sample, saved):
        fold = (clip == np.inf) & (target[:, width] != 0)
        target[fold, BASIS.index("sample")] += target[fold, width] * output[fold, 0]
        target[fold, BASIS.index("prediction")] += target[fold, width] * output[fold, 1]
        target[fold, width] = 0.0
    used = np.flatnonzero((sample != 0).any(axis=0) | (saved != 0).any(axis=0))
    kept = max(int(used[-1]) + 1, width)
    return sample[:, :kept], saved[:, :kept]
