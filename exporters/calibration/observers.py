"""What one activation tensor was seen to hold, and the scale that an 8-bit grid should give it.

A histogram of |x| is enough for every method: its bins are a power of two wide, and where a larger value comes, pairs
of bins are merged, which is exact. So the counts are those of one pass over all the data with the final width, in
whatever order and portions it came.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dit_deploy.errors import BackendError, InputError

__all__ = ["BINS", "Histogram", "Levels", "Method", "check_choice", "positive_levels", "scale_of"]

Method = Literal["max", "percentile", "mse"]
Levels = Literal["int8", "fp8"]

#: Between half and all of the bins are in use; with 8192 an int8 step at the full range is 32 bins or more wide.
BINS = 1 << 13
#: Values looked at in one go, which bounds the memory for their copies.
_PORTION = 1 << 20
#: The exponent of float32's smallest number: no bin needs to be narrower.
_SMALLEST = -149


@dataclass
class Histogram:
    """Counts of |x| in ``BINS`` bins of width 2 ** ``exponent``; bin i holds i ≤ |x| / width < i + 1.

    Attributes:
        exponent: of the bins' width; it follows from ``absmax`` alone.
        absmax: the largest |x|, as it came.
        counts: int64 [BINS].
    """

    exponent: int
    absmax: float
    counts: NDArray[np.int64]

    @classmethod
    def empty(cls) -> Histogram:
        """Return the histogram of no values."""
        return cls(_SMALLEST, 0.0, np.zeros(BINS, np.int64))

    @property
    def total(self) -> int:
        """How many values were counted."""
        return int(self.counts.sum())

    @property
    def width(self) -> float:
        """Of a bin."""
        return math.ldexp(1.0, self.exponent)

    def add(self, values: NDArray[np.floating[Any]], name: str) -> None:
        """Count ``values``, of any shape, float32 or narrower; ``name`` is the tensor's, for the message.

        Raises:
            BackendError: a value is NaN or infinite; then nothing was counted.
        """
        flat = values.reshape(-1)
        portions = [flat[first : first + _PORTION] for first in range(0, flat.size, _PORTION)]
        largest = 0.0
        for portion in portions:
            low, high = float(portion.min()), float(portion.max())  # either is NaN where a value is
            if not (math.isfinite(low) and math.isfinite(high)):
                raise BackendError(
                    f"{name}: holds NaN or infinite values, so no scale can be found for it; run `dit-deploy parity` "
                    "to see whether the plain graph draws what the source draws"
                )
            largest = max(largest, -low, high)
        self._widen(_exponent(largest))
        self.absmax = max(self.absmax, largest)
        scale = math.ldexp(1.0, -self.exponent)
        for portion in portions:
            scaled = np.abs(portion).astype(np.float64)
            scaled *= scale  # exact: a power of two, and in float64 nothing overflows or becomes subnormal
            self.counts += np.bincount(scaled.astype(np.int64), minlength=BINS)

    def merge(self, other: Histogram) -> None:
        """Add what ``other`` counted; the result is as if all its values had come here."""
        shift = max(0, self.exponent - other.exponent)
        self._widen(other.exponent)
        self.counts += _merged(other.counts, shift)
        self.absmax = max(self.absmax, other.absmax)

    def _widen(self, exponent: int) -> None:
        if exponent > self.exponent:
            self.counts = _merged(self.counts, exponent - self.exponent)
            self.exponent = exponent


def scale_of(histogram: Histogram, method: Method = "mse", levels: Levels = "int8", percentile: float = 99.99) -> float:
    """Return the scale of an activation: x / scale is rounded to the grid and clipped at its end, 127 or 448.

    ``max`` clips nothing. ``percentile`` clips so that this part of the |x| (in percent) is not clipped, up to one bin.
    ``mse`` minimises the mean squared error of rounding and clipping together, with the values spread evenly within a
    bin. The scale is a float32 number; where all values are 0 it is 1, as good as any.

    Raises:
        InputError: no such method or levels, ``percentile`` is not in 0 … 100, or nothing was counted.
    """
    check_choice(method, levels, percentile)
    if not histogram.total:
        raise InputError("calibration: a scale was asked of a tensor of which no value was seen")
    if histogram.absmax == 0.0:
        return 1.0
    if method == "max":
        clip = histogram.absmax
    elif method == "percentile":
        clip = _percentile(histogram, percentile)
    else:
        clip = _best_clip(histogram, positive_levels(levels))
    # What divides must not be rounded to 0.
    return max(float(np.float32(clip / positive_levels(levels)[-1])), float(np.finfo(np.float32).tiny))


def check_choice(method: str, levels: str, percentile: float) -> None:
    """Raise :class:`InputError` where the arguments of :func:`scale_of` are none of those that there are."""
    for name, value, known in (("method", method, get_args(Method)), ("levels", levels, get_args(Levels))):
        if value not in known:
            raise InputError(f"calibration {name}: {value!r} came, expected one of {', '.join(known)}")
    if not 0.0 < percentile <= 100.0:
        raise InputError(f"calibration percentile: {percentile!r} came, expected a number above 0, at most 100")


@cache
def positive_levels(levels: Levels) -> NDArray[np.float64]:
    """Return the grid's values from 0 up: 0 … 127, or those of E4M3 without infinities (Micikevicius et al. 2022)."""
    if levels == "int8":
        grid = np.arange(128, dtype=np.float64)
    else:
        code = np.arange(0x7F)  # 0x7F is NaN
        exponent, mantissa = code >> 3, code & 7
        grid = np.where(exponent == 0, np.ldexp(mantissa / 8, -6), np.ldexp(1 + mantissa / 8, exponent - 7))
    grid.setflags(write=False)
    return grid


