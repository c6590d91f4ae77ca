"""Writing a solver table row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

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
    """Write m_0 out as sample and prediction where nothing clips it and no later row wants it.

    Two terms where there were three, no intermediate array, and the sum of the two coefficients of the sample is
    rounded once instead of in float32 at every element.
    """
    width = len(BASIS)
    history = sample.shape[1] - width
    wanted = (sample[:, width:] != 0) | (saved[:, width:] != 0)
    for row in range(len(sample)):
        later = any(wanted[row + k, k] for k in range(1, min(history, len(sample) - row)))
        if history and not later and clip[row] == np.inf and wanted[row, 0]:
            for target in (sample, saved):
                target[row, BASIS.index("sample")] += target[row, width] * output[row, 0]
                target[row, BASIS.index("prediction")] += target[row, width] * output[row, 1]
                target[row, width] = 0.0
    unused = width + history
    while unused > width and not sample[:, unused - 1].any() and not saved[:, unused - 1].any():
        unused -= 1
    return sample[:, :unused], saved[:, :unused]
