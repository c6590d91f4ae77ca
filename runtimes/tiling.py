"""Latents piece by piece through the VAE, blended where the pieces overlap, as diffusers' autoencoders do it.

In space each piece fades linearly into the next, below first, then beside; what is blended already is blended again. An
encoder's deviation is blended as a logarithm, which is what diffusers blends. In time, pieces after the first begin
one frame early, as a causal autoencoder makes one picture of its first latent frame; that one is dropped, and the rest
fades into what came before.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dit_deploy.bundle import Tiling

__all__ = ["Pieces", "Span", "assemble", "assemble_frames", "grid", "square", "times"]

Floats = NDArray[np.float32]

#: The part of a piece that it shares with the next one, where a family's own tiling is not asked for.
_OVERLAP = 0.25


class Span(NamedTuple):
    """How long a piece is along an axis, and how far it is to the next one."""

    tile: int
    stride: int

    def scaled(self, by: int) -> Span:
        """Return the span in units that are ``by`` times smaller."""
        return Span(self.tile * by, self.stride * by)

    @property
    def overlap(self) -> int:
        """What a piece shares with the next."""
        return self.tile - self.stride


@dataclass(frozen=True)
class Pieces:
    """How latents are cut; ``None`` along an axis: they are not. Lengths are in latent pixels and latent frames.

    ``samples`` is how many samples are decoded at once at most; ``None``: as many as their size suggests.
    """

    height: Span | None = None
    width: Span | None = None
    frames: Span | None = None
    samples: int | None = None

    @classmethod
    def of(cls, tiling: Tiling, *, in_space: bool = True) -> Pieces:
        """Return the pieces of a family's own tiling, in time alone where ``in_space`` is false."""
        frames = None
        if tiling.tile_frames is not None and tiling.stride_frames is not None:
            frames = Span(tiling.tile_frames, tiling.stride_frames)
        if not in_space:
            return cls(frames=frames)
        return cls(Span(tiling.tile_height, tiling.stride_height), Span(tiling.tile_width, tiling.stride_width), frames)

    def cuts_space(self, height: int, width: int) -> bool:
        """Return whether latents of that size are cut in space."""
        spans = ((self.height, height), (self.width, width))
        return any(span is not None and length > span.tile for span, length in spans)

    def cuts_time(self, frames: int) -> bool:
        """Return whether so many frames are cut in time."""
        return self.frames is not None and frames > self.frames.tile

    def cuts(self, size: tuple[int, ...]) -> bool:
        """Return whether latents of ``size``, [frames,] height, width, are cut at all."""
        return self.cuts_space(size[-2], size[-1]) or (len(size) == 3 and self.cuts_time(size[0]))

    def count(self, size: tuple[int, ...]) -> int:
        """Return how many pieces latents of ``size`` are cut into."""
        count = sum(len(list(row)) for row in grid(size[-2], size[-1], self)) if self.cuts_space(*size[-2:]) else 1
        if len(size) == 3 and self.frames is not None and self.cuts_time(size[0]):
            count *= len(list(times(size[0], self.frames)))
        return count

    def extent(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Return the size of the largest piece of latents of ``size``, [frames,] height, width."""
        plane = tuple(
            min(length, span.tile) if span is not None and self.cuts_space(*size[-2:]) else length
            for length, span in zip(size[-2:], (self.height, self.width), strict=True)
        )
        if len(size) == 2:
            return plane
        return (size[0] if self.frames is None else min(size[0], self.frames.tile + 1), *plane)

    def largest(self, size: tuple[int, ...]) -> int:
        """Return how many latent pixels the largest piece of latents of ``size`` has, over all its frames."""
        return math.prod(self.extent(size))


def square(tile: int, frames: Span | None = None) -> Pieces:
    """Return pieces of ``tile`` latent pixels on a side that share a quarter, as ``AutoencoderKL`` cuts pictures."""
    span = Span(tile, max(1, int(tile * (1 - _OVERLAP))))
    return Pieces(span, span, frames)


def grid(height: int, width: int, pieces: Pieces) -> Iterator[Iterator[tuple[slice, slice]]]:
    """Yield the rows of pieces of a ``height`` × ``width`` grid."""
    for rows in _cuts(height, pieces.height):
        yield ((rows, columns) for columns in _cuts(width, pieces.width))


def times(frames: int, span: Span) -> Iterator[slice]:
    """Yield the latent frames of each piece; those after the first begin with one that the piece before has too."""
    for first in range(0, frames, span.stride):
        last = min(first + span.tile + 1, frames)
        if first == 0 or last - first > 1:  # what is left may be the shared frame alone
            yield slice(first, last)


def assemble(
    rows: Iterable[Iterable[Floats]], size: tuple[int, int], height: Span | None, width: Span | None
) -> Floats:
    """Blend rows of pieces [batch, channels, …, rows, columns] into one array whose last axes have ``size``.

    Only one row of pieces is kept beside it, whatever the size. Pieces are changed in place. The spans are in the units
    of ``size``.
    """
    down, across = height or Span(size[0], size[0]), width or Span(size[1], size[1])
    out: Floats | None = None
    above: list[Floats] = []
    top = 0
    for row in rows:
        done: list[Floats] = []
        left = 0
        for column, piece in enumerate(row):
            if out is None:
                out = np.empty((*piece.shape[:-2], *size), np.float32)
            if above:
                _fade(above[column], piece, down.overlap, axis=-2)
            if done:
                _fade(done[-1], piece, across.overlap, axis=-1)
            kept = piece[..., : down.stride, : across.stride]
            target = out[..., top : top + kept.shape[-2], left : left + kept.shape[-1]]
            target[...] = kept[..., : target.shape[-2], : target.shape[-1]]
            left += kept.shape[-1]
            done.append(piece)
        above = done
        top += down.stride
    assert out is not None
    return out


def assemble_frames(pieces: Iterable[Floats], frames: int, span: Span) -> Floats:
    """Blend pieces [batch, channels, frames, …] that follow each other in time into one of ``frames``.

    The first keeps ``stride`` frames and one more; of each later one the first frame is dropped, and ``stride`` are
    kept. Pieces are changed in place. The span is in the units of ``frames``.
    """
    out: Floats | None = None
    before: Floats | None = None
    first = 0
    for piece in pieces:
        if out is None or before is None:
            out = np.empty((*piece.shape[:2], frames, *piece.shape[3:]), np.float32)
            kept = piece[:, :, : span.stride + 1]
        else:
            piece = piece[:, :, 1:]
            _fade(before, piece, span.overlap, axis=2)
            kept = piece[:, :, : span.stride]
        kept = kept[:, :, : frames - first]
        out[:, :, first : first + kept.shape[2]] = kept
        first += kept.shape[2]
        before = piece
    assert out is not None
    return out


def _cuts(length: int, span: Span | None) -> list[slice]:
    if span is None:
        return [slice(0, length)]
    return [slice(first, min(first + span.tile, length)) for first in range(0, length, span.stride)]


def _fade(before: Floats, piece: Floats, extent: int, axis: int) -> None:
    """Blend the end of ``before`` along ``axis`` into the beginning of ``piece``."""
    extent = min(before.shape[axis], piece.shape[axis], extent)
    if extent == 0:
        return
    end = np.moveaxis(before, axis, 0)[before.shape[axis] - extent :]
    beginning = np.moveaxis(piece, axis, 0)[:extent]
    share = (np.arange(extent, dtype=np.float32) / np.float32(extent)).reshape(extent, *[1] * (piece.ndim - 1))
    beginning[...] = end * (1 - share) + beginning * share
