"""From frames and pixels to the grid of patches that a denoiser really sees: whole patches, in whole latent frames.

A picture of 1080 rows has 67.5 rows of patches of 16 pixels, and no transformer sees half a row: the picture is padded
to 68, or it has 1088 rows. So 1920 × 1080 × 120 in patches of 16 × 16 × 2, often quoted as 486,000 patches, is a grid
of 120 × 68 × 60, which is 489,600; where the first frame is a patch of its own, as SpacetimeDiT has it, 121 frames are
61 patches long, and the grid has 497,760.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dit_deploy.errors import InputError

__all__ = ["Grid", "Video", "patch_grid"]


@dataclass(frozen=True)
class Video:
    """What becomes of a video's frames.

    Attributes:
        frames: of the usual video.
        temporal_compression: frames of a latent frame.
        temporal_patch_size: latent frames of a patch; where they are no multiple, the model pads them.
        causal: the first frame is a latent frame of its own: ``temporal_compression`` · k + 1 frames.
        odd_latents: latent frames are decoded in twos with the first alone, so they are odd (CogVideoX).
    """

    frames: int
    temporal_compression: int = 4
    temporal_patch_size: int = 1
    causal: bool = True
    odd_latents: bool = False


@dataclass(frozen=True)
class Grid:
    """The patches of one sample.

    Attributes:
        frames, rows, columns: of patches.
        num_frames, height, width: frames and pixels that such a grid holds, padding included.
        notes: a line for each size that had to be rounded up.
    """

    frames: int
    rows: int
    columns: int
    num_frames: int
    height: int
    width: int
    notes: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        """How many patches there are."""
        return self.frames * self.rows * self.columns


def patch_grid(height: int, width: int, pixels: int, frames: int = 1, video: Video | None = None) -> Grid:
    """Return the grid that holds a video or a picture of the given size; sizes in between are rounded up, and say so.

    Args:
        height, width: pixels.
        pixels: on a side of a patch.
        frames: of a video.
        video: what becomes of them; ``None``: one picture.

    Raises:
        InputError: a size is below 1.
    """
    for name, size in (("height", height), ("width", width), ("frames", frames)):
        if size < 1:
            raise InputError(f"{name}: {size} came, an integer of 1 or more was expected")
    if video is None and frames != 1:
        raise InputError(f"frames: {frames} came for a model that draws pictures; leave it out")
    notes: list[str] = []
    rows, columns = -(-height // pixels), -(-width // pixels)
    for name, kind, size, count in (("height", "rows", height, rows), ("width", "columns", width, columns)):
        if size % pixels:
            notes.append(
                f"{name}: {size} pixels are {size / pixels:g} {kind} of patches of {pixels}; planned are {count} "
                f"{kind}, {count * pixels} pixels, the last {count * pixels - size} of them padding"
            )
    if video is None:
        grid = Grid(1, rows, columns, 1, rows * pixels, columns * pixels)
        quoted = height * width / pixels**2
    else:
        held, latents = _frames(video, frames)
        if held != frames:
            notes.append(_frames_note(video, frames, held))
        patches = -(-latents // video.temporal_patch_size)
        grid = Grid(patches, rows, columns, held, rows * pixels, columns * pixels)
        quoted = height * width / pixels**2 * frames / (video.temporal_compression * video.temporal_patch_size)
    if notes:
        notes.append(
            f"{grid.tokens:,} patches is this grid of {grid.frames} × {grid.rows} × {grid.columns}; "
            f"the product unrounded, {quoted:,.10g}, is no grid's"
        )
    return Grid(grid.frames, rows, columns, grid.num_frames, grid.height, grid.width, tuple(notes))


def _step(video: Video) -> tuple[int, int]:
    """Return (step, first): frames are first, first + step, …"""
    if not video.causal:
        step = video.temporal_compression * video.temporal_patch_size
        return step, step
    return video.temporal_compression * (2 if video.odd_latents else 1), 1


def _frames(video: Video, frames: int) -> tuple[int, int]:
    """Return the next count of frames that the VAE takes, and its latent frames."""
    step, first = _step(video)
    held = first + step * max(0, math.ceil((frames - first) / step))
    return held, (held - 1) // video.temporal_compression + 1 if video.causal else held // video.temporal_compression


def _frames_note(video: Video, frames: int, held: int) -> str:
    step, first = _step(video)
    form = f"{step}·k + 1" if first == 1 and step > 1 else f"{step}·k"
    below = held - step
    nearest = f"{below} or {held}" if below >= 1 else str(held)
    return f"frames: {frames} is not {form}, which this model takes; the nearest are {nearest}, planned are {held}"
