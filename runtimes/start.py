"""What a run starts from instead of noise: a picture, or a video."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dit_deploy.bundle import Manifest
from dit_deploy.errors import InputError
from dit_deploy.runtimes.frames import is_video
from dit_deploy.runtimes.images import ImageInput, read_images
from dit_deploy.runtimes.video import VideoInput, read_video

__all__ = ["read_start"]

Floats = NDArray[np.float32]


def read_start(
    manifest: Manifest,
    image: ImageInput | None,
    video: VideoInput | None,
    *,
    batch: int,
    frames: int | None,
    height: int | None,
    width: int | None,
    multiple: int,
) -> Floats | None:
    """Return what a run starts from, [batch or 1, channels, [frames,] height, width] in 0 … 1; ``None``: noise.

    Args:
        frames: how many pictures of ``video`` to take; ``None``: all.
        height, width: checked sizes in pixels; ``None``: those of the picture.
        multiple: what both are multiples of.

    Raises:
        InputError: it cannot be read, the bundle is of the other kind or has no VAE encoder, or there are neither one
            picture nor ``batch``.
    """
    if image is None and video is None:
        return None
    if image is not None and video is not None:
        raise InputError("image and video: both came; give the one to start from")
    if image is not None and is_video(manifest):
        raise InputError("image: this bundle makes videos; give video=")
    if video is not None and not is_video(manifest):
        raise InputError("video: this bundle draws pictures; give image=")
    if "vae_encoder" not in manifest.components:
        raise InputError(f"{'image' if video is None else 'video'}: this bundle has no VAE encoder; export with a VAE")
    channels = manifest.components["vae_encoder"].input("images").axes[1]
    assert isinstance(channels, int)
    if video is not None:
        return read_video(video, multiple=multiple, channels=channels, frames=frames, height=height, width=width)
    assert image is not None
    pictures = read_images(image, multiple=multiple, channels=channels, height=height, width=width)
    if len(pictures) not in (1, batch):
        raise InputError(f"image: {len(pictures)} pictures came, 1 or {batch} expected, as there are labels")
    return pictures
