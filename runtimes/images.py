"""Pictures on their way in and out: files, PIL images and arrays ↔ float arrays in 0 … 1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from dit_deploy.errors import InputError

__all__ = ["ImageInput", "read_images", "to_pil"]

Floats = NDArray[np.float32]
ImageInput = str | Path | Image.Image | NDArray[Any] | Sequence["str | Path | Image.Image"]


def read_images(image: ImageInput, *, multiple: int, channels: int, height: int | None, width: int | None) -> Floats:
    """Return pictures as [batch, channels, height, width] in 0 … 1.

    Files and PIL images are turned upright, made RGB (or grey for one channel) and resized by Lanczos to
    ``height`` × ``width``; without these, to their own size rounded down to ``multiple``. Arrays
    ([batch,] height, width, channels; uint8, or float in 0 … 1) are taken as they are.

    Raises:
        InputError: a file cannot be read, an array is of another shape, type or range, or sizes differ.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image, multiple, channels, height, width)
    several = [image] if isinstance(image, (str, Path, Image.Image)) else list(image)
    if not several:
        raise InputError("image: an empty list came, at least one picture expected")
    first = _open(several[0], channels)
    size = (width or first.width // multiple * multiple, height or first.height // multiple * multiple)
    if not all(size):
        raise InputError(f"image: {first.width}×{first.height} pixels came, at least {multiple}×{multiple} expected")
    arrays = [np.asarray(_open(one, channels).resize(size, Image.Resampling.LANCZOS)) for one in several]
    return _from_array(np.stack(arrays), multiple, channels, height, width)


def to_pil(images: Floats) -> list[Image.Image]:
    """Return [batch, height, width, 3] (or 1) in 0 … 1 as PIL images, rounded as diffusers rounds."""
    rounded = (images * 255).round().astype(np.uint8)
    return [Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image) for image in rounded]


def _open(image: str | Path | Image.Image, channels: int) -> Image.Image:
    if not isinstance(image, Image.Image):
        try:
            image = Image.open(image)
            image.load()
        except FileNotFoundError:
            raise InputError(f"image: {image} does not exist") from None
        except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise InputError(f"image: {image} cannot be read as a picture: {str(error)[:200]}") from error
    return ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")


def _from_array(array: NDArray[Any], multiple: int, channels: int, height: int | None, width: int | None) -> Floats:
    if array.ndim == 3 and (channels != 1 or array.shape[-1] == 1):
        array = array[None]
    if channels == 1 and array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[-1] != channels:
        raise InputError(f"image: shape {array.shape} came, expected [batch, height, width, {channels}]")
    if array.dtype == np.uint8:
        array = array.astype(np.float32) / 255
    elif not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"image: dtype {array.dtype} came, expected uint8, or float in 0 … 1")
    # A negated test, so that NaN fails it too.
    if not (array.min() >= 0 and array.max() <= 1):
        raise InputError(f"image: values {array.min():g} … {array.max():g} came, expected 0 … 1")
    for axis, size, wanted in (("height", array.shape[1], height), ("width", array.shape[2], width)):
        if size % multiple:
            raise InputError(
                f"image: {axis} {size} is no multiple of {multiple}; the nearest is {nearest(size, multiple)}"
            )
        if wanted not in (None, size):
            raise InputError(
                f"image: {axis} {size} came, but {axis}={wanted} was asked for; resize the array, or leave it out"
            )
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2), dtype=np.float32)


def nearest(size: int, multiple: int) -> int:
    """Return the multiple of ``multiple`` that is nearest to ``size``, and at least one of it."""
    return max(1, round(size / multiple)) * multiple
