"""The programs in the README of the C++ runtime and beside it: built against the library, and run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

ROOT = Path(__file__).parents[3]
BUILD = os.environ.get("DIT_DEPLOY_CPP_BUILD")
pytestmark = pytest.mark.skipif(
    not BUILD, reason="DIT_DEPLOY_CPP_BUILD is not set to a build of runtimes/cpp: make cpp-release"
)


def test_the_program_in_the_readme(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = Path(BUILD or "")
    text = (ROOT / "runtimes" / "cpp" / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```cpp\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "main.cpp").write_text(code, encoding="utf-8")
    (tmp_path / "fashion").symlink_to(tiny_bundle)
    compile_ = ["g++", "-std=c++17", "main.cpp", f"-I{ROOT / 'runtimes/cpp/include'}", f"-L{folder}", "-ldit_deploy"]
    subprocess.run([*compile_, f"-Wl,-rpath,{folder}", "-o", "program"], cwd=tmp_path, check=True)
    done = subprocess.run(["./program"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert re.fullmatch(r"(64 × 64, first byte \d+\n){2}", done.stdout), done.stdout + done.stderr
    (tmp_path / "fashion").unlink()
    done = subprocess.run(["./program"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert len(done.stderr.splitlines()) == 1 and "fashion" in done.stderr


def test_the_examples_draw_what_their_twins_draw(tiny_bundle: Path, tmp_path: Path) -> None:
    y, x = np.mgrid[0:64, 0:64].astype(np.uint8)
    Image.fromarray(np.stack([3 * x, 2 * y, x + y], -1)).save(tmp_path / "start.png")
    for name, words in (
        ("class_to_image", [tiny_bundle, "{}", "3", "5", "--seed", "4"]),
        ("image_to_image", [tiny_bundle, "start.png", "3", "{}", "--strength", "0.1", "0.2"]),
    ):
        for out, program in (
            ("cpp.png", [f"{BUILD}/{name}"]),
            ("python.png", [sys.executable, ROOT / "examples" / f"{name}.py"]),
        ):
            command = [*program, *(str(word).format(out) for word in words)]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr
            assert f"{out}: " in done.stdout
        ours, theirs = (np.asarray(Image.open(tmp_path / file)).astype(int) for file in ("cpp.png", "python.png"))
        assert ours.shape == theirs.shape == (64, 128, 3)
        assert np.abs(ours - theirs).max() <= 1


def test_the_video_example_draws_what_its_twin_draws(tmp_path: Path) -> None:
    bundle = Path(BUILD or "").parent / "golden" / "bundles" / "spacetime-dit"
    if not bundle.is_dir():
        pytest.skip("there is no bundle of videos: make cpp-prepare")
    words = [str(bundle), "{}", "red apple moving right", "--frames", "5", "--seed", "4"]
    for out, program in (
        ("cpp.png", [f"{BUILD}/text_to_video"]),
        ("python.webp", [sys.executable, str(ROOT / "examples" / "text_to_video.py")]),
    ):
        command = [*program, *(word.format(out) for word in words)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert f"{out}: 5 frames in " in done.stdout
    ours = np.asarray(Image.open(tmp_path / "cpp.png")).astype(int)
    with Image.open(tmp_path / "python.webp") as video:
        frames = [np.asarray(frame.convert("RGB")).astype(int) for frame in ImageSequence.Iterator(video)]
    theirs = np.concatenate(frames, axis=1)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1
