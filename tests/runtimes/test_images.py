"""Pictures of other depths and with transparency, on their way in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dit_deploy.errors import InputError
from dit_deploy.runtimes.images import read_images


def read(image: Any, channels: int = 3) -> np.ndarray:
    return read_images(image, multiple=16, channels=channels, height=None, width=None)


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_of_16_bits_keeps_its_brightness(tmp_path: Path, channels: int) -> None:
    grey = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    pictures = read(tmp_path / "grey.png", channels)
    assert pictures.shape == (1, channels, 16, 16)
    assert np.abs(pictures - grey / 65535).max() <= 0.5 / 255 + 1e-6
    assert np.array_equal(pictures, read(Image.fromarray(grey.astype(np.int32)), channels))


def test_grey_beyond_16_bits_and_floating_point_are_refused() -> None:
    with pytest.raises(InputError, match="grey values 0 … 70000 came, expected 16 bits"):
        read(Image.fromarray(np.array([[0, 70000]] * 16, np.int32)))
    with pytest.raises(InputError, match=r"mode F\) came.*give a float array"):
        read(Image.fromarray(np.zeros((16, 16), np.float32)))


def transparent(mode: str) -> Image.Image:
    """Return a black picture whose left half is transparent."""
    if mode == "P":
        picture = Image.new("P", (32, 16), 1)
        picture.putpalette([0, 0, 0, 0, 0, 0])
        picture.paste(0, (0, 0, 16, 16))
        picture.info["transparency"] = 0
        return picture
    picture = Image.new(mode, (32, 16))
    alpha = Image.new("L", (32, 16), 255)
    alpha.paste(0, (0, 0, 16, 16))
    picture.putalpha(alpha)
    return picture


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("channels", [1, 3])
def test_transparent_pixels_are_white(mode: str, channels: int, tmp_path: Path) -> None:
    transparent(mode).save(tmp_path / "picture.png")
    for image in (transparent(mode), tmp_path / "picture.png"):
        pictures = read(image, channels)
        assert (pictures[..., :16] == 1).all() and (pictures[..., 16:] == 0).all()


def test_what_pillow_cannot_convert_is_one_line() -> None:
    with pytest.raises(InputError, match="a picture of mode La cannot be read"):
        read(Image.new("La", (16, 16)))
