"""Clips of an emoji that moves over a plain background: 17 frames of 64 x 64 pixels, captions that say what moves how.

The pictures are Noto emoji (art by Google, Apache-2.0) out of the npm package `emoji-datasource-google` (MIT):

    npm pack emoji-datasource-google@16.0.0

A clip is made of four choices: "red apple moving right slowly on blue". Sprites begin near the middle, so that the
place of one says which way it went. Which sprite moves which way is left out of training for a quarter of all pairs,
two of the eight motions for each sprite; prompts of those are what is scored.
"""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

PACKAGE = "emoji-datasource-google-16.0.0.tgz"
"""What `npm pack` writes."""

FRAMES, SIZE, SPRITE_SIZE = 17, 64, 20
"""Of a clip, of its sides in pixels, of a sprite's."""

SPRITES = (
    "red apple", "octopus", "frog face", "rocket", "automobile", "soccer ball", "sunflower", "banana", "strawberry",
    "penguin", "pig face", "tiger face", "doughnut", "ghost", "jack-o-lantern", "bell", "turtle", "cat face",
    "panda face", "grapes", "cherries", "blue heart", "green apple", "crab",
)  # fmt: skip

DIRECTIONS = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1)}
"""Word -> (across, down)."""

SPEEDS = {"slowly": 0.5, "fast": 1.25}
"""Word -> pixels a frame."""

BACKGROUNDS = {"blue": (140, 185, 240), "grey": (100, 105, 115), "green": (60, 130, 90), "brown": (125, 90, 70)}
"""Word -> RGB."""

MOTIONS = tuple((direction, speed) for direction in DIRECTIONS for speed in SPEEDS)


@dataclass(frozen=True)
class Clip:
    """What is seen in a clip, but for where it begins."""

    sprite: str
    direction: str
    speed: str
    background: str

    @property
    def caption(self) -> str:
        """Such as "red apple moving right slowly on blue"."""
        return f"{self.sprite} moving {self.direction} {self.speed} on {self.background}"

    @property
    def held_out(self) -> bool:
        """Whether this motion of this sprite is kept from training: six sprites of each motion."""
        sprite, motion = SPRITES.index(self.sprite), MOTIONS.index((self.direction, self.speed))
        return motion in (sprite % 8, (sprite + 3 + sprite // 8) % 8)


def all_clips() -> list[Clip]:
    """Every clip there is: 24 sprites x 8 motions x 4 backgrounds, 192 of the 768 held out."""
    return [
        Clip(sprite, direction, speed, background)
        for sprite in SPRITES
        for direction, speed in MOTIONS
        for background in BACKGROUNDS
    ]


def load_sprites(package: Path) -> dict[str, np.ndarray]:
    """Read the sprites out of the package's file: name -> float32 [20, 20, 4] in 0..1, colours and opacity."""
    if not package.is_file():
        raise FileNotFoundError(
            f"{package} is missing: run `npm pack {PACKAGE.removesuffix('.tgz').replace('-16', '@16')}`, "
            f"and name the file that it writes with --data"
        )
    with tarfile.open(package) as archive:
        listed = archive.extractfile("package/emoji.json")
        assert listed is not None
        files = {entry["name"].lower(): entry["image"] for entry in json.load(listed)}
        return {
            name: shrunk(Image.open(archive.extractfile(f"package/img/google/64/{files[name]}")))  # type: ignore[arg-type]
            for name in SPRITES
        }


def shrunk(image: Image.Image) -> np.ndarray:
    """A picture with transparency at the sprites' size: float32 [20, 20, 4] in 0..1."""
    small = image.convert("RGBA").resize((SPRITE_SIZE, SPRITE_SIZE), Image.Resampling.BOX)
    return np.asarray(small, np.float32) / 255


def path(direction: str, speed: str, start: tuple[int, int], frames: int = FRAMES) -> np.ndarray:
    """Where a sprite's upper left corner is in each frame, whole pixels: int [frames, 2], across and down."""
    steps = np.floor(np.arange(frames) * SPEEDS[speed] + 0.5).astype(int)
    return steps[:, None] * np.array(DIRECTIONS[direction]) + np.array(start)


def random_start(clip: Clip, dice: np.random.Generator) -> tuple[int, int]:
    """A place to begin: near the middle along the motion, within 14 pixels of it across; the sprite stays inside."""
    middle = (SIZE - SPRITE_SIZE) // 2
    across, down = (middle + int(dice.integers(-reach, reach + 1)) for reach in _reaches(clip.direction))
    return across, down


def _reaches(direction: str) -> tuple[int, int]:
    return (2, 14) if DIRECTIONS[direction][0] else (14, 2)


def render(sprite: np.ndarray, background: str, places: np.ndarray, size: int = SIZE) -> np.ndarray:
    """Draw a sprite [20, 20, 4] at places [frames, 2]: float32 [frames, 3, size, size] in 0..1.

    A place may lie outside the frame, wholly or in part.
    """
    margin = SPRITE_SIZE
    colour = np.array(BACKGROUNDS[background], np.float32) / 255
    page = np.broadcast_to(colour, (len(places), size + 2 * margin, size + 2 * margin, 3)).copy()
    colours, opacity = sprite[..., :3], sprite[..., 3:]
    drawn = colours * opacity + colour * (1 - opacity)
    for frame, (across, down) in zip(page, np.clip(places, -margin, size) + margin, strict=True):
        frame[down : down + SPRITE_SIZE, across : across + SPRITE_SIZE] = drawn
    return page[:, margin:-margin, margin:-margin].transpose(0, 3, 1, 2)
