"""Pictures that the reference is given, for the networks of the source and for diffusers' own pipeline."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dit_deploy.bundle import Manifest
from dit_deploy.errors import InputError
from dit_deploy.runtimes.image_conditions import Pictures, read_pictures
from dit_deploy.runtimes.images import ImageInput, open_images

__all__ = ["given_pictures", "picture_files", "to_start_from"]

Floats = NDArray[np.float32]


def given_pictures(
    manifest: Manifest,
    image: ImageInput | None,
    last_image: ImageInput | None,
    *,
    batch: int,
    height: int,
    width: int,
) -> Pictures | None:
    """Return what a video shall contain, as a bundle reads it; see :func:`read_pictures`."""
    latents = manifest.latents
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that one is stretched, which the engine's side says
        return read_pictures(
            manifest,
            image,
            last_image,
            batch=batch,
            height=height,
            width=width,
            multiple=latents.patch_size * latents.spatial_compression,
        )


def to_start_from(image: ImageInput | None) -> Floats | None:
    """Return what image-to-image starts from; :class:`InputError` for what is no array."""
    if image is None or isinstance(image, np.ndarray):
        return image
    raise InputError(f"image: {type(image).__name__} came, expected float32 [batch or 1, height, width, channels]")


def picture_files(**pictures: ImageInput | None) -> dict[str, list[Image.Image]]:
    """Return pictures that are files or PIL images by the argument's name; nothing where one is an array."""
    given = {name: one for name, one in pictures.items() if one is not None}
    if any(isinstance(one, np.ndarray) for one in given.values()):
        return {}
    return {name: open_images(one, 3, name) for name, one in given.items() if not isinstance(one, np.ndarray)}
