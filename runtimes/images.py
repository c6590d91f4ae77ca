"""Pictures on their way in and out: files, PIL images and arrays ↔ float arrays in 0 … 1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from dit_deploy.errors import InputError
from dit_deploy.runtimes.arguments import nearest, shown

__all__ = ["ImageInput", "open_images", "read_images", "to_pil"]

Floats = NDArray[np.float32]
_LARGEST_16_BIT = 65535
ImageInput = str | Path | Image.Image | NDArray[Any] | Sequence["str | Path | Image.Image"]


def read_images(
    image: ImageInput, *, multiple: int, channels: int, height: int | None, width: int | None, name: str = "image"
) -> Floats:
    """Return pictures as [batch, channels, height, width] in 0 … 1.

    Files and PIL images are turned upright, laid over white where they are transparent, made RGB (or grey for one
    channel) in 8 bits and resized by Lanczos to ``height`` × ``width``; without these, to their own size rounded
    down to ``multiple``. Arrays ([batch,] height, width, channels; uint8, or float in 0 … 1) are taken as they are.

    Args:
        height, width: checked sizes in pixels, or ``None``.
        name: of the argument, for messages.

    Raises:
        InputError: a file cannot be read, an array is of another shape, type or range, or sizes differ.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image, multiple, channels, height, width, name)
    pictures = open_images(image, channels, name)
    first = pictures[0]
    size = (width or first.width // multiple * multiple, height or first.height // multiple * multiple)
    if not all(size):
        raise InputError(f"{name}: {first.width}×{first.height} pixels came, at least {multiple}×{multiple} expected")
    arrays = [np.asarray(one.resize(size, Image.Resampling.LANCZOS)) for one in pictures]
    return _from_array(np.stack(arrays), multiple, channels, height, width, name)


def open_images(
    image: str | Path | Image.Image | Sequence[Any], channels: int, name: str = "image"
) -> list[Image.Image]:
    """Return files and PIL images upright, in 8 bits, without transparency; see :func:`read_images`."""
    several = list(image) if isinstance(image, (list, tuple)) else [image]
    if not several:
        raise InputError(f"{name}: an empty list came, at least one picture expected")
    return [_open(one, channels, name) for one in several]


def to_pil(images: Floats) -> list[Image.Image]:
    """Return [batch, height, width, 3] (or 1) in 0 … 1 as PIL images, rounded as diffusers rounds."""
    rounded = (images * 255).round().astype(np.uint8)
    return [Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image) for image in rounded]


def _open(image: object, channels: int, what: str = "image") -> Image.Image:
    """Return a file or PIL image upright and in 8 bits, without transparency."""
    if not isinstance(image, (str, Path, Image.Image)):
        hint = "; stack arrays into one [batch, height, width, channels]" if isinstance(image, np.ndarray) else ""
        came = type(image).__name__ if isinstance(image, np.ndarray) else shown(image)
        raise InputError(f"{what}: {came} came, expected a path, a PIL image, a list of these, or an array{hint}")
    name = f"a picture of mode {image.mode}" if isinstance(image, Image.Image) else str(image)
    try:
        opened = image if isinstance(image, Image.Image) else Image.open(image)
        opened.load()
        if 0 in opened.size:
            raise InputError(f"{what}: {name} has {opened.width}×{opened.height} pixels, at least 1×1 expected")
        return _in_8_bits(ImageOps.exif_transpose(opened), "L" if channels == 1 else "RGB", what)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{what}: {name} does not exist") from None
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{what}: {name} cannot be read as a picture: {shown(str(error), 200)}") from error


def _in_8_bits(image: Image.Image, mode: str, what: str) -> Image.Image:
    """Return ``image`` in ``mode``, ``L`` or ``RGB``; Pillow's own conversion cuts 16 bits off at 255."""
    if image.mode == "F":
        raise InputError(
            f"{what}: a floating-point picture (mode F) came, whose range is not known; give a float array in 0 … 1"
        )
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Mode I is what 16-bit files were opened as before Pillow had I;16 for all of them.
        grey = np.asarray(image)
        low, high = int(grey.min()), int(grey.max())
        if low < 0 or high > _LARGEST_16_BIT:
            raise InputError(f"{what}: grey values {low} … {high} came, expected 16 bits, 0 … {_LARGEST_16_BIT}")
        return Image.fromarray(np.round(grey / (_LARGEST_16_BIT / 255)).astype(np.uint8)).convert(mode)
    if image.has_transparency_data:
        # Hidden colours are whatever the program that wrote the file left there.
        picture = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert(mode)
    return image.convert(mode)


def _from_array(
    array: NDArray[Any], multiple: int, channels: int, height: int | None, width: int | None, what: str
) -> Floats:
    if array.ndim == 3 and (channels != 1 or array.shape[-1] == 1):
        array = array[None]
    if channels == 1 and array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[-1] != channels or array.size == 0:
        raise InputError(f"{what}: shape {array.shape} came, expected [batch, height, width, {channels}]")
    if array.dtype == np.uint8:
        array = array.astype(np.float32) / 255
    elif not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"{what}: dtype {array.dtype} came, expected uint8, or float in 0 … 1")
    # A negated test, so that NaN fails it too.
    if not (array.min() >= 0 and array.max() <= 1):
        raise InputError(f"{what}: values {array.min():g} … {array.max():g} came, expected 0 … 1")
    for axis, size, wanted in (("height", array.shape[1], height), ("width", array.shape[2], width)):
        if size % multiple:
            raise InputError(
                f"{what}: {axis} {size} is no multiple of {multiple}; the nearest is {nearest(size, multiple)}"
            )
        if wanted not in (None, size):
            raise InputError(
                f"{what}: {axis} {size} came, but {axis}={wanted} was asked for; resize the array, or leave it out"
            )
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2), dtype=np.float32)
