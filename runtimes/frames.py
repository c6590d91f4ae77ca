"""How many latent frames a number of pictures is, and the other way: the VAE decoder's axes say it."""

from __future__ import annotations

import numpy as np

from dit_deploy.bundle import Axis, Manifest
from dit_deploy.errors import InputError
from dit_deploy.runtimes.arguments import shown

__all__ = ["check_frames", "frames_axes", "is_video", "latent_frames", "pixel_frames"]

#: How far the next numbers of frames that a bundle takes are looked for; beyond it a message names none.
_FAR = 256


def is_video(manifest: Manifest) -> bool:
    """Return whether the bundle's latents have frames."""
    return manifest.latents.frames is not None


def frames_axes(manifest: Manifest) -> tuple[Axis, Axis]:
    """Return the axes of frames of the pictures and of the latents, which share their free size."""
    decoder = manifest.components.get("vae_decoder")
    if decoder is not None and len(decoder.input("latents").axes) == 5:
        pictures, latents = decoder.output("images").axes[2], decoder.input("latents").axes[2]
        assert isinstance(pictures, Axis) and isinstance(latents, Axis)  # the manifest was held against this
        return pictures, latents
    compression = 1 if decoder is not None else manifest.latents.temporal_compression
    latents = Axis(name="latent_frames")
    return Axis(name="latent_frames", multiple=compression, offset=1 - compression), latents


def pixel_frames(manifest: Manifest, frames: int) -> int:
    """Return how many pictures ``frames`` latent frames are."""
    pictures, latents = frames_axes(manifest)
    free = latents.free(frames)
    if free is None:
        raise InputError(f"the VAE decoder takes no {frames} latent frames")
    return pictures.size(free)


def latent_frames(manifest: Manifest, num_frames: object = None) -> int | None:
    """Return how many latent frames ``num_frames`` pictures are, for ``None`` the usual number; ``None`` for a picture.

    Raises:
        InputError: it is no number of frames that the VAE and the denoiser take; the message names the nearest.
    """
    if not is_video(manifest):
        if num_frames is not None:
            raise InputError(f"num_frames: {shown(num_frames)} came, but this bundle draws pictures; leave it out")
        return None
    if num_frames is None:
        return manifest.latents.frames
    if isinstance(num_frames, bool) or not isinstance(num_frames, (int, np.integer)):
        raise InputError(f"num_frames: {shown(num_frames)} came, an integer was expected")
    if (found := _latents_of(manifest, int(num_frames))) is not None:
        return found
    near = [n for n in _outwards(int(num_frames)) if n > 0 and _latents_of(manifest, n) is not None][:2]
    nearest = f"; the nearest are {' and '.join(map(str, sorted(near)))}" if near else ""
    raise InputError(f"num_frames: {num_frames} came, which does not fit this model{_rule(manifest)}{nearest}")


def check_frames(manifest: Manifest, frames: int, what: str) -> int:
    """Return the latent frames of a video of ``frames`` pictures that a caller brought; see :func:`latent_frames`."""
    try:
        found = latent_frames(manifest, frames)
    except InputError as error:
        raise InputError(f"{what}: {str(error).removeprefix('num_frames: ')}; cut it to one of these") from None
    assert found is not None
    return found


def _latents_of(manifest: Manifest, num_frames: int) -> int | None:
    pictures, latents = frames_axes(manifest)
    free = pictures.free(num_frames)
    if free is None or latents.free(latents.size(free)) is None:
        return None
    axis = manifest.components["denoiser"].input("latents").axes[2]
    frames = latents.size(free)
    return frames if isinstance(axis, Axis) and axis.free(frames) is not None else None


def _outwards(middle: int) -> list[int]:
    return [middle + sign * distance for distance in range(1, _FAR) for sign in (-1, 1)]


def _rule(manifest: Manifest) -> str:
    pictures, _ = frames_axes(manifest)
    if pictures.multiple == 1:
        return ""
    return f" (expected {pictures.offset % pictures.multiple} more than a multiple of {pictures.multiple})"
