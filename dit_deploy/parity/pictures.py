"""Pictures of a report: both sides and what lies between them, as PNG."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["amplification", "amplified", "data_uri", "strips"]

Floats = NDArray[np.float32]

#: Frames of a video that a report shows at most.
_FRAMES = 6


def strips(images: Floats | None) -> Floats | None:
    """Return pictures [batch, height, width, channels]; of a video, some of its frames side by side."""
    if images is None or images.ndim == 4:
        return images
    frames = images.shape[1]
    shown = np.unique(np.linspace(0, frames - 1, min(frames, _FRAMES)).round().astype(int))
    return np.concatenate([images[:, frame] for frame in shown], axis=2)


def amplification(images: Floats, references: Floats) -> float | None:
    """Return the factor, of two digits, that makes the largest difference white; ``None`` where there is none."""
    largest = float(np.abs(np.nan_to_num(images, posinf=1.0) - references).max(initial=0.0))
    if not largest > 0.0:
        return None
    factor = 1.0 / min(largest, 1.0)
    unit = 10.0 ** (math.floor(math.log10(factor)) - 1)
    return math.floor(factor / unit + 1e-9) * unit  # rounded down, so that nothing is clipped


def amplified(image: Floats, reference: Floats, factor: float | None) -> Floats:
    """Return |image − reference| · factor in 0 … 1; black where there is no difference."""
    scaled: Floats = np.clip(np.abs(image - reference) * np.float32(factor or 0.0), 0.0, 1.0)
    return scaled


def data_uri(image: NDArray[Any]) -> str:
    """Return [height, width, 1 or 3] in 0 … 1 as the address of a PNG within a page."""
    pixels = np.round(np.clip(np.nan_to_num(image), 0.0, 1.0) * 255.0).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
