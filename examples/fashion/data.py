"""Fashion-MNIST (Xiao, Rasul & Vollgraf 2017, arXiv:1708.07747) as RGB images of 32 x 32 pixels.

The data set's own images are 28 x 28 grey; they get two pixels of black on every side, so that the side
divides by the VAE's and the DiT's strides, and the grey value in all three channels, so that the VAE is a
plain RGB one.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch

DEFAULT_DATA = Path("/usr/share/datasets/fashion-mnist")
"""Where the Debian package puts the data set."""

DEBIAN_PACKAGE = "dataset-fashion-mnist"

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
"""The ten classes in the data set's own order: index = label."""

IMAGE_SIZE = 32
"""Side of the padded images in pixels."""


def _read_idx(path: Path, header: int) -> np.ndarray:
    """The bytes of a gzipped IDX file after its `header` bytes, uint8, flat."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: install the Debian package {DEBIAN_PACKAGE}, "
            f"or name a folder that holds the data set's four .gz files with --data"
        )
    with gzip.open(path, "rb") as file:
        return np.frombuffer(file.read(), dtype=np.uint8, offset=header)


def load_split(folder: Path, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Read one split, `"train"` (60 000 images) or `"t10k"` (10 000).

    Returns images, uint8 [n, 32, 32] in 0..255 (padded, one channel), and labels, int64 [n] in 0..9.
    """
    images = _read_idx(folder / f"{split}-images-idx3-ubyte.gz", header=16).reshape(-1, 28, 28)
    labels = _read_idx(folder / f"{split}-labels-idx1-ubyte.gz", header=8)
    margin = (IMAGE_SIZE - 28) // 2
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin)))
    return torch.from_numpy(padded), torch.from_numpy(labels.astype(np.int64))


def to_rgb(images: torch.Tensor) -> torch.Tensor:
    """Grey uint8 [n, 32, 32] in 0..255 to float32 [n, 3, 32, 32] in [-1, 1], the VAE's range."""
    return (images.float() / 127.5 - 1.0)[:, None].expand(-1, 3, -1, -1).contiguous()
