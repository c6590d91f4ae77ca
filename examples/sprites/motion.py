"""What moves how in a clip, measured from its frames alone; no network is asked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from data import DIRECTIONS, SPEEDS

THRESHOLD = 0.15
"""How far a pixel's colour must be from the background's to belong to the sprite, in any of red, green, blue (0..1)."""

LEAST_PIXELS = 30
"""Pixels that a sprite has at least in every frame; the smallest of all has twice as many."""

TURN = 0.875
"""Pixels a frame halfway between slowly and fast; half of slowly is none of the two."""


@dataclass(frozen=True)
class Motion:
    """A measured motion.

    Args:
        direction, speed: the words for it, None where it is none of those that captions have.
        velocity: pixels a frame, (across, down); None where a frame has no sprite.
    """

    direction: str | None
    speed: str | None
    velocity: tuple[float, float] | None


def background_of(frames: np.ndarray) -> np.ndarray:
    """The colour of most of a clip [frames, height, width, 3]: the median of each channel."""
    colour: np.ndarray = np.median(frames, axis=(0, 1, 2))
    return colour


def centroids(frames: np.ndarray) -> np.ndarray | None:
    """The centre of what differs from the background, in pixels: float [frames, 2], across and down.

    Args:
        frames: [frames, height, width, 3] in 0..1.

    Returns:
        None where a frame has nothing in it.
    """
    differs = np.abs(frames - background_of(frames)).max(axis=3) > THRESHOLD  # [frames, height, width]
    if (differs.sum(axis=(1, 2)) < LEAST_PIXELS).any():
        return None
    rows, columns = np.indices(differs.shape[1:])
    return np.array([[columns[frame].mean(), rows[frame].mean()] for frame in differs])


def measure(frames: np.ndarray) -> Motion:
    """The motion in a clip [frames, height, width, 3] in 0..1: the slope of a line through the centroids.

    A direction is one of the four where the slope along the other axis is less than half as steep.
    """
    places = centroids(frames)
    if places is None:
        return Motion(None, None, None)
    across, down = (float(value) for value in np.polyfit(np.arange(len(places)), places, 1)[0])
    steep, other = max(abs(across), abs(down)), min(abs(across), abs(down))
    if steep < min(SPEEDS.values()) / 2:
        return Motion(None, None, (across, down))
    sign = (round(across / steep), 0) if abs(across) == steep else (0, round(down / steep))
    direction = next(word for word, way in DIRECTIONS.items() if way == sign)
    return Motion(direction if other < steep / 2 else None, "fast" if steep > TURN else "slowly", (across, down))
