"""A picture piece by piece through the VAE, blended where the pieces overlap, as diffusers' ``AutoencoderKL`` does it.

Pieces overlap by a quarter. Over the overlap each fades linearly into the next, below first, then beside; what is
blended already is blended again. An encoder's deviation is blended as a logarithm, which is what diffusers blends.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["OVERLAP", "assemble", "pieces"]

Floats = NDArray[np.float32]

#: The part of a piece that it shares with the next one.
OVERLAP = 0.25


def pieces(height: int, width: int, tile: int) -> Iterator[Iterator[tuple[slice, slice]]]:
    """Yield the rows of pieces of a ``height`` × ``width`` grid, each at most ``tile`` on a side."""
    stride = max(1, int(tile * (1 - OVERLAP)))
    for top in range(0, height, stride):
        yield ((slice(top, top + tile), slice(left, left + tile)) for left in range(0, width, stride))


def assemble(rows: Iterator[Iterator[Floats]], out: Floats, tile: int) -> Floats:
    """Blend rows of pieces [batch, channels, ≤ tile, ≤ tile] into ``out`` [batch, channels, height, width]; return it.

    Only one row of pieces is kept, whatever the picture's size. Pieces are changed in place.
    """
    overlap = int(tile * OVERLAP)
    limit = tile - overlap
    above: list[Floats] = []
    top = 0
    for row in rows:
        done: list[Floats] = []
        left = 0
        for column, piece in enumerate(row):
            if above:
                _fade(above[column], piece, overlap, axis=2)
            if done:
                _fade(done[-1], piece, overlap, axis=3)
            kept = piece[:, :, :limit, :limit]
            target = out[:, :, top : top + kept.shape[2], left : left + kept.shape[3]]
            target[...] = kept[:, :, : target.shape[2], : target.shape[3]]
            left += kept.shape[3]
            done.append(piece)
        above = done
        top += limit
    return out


def _fade(before: Floats, piece: Floats, extent: int, axis: int) -> None:
    """Blend the end of ``before`` along ``axis`` into the beginning of ``piece``."""
    extent = min(before.shape[axis], piece.shape[axis], extent)
    if extent == 0:
        return
    shape = [1, 1, 1, 1]
    shape[axis] = extent
    share = (np.arange(extent, dtype=np.float32) / np.float32(extent)).reshape(shape)
    end = np.take(before, range(before.shape[axis] - extent, before.shape[axis]), axis=axis)
    beginning = piece[:, :, :extent] if axis == 2 else piece[:, :, :, :extent]
    beginning[...] = end * (1 - share) + beginning * share