def _exponent(largest: float) -> int:
    """Return the exponent of the width with which ``largest`` falls into the upper half of the bins."""
    if largest == 0.0:
        return _SMALLEST
    return max(_SMALLEST, math.frexp(largest)[1] - (BINS.bit_length() - 1))


def _merged(counts: NDArray[np.int64], times: int) -> NDArray[np.int64]:
    """Return the counts over bins that are 2 ** ``times`` as wide, in as many bins as before."""
    size = 1 << min(times, BINS.bit_length() - 1)
    merged = np.zeros_like(counts)
    merged[: BINS // size] = counts.reshape(-1, size).sum(axis=1)
    return merged


def _percentile(histogram: Histogram, percentile: float) -> float:
    """Return the upper end of the bin in which the ordered |x| reach ``percentile`` per cent of their number."""
    rank = max(1, math.ceil(histogram.total * percentile / 100.0))
    index = int(np.searchsorted(np.cumsum(histogram.counts), rank))
    return min(histogram.absmax, (index + 1) * histogram.width)


def _best_clip(histogram: Histogram, grid: NDArray[np.float64]) -> float:
    """Return the clip with the smallest squared error: eight octaves below the maximum in steps, then finer."""
    used = np.flatnonzero(histogram.counts)
    counts = histogram.counts[used].astype(np.float64)
    lower = used.astype(np.float64) * histogram.width
    upper = lower + histogram.width

    def best(clips: NDArray[np.float64]) -> float:
        errors = [_squared_error(lower, upper, counts, grid, clip / grid[-1]) for clip in clips]
        return float(clips[int(np.argmin(errors))])  # the first, that is the widest, of equals

    coarse = best(histogram.absmax * np.exp2(-np.arange(65) / 8))
    finer = coarse * np.exp2(np.arange(8, -9, -1) / 64)
    return best(finer[finer <= histogram.absmax])


def _squared_error(
    lower: NDArray[np.float64],
    upper: NDArray[np.float64],
    counts: NDArray[np.float64],
    grid: NDArray[np.float64],
    scale: float,
) -> float:
    """Return the summed squared error of values that lie evenly in [``lower``, ``upper``] on the grid times ``scale``.

    The integral over a bin is exact, so bins may be wider than steps of the grid.
    """
    low, high = lower / scale, upper / scale
    means = (_integral(high, grid) - _integral(low, grid)) / (high - low)
    return float(counts @ means) * scale * scale


def _integral(x: NDArray[np.float64], grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ∫ (t − q(t))² dt from 0 to ``x``, where q rounds to the nearest value of ``grid`` and clips at its end."""
    middle = (grid[1:] + grid[:-1]) / 2  # where q jumps
    # Up to the lower end of level i's cell, and from that to x.
    below = np.concatenate([[0.0], (middle - grid[1:]) ** 3])
    whole = np.concatenate([[0.0], np.cumsum((middle - grid[:-1]) ** 3 - below[:-1])])
    level = np.searchsorted(middle, x)
    return (whole[level] + (x - grid[level]) ** 3 - below[level]) / 3.0
