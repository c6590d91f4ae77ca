"""Write what Pillow makes of small pictures, for the C++ runtime to be held against.

python tests/runtimes/cpp/golden_images.py [--check]

Each case is one picture of random bytes in a mode of 1 to 4 channels, laid over white, made grey or RGB and resized by
Lanczos, by :mod:`dit_deploy.runtimes.images` and so by Pillow. Crops are what a vision encoder sees: resized by the
bicubic filter, and cut.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dit_deploy.bundle import ImageEncoder
from dit_deploy.runtimes.image_conditions import _crops
from dit_deploy.runtimes.images import read_images

FORMAT = 1
PATH = Path(__file__).parents[3] / "runtimes/cpp/tests/golden/images.json"
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
#: (height, width) → (height, width): the same, smaller, larger, one side only, far smaller, a pixel, lower and wider.
SIZES = [
    ((16, 16), (16, 16)),
    ((17, 13), (8, 8)),
    ((9, 11), (16, 24)),
    ((16, 31), (16, 8)),
    ((31, 16), (8, 16)),
    ((70, 45), (8, 8)),
    ((1, 1), (8, 8)),
    ((20, 9), (8, 16)),
]


def document() -> str:
    """Return the whole file, the same bytes each time."""
    generator = np.random.default_rng(0)
    cases = []
    for channels, mode in MODES.items():
        for size, wanted in SIZES:
            pixels = generator.integers(0, 256, (*size, channels), np.uint8)
            picture = Image.fromarray(pixels[..., 0] if channels == 1 else pixels, mode)
            for made in (1, 3):
                values = read_images(picture, multiple=8, channels=made, height=wanted[0], width=wanted[1])
                cases.append(
                    {
                        "size": size,
                        "channels": channels,
                        "pixels": base64.b64encode(pixels.tobytes()).decode(),
                        "wanted": wanted,
                        "made_channels": made,
                        "made": base64.b64encode(np.round(values[0] * 255).astype(np.uint8).tobytes()).decode(),
                    }
                )
    crops = [
        _crop_case(generator.integers(0, 256, (*size, 3), np.uint8), wanted)
        for size, _ in SIZES
        for wanted in (5, 8, 24)
    ]
    script = "tests/runtimes/cpp/golden_images.py"
    head = f'"format": {FORMAT}, "script": "{script}"'
    return f'{{{head}, "cases": [\n{_lines(cases)}\n], "crops": [\n{_lines(crops)}\n]}}\n'


def _crop_case(pixels: NDArray[np.uint8], wanted: int) -> dict[str, Any]:
    """Return what a vision encoder of ``wanted`` pixels on a side sees of a picture."""
    made = _crops([Image.fromarray(pixels)], ImageEncoder(component="vision", size=wanted))[0]
    return {
        "size": pixels.shape[:2],
        "pixels": base64.b64encode(pixels.tobytes()).decode(),
        "wanted": wanted,
        "made": base64.b64encode(np.round(made * 255).astype(np.uint8).tobytes()).decode(),
    }


def _lines(cases: list[dict[str, Any]]) -> str:
    return ",\n".join(json.dumps(case) for case in cases)


def main() -> None:
    if "--check" in sys.argv[1:]:
        if PATH.read_text() != document():
            sys.exit(f"{PATH} is not what this script writes; run it without --check")
    else:
        PATH.write_text(document())


if __name__ == "__main__":
    main()
