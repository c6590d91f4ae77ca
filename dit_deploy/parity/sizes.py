"""The size at which a bundle is tried out on a CPU: its usual one, smaller of a video that would take hours."""

from __future__ import annotations

import math

from dit_deploy.bundle import Axis, Manifest
from dit_deploy.runtimes.frames import frames_axes, is_video, latent_frames, pixel_frames

__all__ = ["tried_patches", "tried_size"]

#: Patches of a video at most: those of a picture of 512 pixels.
_PATCHES = 1 << 10
#: Patches that are left along an axis at least: motion, and both sides, are still there.
_LEAST = 4


def tried_size(manifest: Manifest) -> dict[str, int]:
    """Return ``num_frames``, ``height`` and ``width`` of a video to try the bundle with; nothing of a picture.

    Time is shortened first, then both sides are halved.
    """
    if not is_video(manifest):
        return {}
    frames, rows, columns = _usual(manifest)
    while frames * rows * columns > _PATCHES and frames > _LEAST:
        frames = max(_LEAST, frames // 2)
    high, wide = manifest.components["denoiser"].input("latents").axes[-2:]
    assert isinstance(high, Axis) and isinstance(wide, Axis)
    least = max(_LEAST, high.minimum), max(_LEAST, wide.minimum)  # a grid may be the only one
    while frames * rows * columns > _PATCHES and rows >= 2 * least[0] and columns >= 2 * least[1]:
        rows, columns = rows // 2, columns // 2
    unit = manifest.latents.patch_size * manifest.latents.spatial_compression
    return {"num_frames": _pictures(manifest, frames), "height": rows * unit, "width": columns * unit}


def tried_patches(manifest: Manifest) -> int:
    """Return how many patches a sample of that size has."""
    size = tried_size(manifest)
    if not size:
        return math.prod(_usual(manifest))
    unit = manifest.latents.patch_size * manifest.latents.spatial_compression
    frames = _axis(manifest).free(latent_frames(manifest, size["num_frames"]) or 1) or 1
    return frames * (size["height"] // unit) * (size["width"] // unit)


def _usual(manifest: Manifest) -> tuple[int, int, int]:
    """Return the frames, rows and columns of patches of the usual size."""
    latents = manifest.latents
    frames = 1 if latents.frames is None else _axis(manifest).free(latents.frames) or 1
    return frames, latents.height // latents.patch_size, latents.width // latents.patch_size


def _axis(manifest: Manifest) -> Axis:
    """Return the axis of frames of the denoiser."""
    axis = manifest.components["denoiser"].input("latents").axes[2]
    assert isinstance(axis, Axis)
    return axis


def _pictures(manifest: Manifest, frames: int) -> int:
    """Return the pictures of the longest video of at most so many patches in time, else of the shortest there is."""
    axis, decoded = _axis(manifest), frames_axes(manifest)[1]
    lengths = {
        latents: patches
        for latents in range(1, (manifest.latents.frames or 1) + 1)
        if decoded.free(latents) is not None and (patches := axis.free(latents)) is not None
    }
    short = [latents for latents, patches in lengths.items() if patches <= frames]
    return pixel_frames(manifest, max(short) if short else min(lengths))
