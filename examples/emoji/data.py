"""Noto emoji (art by Google, Apache-2.0) as RGB pictures of 64 x 64 pixels with captions.

They come out of the npm package `emoji-datasource-google` (MIT), which holds a picture and a name of each emoji:

    npm pack emoji-datasource-google@16.0.0

Flags and the bare skin tones are left out; 1636 remain.
"""

from __future__ import annotations

import json
import random
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

PACKAGE = "emoji-datasource-google-16.0.0.tgz"
"""What `npm pack` writes."""

IMAGE_SIZE = 64
LEFT_OUT = ("Flags", "Component")

VARIANTS = 16
"""Captions of each picture; the name alone is nine of them."""


@dataclass(frozen=True)
class Emoji:
    """The data set: pictures and what they are called, in the package's order.

    Args:
        images: uint8 [n, 3, 64, 64], on white.
        names: in small letters, such as "red apple".
        captions: `VARIANTS` of each, the first of them its name.
    """

    images: torch.Tensor
    names: list[str]
    captions: list[list[str]]


def load_emoji(package: Path) -> Emoji:
    """Read the package's file; the same captions each time."""
    if not package.is_file():
        raise FileNotFoundError(
            f"{package} is missing: run `npm pack {PACKAGE.removesuffix('.tgz').replace('-16', '@16')}`, "
            f"and name the file that it writes with --data"
        )
    with tarfile.open(package) as archive:
        members = {member.name: member for member in archive}
        entries = json.load(_opened(archive, members["package/emoji.json"]))
        entries = [one for one in entries if one["has_img_google"] and one["category"] not in LEFT_OUT]
        images = [
            on_white(Image.open(_opened(archive, members[f"package/img/google/64/{one['image']}"]))) for one in entries
        ]
    names = [one["name"].lower() for one in entries]
    dice = random.Random(0)
    return Emoji(torch.from_numpy(np.stack(images)), names, [captions_of(one, dice) for one in entries])


def _opened(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Any:
    return archive.extractfile(member)


def on_white(image: Image.Image) -> np.ndarray:
    """A picture with transparency laid over white: uint8 [3, 64, 64]."""
    page = Image.new("RGBA", image.size, "white")
    page.alpha_composite(image.convert("RGBA"))
    return np.asarray(page.convert("RGB")).transpose(2, 0, 1)


def captions_of(entry: dict[str, Any], dice: random.Random) -> list[str]:
    """The captions of an entry of `emoji.json`: `VARIANTS` of them, as a small model may be asked for it.

    Mostly its name; also that with its category, a short name such as "pizza", and the name with a word left out.
    """
    name = entry["name"].lower()
    category = entry["category"].lower().replace("&", "and")
    kind = entry["subcategory"].lower().replace("&", "and").replace("-", " ")
    short = [re.sub(r"[_-]", " ", word) for word in entry["short_names"] if re.fullmatch(r"[a-z_-]+", word)]
    words = name.split()
    if len(words) > 2:
        words.pop(dice.randrange(len(words)))
    others = [
        f"{name}, {category}",
        f"{name}, {kind}",
        f"{kind}, {name}",
        f"an emoji of {name}",
        f"a picture of {dice.choice(short or [name])}",
        dice.choice(short or [name]),
        " ".join(words),
    ]
    return [name] * (VARIANTS - len(others)) + others


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 in 0..255 to float32 in [-1, 1], the VAE's range."""
    return images.float() / 127.5 - 1.0


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Floats in [-1, 1] to uint8 in 0..255, rounded."""
    return ((images.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
