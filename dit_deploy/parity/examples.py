"""Pictures that nobody brought: what a video begins or ends with where a bundle is tried out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from dit_deploy.bundle import Manifest

__all__ = ["example_picture", "given_pictures"]

#: Waves of a picture, from the slowest to one of a sixteenth of a side.
_WAVES = 16
#: Pictures that a vision encoder sees at once, where it needs the last one, too.
_BOTH = 2


def example_picture(index: int, height: int, width: int) -> Image.Image:
    """Return picture ``index`` of an endless list: coloured waves of every direction, the slow ones strongest."""
    drawn = np.random.default_rng(index)
    rows, columns = np.arange(height)[:, None] / height, np.arange(width)[None] / width
    picture = np.full((height, width, 3), 0.5)
    for wave in range(1, _WAVES + 1):
        down, across = drawn.uniform(-wave, wave, 2)
        colour = drawn.normal(size=3) / (2 * wave)
        picture += np.cos(2 * np.pi * (down * rows + across * columns + drawn.uniform()))[..., None] * colour
    return Image.fromarray((255 * picture.clip(0, 1)).round().astype(np.uint8))


def given_pictures(
    manifest: Manifest, count: int, size: Mapping[str, int], first: int = 0, *, optional: bool = False
) -> dict[str, Any]:
    """Return what a pipeline of videos needs of pictures, for ``count`` samples: ``image``, perhaps ``last_image``.

    Args:
        size: of the video, ``height`` and ``width`` among it.
        first: number of the first picture.
        optional: whether a bundle that needs none is given some, too.
    """
    record = manifest.image_conditions
    if record is None or not (record.required or optional):
        return {}
    side = {name: size[name] for name in ("height", "width")}
    given = {"image": [example_picture(2 * (first + index), **side) for index in range(count)]}
    both = record.encoder is not None and manifest.components[record.encoder.component].input("images").axes[1] == _BOTH
    if both:
        given["last_image"] = [example_picture(2 * (first + index) + 1, **side) for index in range(count)]
    return given
