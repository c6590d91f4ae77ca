"""The one loop that runs any :class:`~dit_deploy.sampling.table.SolverTable`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dit_deploy.errors import InputError
from dit_deploy.sampling.table import BASIS, SolverTable

__all__ = ["SolverState"]

Array = NDArray[np.float32]
#: The coefficients of one row that are not 0: (column of the basis, coefficient).
Terms = list[tuple[int, float]]

_SAMPLE, _SAVED, _PREDICTION, _NOISE = range(len(BASIS))
_PART = 8192  # elements


class SolverState:
    """The arrays of one generation, allocated once for a shape and run row by row.

    Example::

        state = SolverState(table, shape)
        state.reset(table.initial_noise_scale * source.draw(shape))
        for row in range(len(table)):
            prediction = denoiser(state.model_input(row, out=buffer), table.timesteps[row])
            for _ in range(table.noise_draws[row]):
                noise = source.draw(shape)
            state.advance(row, prediction, noise=noise)

    Nothing of the latents' size is allocated after the first steps.

    Args:
        table: the sampler.
        shape: of the latents, [batch, channels, …].
    """

    def __init__(self, table: SolverTable, shape: Sequence[int]) -> None:
        self.table = table
        self.shape = tuple(int(size) for size in shape)
        self._sample_terms = [_terms(row) for row in table.sample]
        self._saved_terms = [_terms(row) for row in table.saved]
        self._output_terms = [_terms(row) for row in table.output]
        # m_0 is computed where this row or a later one within reach multiplies it.
        used = [{column for column, _ in a + b} for a, b in zip(self._sample_terms, self._saved_terms, strict=True)]
        self._needs_output = [
            any(len(BASIS) + k in used[row + k] for k in range(min(table.history, len(table) - row)))
            for row in range(len(table))
        ]
        self._uses_noise = table.uses_noise.tolist()
        self._sample, self._saved, self._spare, self._scratch = (np.zeros(self.shape, np.float32) for _ in range(4))
        self._wide = np.empty(_PART if table.needs_variance else 0, np.float64)
        self._spare_saved: Array | None = None  # only samplers that make a new saved sample need it
        self._outputs = [np.zeros(self.shape, np.float32) for _ in range(table.history)]
        self._next = 0

    @property
    def sample(self) -> Array:
        """The current sample, float32 [shape]. The array is reused: copy it to keep it past :meth:`advance`."""
        return self._sample

    def reset(self, sample: NDArray[np.floating]) -> None:
        """Begin at the first row with ``sample``, which is copied.

        Raises:
            InputError: another shape.
        """
        self._check("sample", sample)
        np.copyto(self._sample, sample, casting="same_kind")
        self._saved.fill(0.0)
        self._next = 0

    def model_input(self, row: int, out: NDArray[np.floating] | None = None) -> NDArray[np.floating]:
        """Return input_scale · sample, written to ``out`` where given (any float type)."""
        if out is None:
            out = np.empty(self.shape, np.float32)
        np.multiply(self._sample, float(self.table.input_scale[row]), out=out, dtype=np.float32, casting="same_kind")
        return out

    def advance(
        self,
        row: int,
        prediction: NDArray[np.floating],
        variance: NDArray[np.floating] | None = None,
        noise: NDArray[np.floating] | None = None,
    ) -> Array:
        """Apply one row and return the new sample.

        Args:
            row: rows come in order from 0; :meth:`reset` starts again.
            prediction: the denoiser's output, [shape].
            variance: the learned variance in −1 … 1, [shape]; needed where ``table.log_variance`` is no NaN.
            noise: the last of the row's ``noise_draws``, [shape]; needed where ``table.uses_noise``.

        Raises:
            InputError: an array is missing or of another shape, or the row is not the next one.
        """
        if row != self._next:
            raise InputError(f"row: {row} came, {self._next} is next")
        self._check("prediction", prediction)
        learned = not np.isnan(self.table.log_variance[row, 0])
        if learned:
            self._check("variance", variance)
        if self._uses_noise[row]:
            self._check("noise", noise)

        if self._outputs:
            self._outputs.insert(0, self._outputs.pop())  # the oldest gives its place to this row's
            if self._needs_output[row]:
                self._combine(self._output_terms[row], (self._sample, prediction), self._outputs[0])
                clip = float(self.table.clip[row])
                if clip != np.inf:
                    np.clip(self._outputs[0], -clip, clip, out=self._outputs[0])

        basis = (self._sample, self._saved, prediction, noise, *self._outputs)
        new = self._combine(self._sample_terms[row], basis, self._spare)
        if learned:
            assert variance is not None
            assert noise is not None
            self._add_learned_noise(row, variance, noise, new)
        self._save(self._saved_terms[row], basis)
        self._sample, self._spare = new, self._sample
        self._next += 1
        return new

    def _save(self, terms: Terms, basis: Sequence[NDArray[np.floating] | None]) -> None:
        """Set the saved sample; keeping it, or keeping the current sample, costs no arithmetic."""
        if terms == [(_SAVED, 1.0)]:
            return
        if terms == [(_SAMPLE, 1.0)]:
            self._saved, self._sample = self._sample, self._saved
            return
        if self._spare_saved is None:
            self._spare_saved = np.empty(self.shape, np.float32)
        self._saved, self._spare_saved = self._combine(terms, basis, self._spare_saved), self._saved

    def _combine(self, terms: Terms, basis: Sequence[NDArray[np.floating] | None], out: Array) -> Array:
        """Write Σ coefficient · basis to ``out``, which is none of the basis that the terms name."""
        if not terms:
            out.fill(0.0)
        for index, (column, coefficient) in enumerate(terms):
            array = basis[column]
            assert array is not None
            np.multiply(array, coefficient, out=self._scratch if index else out, dtype=np.float32, casting="same_kind")
            if index:
                out += self._scratch
        return out

    def _add_learned_noise(
        self, row: int, variance: NDArray[np.floating], noise: NDArray[np.floating], out: Array
    ) -> None:
        smallest, largest = self.table.log_variance[row].tolist()
        # ½ (f · largest + (1 − f) · smallest) with f = (variance + 1) / 2, as one multiplication and one addition
        deviation = self._scratch
        np.multiply(variance, (largest - smallest) / 4, out=deviation, dtype=np.float32, casting="same_kind")
        deviation += (largest + smallest) / 4
        # Through float64, so that every machine, and C++, rounds to the same float32.
        flat = deviation.reshape(-1)
        for first in range(0, flat.size, _PART):
            part = flat[first : first + _PART]
            wide = self._wide[: part.size]
            wide[:] = part
            part[:] = np.exp(wide, out=wide)
        deviation *= noise
        out += deviation

    def _check(self, name: str, array: NDArray[np.floating] | None) -> None:
        if array is None:
            raise InputError(f"{name}: none came, this row needs one of shape {self.shape}")
        if array.shape != self.shape:
            raise InputError(f"{name}: shape {array.shape} came, {self.shape} expected")


def _terms(row: NDArray[np.float64]) -> Terms:
    return [(int(column), float(row[column])) for column in np.flatnonzero(row)]
