"""How far apart two arrays or two pictures are: numpy only, in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["cosine", "largest_difference", "psnr", "relative_error", "ssim"]

Array = NDArray[Any]
Floats = NDArray[np.float64]

#: Wang et al. 2004, section III.B: the window's side and deviation in pixels, and the two constants of stability.
_WINDOW, _DEVIATION, _K1, _K2 = 11, 1.5, 0.01, 0.03


def largest_difference(array: Array, reference: Array) -> float:
    """Return max |array − reference|; infinity where either holds a value that is not finite."""
    with np.errstate(invalid="ignore"):
        difference = float(np.abs(_float64(array) - _float64(reference)).max(initial=0.0))
    return difference if math.isfinite(difference) else math.inf


def relative_error(array: Array, reference: Array) -> float:
    """Return max |array − reference| / max |reference|; infinity where either holds a value that is not finite.

    One number for a whole tensor: a value near zero has no relative precision of its own after a sum of
    terms as large as the largest. Where the reference is all zeros it is 0 or infinity.
    """
    difference = largest_difference(array, reference)
    if difference in (0.0, math.inf):
        return difference
    largest = float(np.abs(_float64(reference)).max())
    return difference / largest if largest > 0.0 else math.inf


def cosine(array: Array, reference: Array) -> float:
    """Return the cosine of the angle between the two as vectors, −1 … 1; NaN where one is zero or not finite."""
    one, other = _float64(array).ravel(), _float64(reference).ravel()
    # Divided first, so that squares neither overflow nor vanish.
    with np.errstate(all="ignore"):
        one, other = one / np.abs(one).max(initial=0.0), other / np.abs(other).max(initial=0.0)
        return float(np.clip(one @ other / math.sqrt((one @ one) * (other @ other)), -1.0, 1.0))


def psnr(image: Array, reference: Array) -> float:
    """Return 10 · log₁₀(1 / mean squared difference) in decibels for values in 0 … 1; infinity where they are equal."""
    error = float(np.mean((_float64(image) - _float64(reference)) ** 2))
    if not math.isfinite(error):
        return -math.inf
    return -10.0 * math.log10(error) if error > 0.0 else math.inf


def ssim(image: Array, reference: Array) -> float:
    """Return the mean structural similarity (Wang et al. 2004) of two pictures, at most 1; the mean over channels.

    Of a video it is the mean over its frames.

    An 11 × 11 Gaussian window of deviation 1.5, K₁ = 0.01, K₂ = 0.03, over the places where the window lies
    wholly inside. Where a side is shorter than 11 pixels, the window is cut to the largest odd number of pixels
    that fits; such a value does not compare with others.

    Args:
        image, reference: [height, width, channels] in 0 … 1, or [frames, height, width, channels].
    """
    if image.ndim == 4:
        return float(np.mean([ssim(one, other) for one, other in zip(image, reference, strict=True)]))
    x, y = _float64(image), _float64(reference)
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x, variance_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = _K1**2, _K2**2  # the range of values, L, is 1
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    )
    return float(similarity.mean())


def _blur(image: Floats) -> Floats:
    """Weigh [height, width, channels] with the Gaussian window, along one axis after the other."""
    for axis in (0, 1):
        size = min(_WINDOW, image.shape[axis] - 1 + image.shape[axis] % 2)
        offsets = np.arange(size) - size // 2
        weights = np.exp(-(offsets**2) / (2 * _DEVIATION**2))
        image = np.lib.stride_tricks.sliding_window_view(image, size, axis) @ (weights / weights.sum())
    return image


def _float64(array: Array) -> Floats:
    return np.asarray(array, dtype=np.float64)
