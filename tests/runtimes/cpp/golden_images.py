"""Write what Pillow makes of small pictures, for the C++ runtime to be held against.

python tests/runtimes/cpp/golden_images.py [--check]

Each case is one picture of random bytes in a mode of 1 to 4 channels, laid over white, made grey or RGB and resized by
Lanczos, by :mod:`dit_deploy.runtimes.images` and so by Pillow.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from dit_deploy.runtimes.images import read_images

FORMAT = 1
PATH = Path(__file__).parents[3] / "runtimes/cpp/tests/golden/images.json"
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
#: (height, width) → (height, width): the same, smaller, larger, one side only, far smaller, a single pixel.
SIZES = [
    ((16, 16), (16, 16)),
    ((17, 13), (8, 8)),
    ((9, 11), (16, 24)),
    ((16, 31), (16, 8)),
    ((31, 16), (8, 16)),
    ((70, 45), (8, 8)),
    ((1, 1), (8, 8)),
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
    lines = ",\n".join(json.dumps(case) for case in cases)
    script = "tests/runtimes/cpp/golden_images.py"
    return f'{{"format": {FORMAT}, "script": "{script}", "cases": [\n{lines}\n]}}\n'


def main() -> None:
    if "--check" in sys.argv[1:]:
        if PATH.read_text() != document():
            sys.exit(f"{PATH} is not what this script writes; run it without --check")
    else:
        PATH.write_text(document())


if __name__ == "__main__":
    main()
