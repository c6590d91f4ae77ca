"""``dit-deploy generate`` with a bundle of videos: where they go, and what bad input gets."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dit_deploy.cli._videos import plan_videos
from dit_deploy.errors import InputError
from dit_deploy.exporters import export
from dit_deploy.runtimes.video import read_video
from tests import video_models
from tests.cli.command import Command

FAST = ("--steps", 2, "--threads", 1)


@pytest.fixture(scope="module")
def bundle(traced_once: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(video_models.source(pictures=True), tmp_path_factory.mktemp("video") / "tiny").path


def size_of(path: Path) -> tuple[int, ...]:
    return read_video(path, multiple=1, channels=3, frames=None, height=None, width=None).shape


def test_one_video(cli: Command, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.mp4"
    result = cli("generate", bundle, out, "--class-label", 3, "--seed", 7, "--frames", 5, "--fps", 12, *FAST)
    assert (result.status, result.err) == (0, "")
    assert f"{out}: 1 video of 5 frames, seed 7," in result.out
    assert size_of(out) == (1, 3, 5, 24, 20)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_its_pictures_and_moving_pictures(cli: Command, bundle: Path, tmp_path: Path) -> None:
    words = ("generate", bundle)
    request = ("--class-label", 3, "--seed", 7, "--frames", 5, *FAST)
    assert cli(*words, tmp_path / "frames", *request).status == 0
    assert sorted(path.name for path in (tmp_path / "frames").iterdir()) == [f"{index:04d}.png" for index in range(5)]
    assert cli(*words, tmp_path / "a.webp", *request).status == 0
    with Image.open(tmp_path / "a.webp") as moving:
        moving.seek(4)
        last = np.asarray(moving.convert("RGB"))
    np.testing.assert_array_equal(last, np.asarray(Image.open(tmp_path / "frames/0004.png")))
    labels = ("--class-label", 3, "--class-label", 1, "--frames", 5, *FAST)
    assert cli(*words, tmp_path / "sheet.png", "--grid", *labels).status == 0
    assert Image.open(tmp_path / "sheet.png").size == (5 * 22 - 2, 2 * 26 - 2)
    result = cli(*words, tmp_path / "videos", *labels)
    assert "2 videos of 5 frames" in result.out
    assert sorted(path.name for path in (tmp_path / "videos").iterdir()) == ["0000.mp4", "0001.mp4"]


def test_pyav_is_missed_before_anything_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    for out, videos in ((tmp_path / "a.mp4", 1), (tmp_path / "videos", 2)):
        with pytest.raises(InputError, match=r"video files need PyAV, .*dit-deploy\[video\]"):
            plan_videos(out, videos, 5, grid=False, overwrite=False)
    assert plan_videos(tmp_path / "a.webp", 1, 5, grid=False, overwrite=False) == [tmp_path / "a.webp"]


def test_every_option(cli: Command, bundle: Path, tmp_path: Path) -> None:
    Image.new("RGB", (20, 24), "red").save(tmp_path / "red.png")
    pictures = ("--init-image", tmp_path / "red.png", "--last-image", tmp_path / "red.png")
    windows = ("--window-frames", 9, "--window-overlap", 4, "--vae-tile", 16, "--low-memory")
    words = ("generate", bundle, tmp_path / "a.mp4", "--class-label", 3, "--frames", 17, *pictures, *windows, *FAST)
    result = cli(*words)
    assert result.status == 0, result.err
    again = cli(*words[:2], tmp_path / "b.mp4", "--class-label", 3, "--init-video", tmp_path / "a.mp4", *FAST)
    assert again.status == 0, again.err
    assert size_of(tmp_path / "b.mp4") == (1, 3, 17, 24, 20)


@pytest.mark.parametrize(
    ("out", "words", "message"),
    [
        ("a.mp4", ("--frames", 10), "num_frames: 10 came, which does not fit this model"),
        ("a.png", (), ".png holds no video; give .mp4"),
        ("a.mp4", ("--class-label", 1), "2 videos do not fit into one file"),
        ("a.mp4", ("--vae-tile", "large"), "--vae-tile: 'large' came, expected a number of pixels, or model"),
        ("a.mp4", ("--init-video", "none.mp4"), "video: none.mp4 does not exist"),
        ("none/a.mp4", (), "there is no folder"),
    ],
)
def test_what_is_refused(
    cli: Command, bundle: Path, tmp_path: Path, out: str, words: tuple[object, ...], message: str
) -> None:
    result = cli("generate", bundle, tmp_path / out, "--class-label", 3, *words, *FAST)
    assert result.status == 2
    assert message in result.err
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_stays(cli: Command, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.mp4"
    out.write_bytes(b"mine")
    words = ("generate", bundle, out, "--class-label", 3, "--frames", 1, *FAST)
    assert "exists; give another name, or --overwrite" in cli(*words).err
    assert out.read_bytes() == b"mine"
    assert cli(*words, "--overwrite").status == 0
    assert size_of(out) == (1, 3, 1, 24, 20)
