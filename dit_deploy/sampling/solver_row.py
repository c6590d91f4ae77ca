"""The rows of a solver table as the solver graph takes them: one vector a row, a few bytes to upload.

The solver graph (:mod:`dit_deploy.exporters.solver_graph`) is one row of a
:class:`~dit_deploy.sampling.table.SolverTable` with classifier-free guidance before it. It has room for :data:`OLDER`
converted outputs besides the row's own m_0. A table may remember more than that: a row names only those that it
multiplies by something other than 0, and no sampler of diffusers multiplies more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dit_deploy.errors import InputError
from dit_deploy.sampling.guidance import Guidance
from dit_deploy.sampling.table import BASIS, SolverTable

__all__ = ["LAYOUT", "OLDER", "WIDTH", "SolverRow", "solver_rows"]

#: How many converted outputs of earlier rows the solver graph takes.
OLDER = 3
#: What the vector holds, in order: name → how many numbers. ``sample_row`` and ``saved_row`` are over sample, saved,
#: prediction, noise, m_0 and the older outputs. A learned deviation is
#: learned · exp(variance · log_deviation_slope + log_deviation_middle). ``guidance`` is the scale less 1, 0 where the
#: row is not guided. ``input_scale`` and ``timestep`` are the next row's.
LAYOUT = {
    "output": 2,
    "clip": 1,
    "sample_row": len(BASIS) + 1 + OLDER,
    "saved_row": len(BASIS) + 1 + OLDER,
    "log_deviation_slope": 1,
    "log_deviation_middle": 1,
    "learned": 1,
    "guidance": 1,
    "input_scale": 1,
    "timestep": 1,
}
WIDTH = sum(LAYOUT.values())

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class SolverRow:
    """One row for the solver graph.

    Attributes:
        coefficients: float32 [WIDTH], see :data:`LAYOUT`.
        older: for each of the graph's inputs ``older_1``, ``older_2``, …, k of the m_k that it gets; at most
            :data:`OLDER`, the others are multiplied by 0.
        guided: whether the row is guided, so that the denoiser is asked for two predictions.
        noise: whether the row needs noise.
    """

    coefficients: Floats
    older: tuple[int, ...]
    guided: bool
    noise: bool


def solver_rows(table: SolverTable, guidance: Guidance, timestep_scale: float = 1.0) -> list[SolverRow]:
    """Return the rows of ``table`` with the guidance of each.

    Args:
        timestep_scale: what the table's timesteps are multiplied by, to be in the unit that the denoiser takes.

    Raises:
        InputError: guidance is rescaled, or brings tokens back to their length, or a row multiplies more than
            :data:`OLDER` older outputs: no solver graph does that.
    """
    if guidance.rescale:
        raise InputError("guidance rescale: the solver graph has none; the loop on the host has")
    if guidance.token is not None:
        raise InputError("guidance of tokens: the solver graph has none; the loop on the host has")
    rows = []
    for row in range(len(table)):
        multiplied = (table.sample[row, len(BASIS) + 1 :] != 0) | (table.saved[row, len(BASIS) + 1 :] != 0)
        older = tuple(int(k) + 1 for k in np.flatnonzero(multiplied))
        if len(older) > OLDER:
            raise InputError(
                f"solver table: row {row} multiplies {len(older)} older outputs, a solver graph takes {OLDER}"
            )
        guided = guidance.active(int(table.step[row]), table.num_steps)
        values = _values(table, row, older, (guidance.scale - 1.0) if guided else 0.0, timestep_scale)
        vector = np.concatenate([np.atleast_1d(values[name]) for name in LAYOUT]).astype(np.float32)
        assert vector.shape == (WIDTH,)
        rows.append(SolverRow(vector, older, guided, bool(table.uses_noise[row])))
    return rows


def _values(
    table: SolverTable, row: int, older: tuple[int, ...], guidance: float, timestep_scale: float
) -> dict[str, NDArray[np.float64] | float]:
    learned = not bool(np.isnan(table.log_variance[row, 0]))
    smallest, largest = table.log_variance[row].tolist() if learned else (0.0, 0.0)
    last = row + 1 == len(table)
    return {
        "output": table.output[row],
        # An infinity times 0 is no number, and some backends have no infinity in a clip: the largest float is as good.
        "clip": min(float(table.clip[row]), float(np.finfo(np.float32).max)),
        "sample_row": _over(table.sample[row], older),
        "saved_row": _over(table.saved[row], older),
        # ½ (f · largest + (1 − f) · smallest) with f = (variance + 1) / 2
        "log_deviation_slope": (largest - smallest) / 4,
        "log_deviation_middle": (largest + smallest) / 4,
        "learned": float(learned),
        "guidance": guidance,
        "input_scale": 1.0 if last else float(table.input_scale[row + 1]),
        "timestep": 0.0 if last else float(table.timesteps[row + 1]) * timestep_scale,
    }


def _over(coefficients: NDArray[np.float64], older: tuple[int, ...]) -> NDArray[np.float64]:
    """Return a row's coefficients over the graph's basis: sample, saved, prediction, noise, m_0, older ones."""
    over = np.zeros(len(BASIS) + 1 + OLDER)
    own = min(len(coefficients), len(BASIS) + 1)  # a table without history has no m_0
    over[:own] = coefficients[:own]
    for place, k in enumerate(older):
        over[len(BASIS) + 1 + place] = coefficients[len(BASIS) + k]
    return over
