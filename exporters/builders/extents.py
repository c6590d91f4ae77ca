"""Sizes as people say them: ``2x256x256``, two pictures of 256 × 256 pixels; ``1x17x256x256``, a video of 17 frames."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from dit_deploy.bundle import Manifest
from dit_deploy.errors import InputError
from dit_deploy.runtimes.frames import latent_frames, pixel_frames

__all__ = ["Ends", "Extent", "parse_extent", "usual_extent", "with_frames", "within"]

#: Minimum, optimum and maximum of one size.
Ends = tuple[int, int, int]


@dataclass(frozen=True, order=True)
class Extent:
    """So many pictures of a size in pixels: ``Extent(256, 512, 2)`` is two pictures 256 high and 512 wide.

    ``batch`` is ``None`` where it was left open; ``frames``, of a video, where the usual number is meant.
    """

    height: int
    width: int
    batch: int | None = None
    frames: int | None = None

    def __str__(self) -> str:
        sizes = (self.batch, self.frames, self.height, self.width)
        return "x".join(str(size) for size in sizes if size is not None)


_SIZE = r"([1-9][0-9]{0,5})"


def parse_extent(text: str, option: str = "resolution") -> Extent:
    """Read ``BxHxW``, ``HxW`` or, of a video, ``BxFxHxW``: pictures or videos, frames, pixels.

    Raises:
        InputError: it is anything else; the message names ``option``.
    """
    found = re.fullmatch(f"(?:{_SIZE}x(?:{_SIZE}x)?)?{_SIZE}x{_SIZE}", text.strip().lower())
    if found is None:
        raise InputError(
            f"{option}: {text!r} came, expected BxHxW or HxW, pictures and pixels, such as 2x256x256 or 256x256; "
            "of a video BxFxHxW, with its frames"
        )
    batch, frames, height, width = (None if size is None else int(size) for size in found.groups())
    assert height is not None and width is not None
    return Extent(height, width, batch, frames)


def usual_extent(manifest: Manifest) -> Extent:
    """Return the training size."""
    latents = manifest.latents
    frames = None if latents.frames is None else pixel_frames(manifest, latents.frames)
    return Extent(
        latents.height * latents.spatial_compression, latents.width * latents.spatial_compression, None, frames
    )


def within(best: Extent, low: Extent | None, high: Extent | None) -> Extent:
    """Return ``best`` moved into the range from ``low`` to ``high``; its batch stays open."""
    height, width, frames = best.height, best.width, best.frames
    if low is not None:
        height, width = max(height, low.height), max(width, low.width)
        frames = frames and max(frames, low.frames or frames)
    if high is not None:
        height, width = min(height, high.height), min(width, high.width)
        frames = frames and min(frames, high.frames or frames)
    return Extent(height, width, None, frames)


def with_frames(manifest: Manifest, extent: Extent, otherwise: Extent) -> Extent:
    """Return ``extent`` with frames where it is a video's, those of ``otherwise`` where it says none.

    Raises:
        InputError: frames came for pictures, or do not fit the model's compression of time.
    """
    if manifest.latents.frames is None:
        if extent.frames is not None:
            raise InputError(f"{extent}: frames came, but this bundle draws pictures; expected BxHxW or HxW")
        return extent
    if extent.frames is None:
        return replace(extent, frames=otherwise.frames)
    latent_frames(manifest, extent.frames)
    return extent
