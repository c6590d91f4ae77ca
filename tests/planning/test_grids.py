"""Grids of patches: whole rows and whole latent frames, and what is said where a size has none."""

from __future__ import annotations

import pytest

from dit_deploy.errors import InputError
from dit_deploy.planning import ARCHITECTURES, Grid, Video, patch_grid

PATCHES_OF_TWO = Video(frames=16, temporal_compression=1, temporal_patch_size=2, causal=False)


def test_the_quoted_486000_patches_are_no_grid() -> None:
    grid = patch_grid(1080, 1920, 16, 120, PATCHES_OF_TWO)
    assert (grid.frames, grid.rows, grid.columns, grid.tokens) == (60, 68, 120, 489_600)
    assert (grid.num_frames, grid.height, grid.width) == (120, 1088, 1920)
    first, second = grid.notes
    assert first.startswith("height: 1080 pixels are 67.5 rows of patches of 16; planned are 68 rows, 1088 pixels")
    assert second == "489,600 patches is this grid of 60 × 68 × 120; the product unrounded, 486,000, is no grid's"
    exact = patch_grid(1088, 1920, 16, 120, PATCHES_OF_TWO)
    assert (exact.tokens, exact.notes) == (489_600, ())
    first_alone = patch_grid(1080, 1920, 16, 120, ARCHITECTURES["SpacetimeDiT-XL/2"].video)
    assert (first_alone.frames, first_alone.num_frames, first_alone.tokens) == (61, 121, 497_760)
    assert first_alone.notes[-1].endswith("the product unrounded, 486,000, is no grid's")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("Latte-1", (16, 32, 32)),
        ("CogVideoX-2B", (13, 30, 45)),
        ("CogVideoX1.5-5B", (11, 48, 85)),  # 21 latent frames and one of padding
        ("Wan2.1-1.3B", (21, 30, 52)),
        ("Wan2.1-14B", (21, 45, 80)),
        ("Wan2.2-5B", (31, 22, 40)),
        ("LTX-Video", (21, 16, 22)),
        ("HunyuanVideo", (33, 45, 80)),
    ],
)
def test_usual_videos_are_whole_grids(name: str, shape: tuple[int, int, int]) -> None:
    one = ARCHITECTURES[name]
    assert one.video is not None
    grid = patch_grid(one.height, one.width, one.patch_size * one.compression, one.video.frames, one.video)
    assert (grid.frames, grid.rows, grid.columns) == shape
    assert (grid.num_frames, grid.height, grid.width) == (one.video.frames, one.height, one.width)
    assert grid.notes == ()


@pytest.mark.parametrize(
    ("video", "asked", "held", "patches", "said"),
    [
        (Video(81), 82, 85, 22, "82 is not 4·k + 1, which this model takes; the nearest are 81 or 85, planned are 85"),
        (Video(81), 2, 5, 2, "the nearest are 1 or 5"),
        (Video(49, odd_latents=True), 13, 17, 5, "13 is not 8·k + 1, which this model takes; the nearest are 9 or 17"),
        (Video(81, temporal_patch_size=2, odd_latents=True), 84, 89, 12, "the nearest are 81 or 89"),
        (PATCHES_OF_TWO, 7, 8, 4, "7 is not 2·k, which this model takes; the nearest are 6 or 8"),
        (PATCHES_OF_TWO, 1, 2, 1, "the nearest are 2, planned are 2"),
    ],
)
def test_frames_between_are_rounded_up_and_said(video: Video, asked: int, held: int, patches: int, said: str) -> None:
    grid = patch_grid(64, 64, 16, asked, video)
    assert (grid.num_frames, grid.frames) == (held, patches)
    assert said in grid.notes[0]


def test_a_picture_is_a_grid_of_one_frame() -> None:
    assert patch_grid(64, 96, 16) == Grid(1, 4, 6, 1, 64, 96)
    with pytest.raises(InputError, match="frames: 3 came for a model that draws pictures"):
        patch_grid(64, 64, 16, 3)
    with pytest.raises(InputError, match="width: 0 came"):
        patch_grid(64, 0, 16)
