"""Classifier-free guidance (Ho & Salimans 2022) on arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dit_deploy.errors import InputError

__all__ = ["Guidance", "SkipLayerGuidance"]

Array = NDArray[np.float32]


@dataclass(frozen=True)
class SkipLayerGuidance:
    """Guidance away from what the denoiser predicts without some of its blocks, on top of the usual one (SD 3.5).

    Example: what Stability AI recommends for SD 3.5 Medium: ``SkipLayerGuidance((7, 8, 9))``.

    Args:
        layers: the blocks that are left out, 0 … .
        scale: of conditional − conditional without the blocks, which is added.
        start, stop: fractions of the steps after which, and before which, it is on, both ends left out.

    Raises:
        InputError: a number is not finite or out of range.
    """

    layers: tuple[int, ...]
    scale: float = 2.8
    start: float = 0.01
    stop: float = 0.2

    def __post_init__(self) -> None:
        if not self.layers or not all(_is_index(layer) for layer in self.layers):
            raise InputError(f"skip_guidance_layers: {self.layers!r} came, indices of blocks were expected")
        if not _is_number(self.scale) or not math.isfinite(self.scale):
            raise InputError(f"skip_layer_guidance_scale: {self.scale!r} came, a finite number was expected")
        ends = (self.start, self.stop)
        if not all(_is_number(end) for end in ends) or not 0.0 <= self.start <= self.stop <= 1.0:
            raise InputError(
                f"skip_layer_guidance_start and _stop: {self.start!r} and {self.stop!r} came, "
                "two fractions with 0 <= start <= stop <= 1 expected"
            )

    def active(self, step: int, num_steps: int) -> bool:
        """Return whether inference step ``step`` (0 … num_steps − 1) is guided so."""
        return num_steps * self.start < step < num_steps * self.stop

    def add(self, guided: Array, conditional: Array, without: Array) -> None:
        """Add scale · (``conditional`` − ``without``) to ``guided``; ``conditional`` is overwritten."""
        np.subtract(conditional, without, out=conditional)
        conditional *= np.float32(self.scale)
        guided += conditional


@dataclass(frozen=True)
class Guidance:
    """How the conditional and unconditional predictions are combined.

    Example: the original DiT guides three of its four latent channels: ``Guidance(4.0, channels=3)``.

    Args:
        scale: unconditional + scale · (conditional − unconditional); guidance is off at 1 and below, as in diffusers.
        channels: how many of the first channels are guided, the others being the conditional ones; None: all.
        interval: guide the steps whose fraction ``step / num_steps`` is at least the first and below the second
            number, both in 0 … 1 (Kynkäänniemi et al. 2024).
        rescale: 0 … 1, how far the guided prediction is brought back to the standard deviation of the conditional
            one, sample by sample (Lin et al. 2023, section 3.4), over the guided channels.
        batched: whether the two predictions come from one call of the denoiser; of use to the caller only.
        token: latent pixels on a side of a token, each of which is brought back to the length of the conditional one
            over its pixels and all channels (Qwen-Image); None: they stay.
        skip: skip-layer guidance on top, in steps that are guided; of use to the caller only.
        variance: whether a learned variance is guided too, by the scale alone; of use to the caller only.
        any_scale: guide at a scale of 1 and below too: of the second of two denoisers in a run whose first is guided.

    Raises:
        InputError: a number is not finite or out of range.
    """

    scale: float
    channels: int | None = None
    interval: tuple[float, float] = (0.0, 1.0)
    rescale: float = 0.0
    batched: bool = True
    token: int | None = None
    skip: SkipLayerGuidance | None = None
    variance: bool = False
    any_scale: bool = False

    def __post_init__(self) -> None:
        if not _is_number(self.scale) or not math.isfinite(self.scale):
            raise InputError(f"guidance_scale: {self.scale!r} came, a finite number was expected")
        whole = isinstance(self.channels, (int, np.integer)) and not isinstance(self.channels, bool)
        if self.channels is not None and not (whole and self.channels >= 1):
            raise InputError(
                f"guidance channels: {self.channels!r} came, an integer of 1 or more, or None, was expected"
            )
        ends = self.interval if isinstance(self.interval, (tuple, list)) else ()
        if len(ends) != 2 or not all(_is_number(end) for end in ends) or not 0.0 <= ends[0] <= ends[1] <= 1.0:
            raise InputError(
                f"guidance interval: {self.interval!r} came, two fractions with 0 <= first <= second <= 1 expected"
            )
        if not _is_number(self.rescale) or not 0.0 <= self.rescale <= 1.0:
            raise InputError(f"guidance rescale: {self.rescale!r} came, a number of 0 to 1 was expected")

    def active(self, step: int, num_steps: int) -> bool:
        """Return whether inference step ``step`` (0 … num_steps − 1) is guided."""
        low, high = self.interval
        return (self.any_scale or self.scale > 1.0) and low <= step / num_steps < high

    def combine(self, conditional: Array, unconditional: Array, out: Array | None = None) -> Array:
        """Return the guided prediction, float32 [batch, channels, …].

        Args:
            conditional: the prediction for the condition, [batch, channels, …].
            unconditional: the same shape.
            out: where the result goes; may be ``conditional`` itself, not ``unconditional``.

        Raises:
            InputError: the shapes differ, or there are fewer channels than ``channels``.
        """
        if conditional.shape != unconditional.shape or conditional.ndim < 2:
            raise InputError(
                f"guidance: predictions of shapes {conditional.shape} and {unconditional.shape} came, "
                "two of the same shape [batch, channels, …] were expected"
            )
        channels = conditional.shape[1] if self.channels is None else self.channels
        if channels > conditional.shape[1]:
            raise InputError(f"guidance channels: {channels} came, the prediction has {conditional.shape[1]}")
        if out is None:
            out = np.empty(conditional.shape, np.float32)
        before = _deviations(conditional[:, :channels]) if self.rescale else None
        lengths = None if self.token is None else _token_lengths(conditional[:, :channels], self.token)
        if out is not conditional:
            out[:, channels:] = conditional[:, channels:]
        guided = out[:, :channels]
        np.subtract(conditional[:, :channels], unconditional[:, :channels], out=guided)
        guided *= np.float32(self.scale)
        guided += unconditional[:, :channels]
        if lengths is not None:
            assert self.token is not None
            _scale_tokens(guided, lengths / _token_lengths(guided, self.token), self.token)
        if before is not None:
            after = _deviations(guided)
            # a constant prediction has no deviation to bring back
            ratios = np.divide(before, after, out=np.ones_like(after), where=after > 0.0)
            factors = self.rescale * ratios + (1.0 - self.rescale)
            guided *= factors.astype(np.float32).reshape(-1, *[1] * (guided.ndim - 1))
        return out


def _deviations(array: Array) -> NDArray[np.float64]:
    """The sample standard deviation of each batch element, in float64 without a copy of the array."""
    deviations = []
    for element in array:
        flat = element.reshape(-1)
        mean = float(np.mean(flat, dtype=np.float64))
        square = float(np.einsum("i,i->", flat, flat, dtype=np.float64, casting="same_kind"))
        deviations.append(math.sqrt(max(square - flat.size * mean**2, 0.0) / max(flat.size - 1, 1)))
    return np.array(deviations)


def _tokens(array: Array, token: int) -> Array:
    """A view [batch, channels, …, rows, token, columns, token] of [batch, channels, …, height, width]."""
    *rest, height, width = array.shape
    return array.reshape(*rest, height // token, token, width // token, token)


def _token_lengths(array: Array, token: int) -> Array:
    """The Euclidean length of each token, [batch, 1, …, rows, 1, columns, 1]."""
    view = _tokens(array, token)
    return np.sqrt(np.square(view).sum(axis=(1, -3, -1), keepdims=True))


def _scale_tokens(array: Array, factors: Array, token: int) -> None:
    view = _tokens(array, token)  # splitting axes never copies
    np.multiply(view, factors, out=view)


def _is_index(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(value >= 0)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
