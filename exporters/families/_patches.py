"""Pictures cut into patches, one a token, and put together again; sizes stay symbolic."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

__all__ = ["packed", "unpacked", "unpatchified"]


def packed(latents: Tensor, patch: int) -> Tensor:
    """Return latents [batch, channels, height, width] as tokens [batch, patches, channels · patch²], row by row.

    A token holds [channels, patch, patch], as ``_pack_latents`` of FLUX's and Qwen-Image's pipelines.
    """
    batch, channels, height, width = latents.shape
    rows, columns = height // patch, width // patch
    x = latents.reshape(batch, channels, rows, patch, columns, patch).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(batch, rows * columns, channels * patch**2)


def unpacked(tokens: Tensor, shape: Sequence[int], patch: int) -> Tensor:
    """Return the latents of ``shape`` [batch, channels, height, width] that :func:`packed` makes ``tokens`` of."""
    batch, channels, height, width = shape
    x = tokens.reshape(batch, height // patch, width // patch, channels, patch, patch).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(batch, channels, height, width)


def unpatchified(tokens: Tensor, rows: int, columns: int, patch: int, channels: int) -> Tensor:
    """Return tokens [batch, rows · columns, patch² · channels] as [batch, channels, rows · patch, columns · patch].

    A token holds [patch, patch, channels], as the last layer of the DiT and its descendants gives it.
    """
    x = tokens.reshape(-1, rows, columns, patch, patch, channels).permute(0, 5, 1, 3, 2, 4)
    return x.reshape(-1, channels, rows * patch, columns * patch)
