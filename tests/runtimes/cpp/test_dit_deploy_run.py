"""``dit-deploy-run``: the options, defaults, messages and pictures of ``dit-deploy generate``."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dit_deploy import Bundle, __version__
from dit_deploy.cli import run
from dit_deploy.runtimes.images import read_images
from tests.cli.command import Result, change_manifest, copy_bundle
from tests.cli.test_generate import BAD, NAMES
from tests.runtimes.engines import add_engine

BUILD = os.environ.get("DIT_DEPLOY_CPP_BUILD")
pytestmark = pytest.mark.skipif(
    not BUILD, reason="DIT_DEPLOY_CPP_BUILD is not set to a build of runtimes/cpp: make cpp-release"
)
PROGRAM = Path(BUILD or "") / "tools" / "dit_deploy_run" / "dit-deploy-run"
FAST = ("--steps", 2, "--threads", 1)


def program(*words: object) -> Result:
    """Run the program; its errors begin with its own name."""
    done = subprocess.run([PROGRAM, *map(str, words)], capture_output=True, text=True, timeout=120)
    return Result(done.returncode, done.stdout, done.stderr.replace("dit-deploy-run: ", "dit-deploy: "))


def pixels(path: Path) -> NDArray[np.int64]:
    return np.asarray(Image.open(path)).astype(int)


@pytest.fixture(scope="session")
def named(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle that the tests of the Python program use."""
    bundle = copy_bundle(tiny_bundle, tmp_path_factory.mktemp("named") / "tiny")
    names = {str(index): f"kind {index}" for index in range(17)}
    names |= {"3": "Crane", "5": "crane", "7": "tench, Tinca tinca", "8": "Ankle boot"}
    change_manifest(bundle, lambda manifest: manifest.update(labels=names))
    return bundle


def entries(text: str) -> dict[str, str]:
    """Return what a help page says: option or argument with its metavar → text on one line."""
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if match := re.match(r"  (\S.*?)(?:\s{2,}(\S.*))?$", line):
            name, first = match.group(1), match.group(2) or ""
            found[name] = first
        elif name and line.startswith("   "):
            broken = re.search(r"\w-$", found[name])  # a word may go on behind its hyphen
            found[name] += ("" if broken else " ") + line.strip()
    return {name: " ".join(text.split()) for name, text in found.items()}


def test_the_help_is_that_of_python_and_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", "--help"]) == 0
    python = entries(capsys.readouterr().out.partition("Arguments:")[2].replace(".png, .jpg or .webp", ".png or .jpg"))
    here = entries(program("--help").out.partition("Arguments:")[2])
    own = {"--provider-library NAME=PATH", "--verify", "--version", "--init-video FOLDER"}
    assert own <= set(here)
    del python["--init-video FILE"]  # videos are read and written picture by picture here
    files = ". A .mp4, .mkv, .mov, .gif or .webp file for one video; a folder for its frames, or several (0000.mp4, …)"
    python = {name: text.replace(files, ", or for the frames of a video") for name, text in python.items()}
    assert {name: text for name, text in here.items() if name not in own} == python
    assert len(python) > 20


def test_the_version() -> None:
    assert program("--version").out == f"dit-deploy-run {__version__}\n"


@pytest.mark.parametrize(
    "words",
    [
        ("--class-label", 3, "--seed", 7),
        ("--class-label", 3, "--seed", 2**64 - 1, "--scheduler", "DPMSolverMultistepScheduler"),
        (
            "--class-label",
            3,
            "--seed",
            1,
            "--guidance-scale",
            3,
            "--guidance-channels",
            3,
            "--guidance-interval",
            0.1,
            0.9,
        ),
        ("--class-label", 3, "--seed", 1, "--guidance-scale", 3, "--guidance-rescale", 0.5, "--guidance-apart"),
        ("--class-label", 3, "--seed", 1, "--guidance-channels", "all"),
        ("--class-label", 3, "--seed", 1, "--scheduler", "DDIMScheduler", "--eta", 0.3, "--height", 32, "--width", 48),
        ("--class-label", 1, "--class-label", 2, "--class-label", 3, "--seed", 5, "--grid", "--columns", 2),
        ("--class-label", 1, "--seed", 5, "--seed", 6, "--grid", "--engine", "onnx"),
        ("--class-label", 1, "--seed", 5, "--height", 128, "--width", 96, "--vae-memory", "2M"),
    ],
    ids=lambda words: " ".join(map(str, words)),
)
def test_the_picture_is_that_of_python(tiny_bundle: Path, tmp_path: Path, words: tuple[object, ...]) -> None:
    result = program(tiny_bundle, tmp_path / "cpp.png", *words, *FAST)
    assert (result.status, result.err) == (0, "")
    assert run(["generate", str(tiny_bundle), str(tmp_path / "python.png"), *map(str, words), *map(str, FAST)]) == 0
    ours, theirs = pixels(tmp_path / "cpp.png"), pixels(tmp_path / "python.png")
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cpp.png", "python.png"]


def test_several_seeds_draw_one_prompt_once_each(tmp_path: Path) -> None:
    bundle = Path(BUILD or "").parent / "golden" / "bundles" / "pixart"
    if not bundle.is_dir():
        pytest.skip("there is no bundle with prompts: make cpp-prepare")
    words = ("--prompt", "a red apple", *FAST)
    assert program(bundle, tmp_path / "cpp", *words, "--seed", 5, "--seed", 6).status == 0
    python = ["generate", str(bundle), str(tmp_path / "python"), *map(str, words), "--seed", "5", "--seed", "6"]
    assert run(python) == 0
    assert program(bundle, tmp_path / "six.png", *words, "--seed", 6).status == 0
    for name in ("0000.png", "0001.png"):
        assert np.abs(pixels(tmp_path / "cpp" / name) - pixels(tmp_path / "python" / name)).max() <= 1
    assert np.abs(pixels(tmp_path / "cpp" / "0001.png") - pixels(tmp_path / "six.png")).max() <= 1
    assert (pixels(tmp_path / "cpp" / "0000.png") != pixels(tmp_path / "six.png")).any()


def test_what_is_printed(tiny_bundle: Path, tmp_path: Path) -> None:
    one = program(tiny_bundle, tmp_path / "a.png", "--class-label", 3, *FAST)
    assert re.fullmatch(rf"{tmp_path}/a\.png: 1 picture, seed \d+, \d+\.\d\d s\n", one.out)
    seed = one.out.split("seed ")[1].split(",")[0]
    program(tiny_bundle, tmp_path / "b.png", "--class-label", 3, "--seed", seed, *FAST)
    assert (pixels(tmp_path / "a.png") == pixels(tmp_path / "b.png")).all()
    two = program(tiny_bundle, tmp_path / "d", "--class-label", 3, "--seed", 5, "--seed", 6, *FAST)
    assert two.out.startswith(f"{tmp_path}/d: 0000.png … 0001.png: 2 pictures, seed 5 6, ")
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == ["0000.png", "0001.png"]


def test_jpeg_and_what_is_not_written(tiny_bundle: Path, tmp_path: Path) -> None:
    assert program(tiny_bundle, tmp_path / "a.JPG", "--class-label", 3, *FAST).status == 0
    with Image.open(tmp_path / "a.JPG") as picture:
        assert (picture.format, picture.size) == ("JPEG", (64, 64))
    result = program(tiny_bundle, tmp_path / "a.webp", "--class-label", 3)
    assert result.status == 2
    assert result.message.endswith("a.webp: .webp is not written; give a .png or .jpg file, or a folder")


PICTURES = {
    "rgb.png": ("RGB", {}),
    "rgba.png": ("RGBA", {}),
    "grey.png": ("L", {}),
    "grey_alpha.png": ("LA", {}),
    "palette.png": ("P", {}),
    "grey16.png": ("I;16", {}),
    "one_bit.png": ("1", {}),
    "rgb.jpg": ("RGB", {"quality": 95}),
    "grey.jpg": ("L", {"quality": 95}),
}


def drawn(mode: str) -> Image.Image:
    """A picture without symmetry, 80 × 64."""
    y, x = np.mgrid[0:64, 0:80]
    grey = ((3 * x + 2 * y) % 256).astype(np.uint8)
    if mode == "I;16":
        return Image.fromarray(grey.astype(np.uint16) * 251 + 7)
    channels = (grey, np.flipud(grey), np.fliplr(grey), 255 - grey // 2)
    return Image.merge("RGBA", [Image.fromarray(np.ascontiguousarray(one)) for one in channels]).convert(mode)


def start_from(bundle: Path, picture: Path, out: Path) -> Result:
    words = ("--class-label", 3, "--seed", 1, "--init-image", picture, "--strength", 0.5, "--steps", 4, "--threads", 1)
    return program(bundle, out, *words)


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_of_every_kind_to_start_from(tiny_bundle: Path, tmp_path: Path, name: str) -> None:
    """What the file holds reaches the model as Pillow reads it; JPEG decoders differ by some units."""
    mode, options = PICTURES[name]
    drawn(mode).save(tmp_path / name, **options)
    multiple = {"multiple": 16, "channels": 3, "height": None, "width": None}
    seen = (read_images(tmp_path / name, **multiple)[0].transpose(1, 2, 0) * 255).round().astype(np.uint8)
    Image.fromarray(seen).save(tmp_path / "as_python_sees_it.png")
    result = start_from(tiny_bundle, tmp_path / name, tmp_path / "a.png")
    assert result.status == 0, result.err
    start_from(tiny_bundle, tmp_path / "as_python_sees_it.png", tmp_path / "b.png")
    difference = np.abs(pixels(tmp_path / "a.png") - pixels(tmp_path / "b.png")).max()
    assert difference <= (0 if name.endswith(".png") else 16)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_picture_is_turned_upright(tiny_bundle: Path, tmp_path: Path, suffix: str) -> None:
    picture = drawn("RGB")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = tmp_path / f"{orientation}{suffix}"
        picture.save(file, exif=exif, **({"quality": 95} if suffix == ".jpg" else {}))
        result = start_from(tiny_bundle, file, tmp_path / f"out{orientation}.png")
        assert result.status == 0, result.err
        python = tmp_path / f"python{orientation}.png"
        words = ["generate", str(tiny_bundle), str(python), "--class-label", "3", "--seed", "1", "--steps", "4"]
        assert run([*words, "--init-image", str(file), "--strength", "0.5", "--threads", "1"]) == 0
        ours, theirs = pixels(tmp_path / f"out{orientation}.png"), pixels(python)
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= (1 if suffix == ".png" else 16)


@pytest.mark.parametrize(("words", "message"), BAD.values(), ids=list(BAD))
def test_bad_input(tiny_bundle: Path, tmp_path: Path, words: tuple[object, ...], message: str) -> None:
    """The cases of the Python program, with its messages."""
    label = () if "--class-label" in words else ("--class-label", 3)
    steps = () if "--steps" in words else ("--steps", 2)
    result = program(tiny_bundle, tmp_path / "a.png", *label, *steps, *words)
    assert result.status == 2
    assert message in result.message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "message"), NAMES.values(), ids=list(NAMES))
def test_class_names_that_are_none(named: Path, tmp_path: Path, name: str, message: str) -> None:
    result = program(named, tmp_path / "a.png", "--class-label", name)
    assert result.status == 2
    assert message in result.message


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\nbroken", b"\xff\xd8broken", b"GIF89a"])
def test_an_unreadable_image(tiny_bundle: Path, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "in.png").write_bytes(data)
    result = start_from(tiny_bundle, tmp_path / "in.png", tmp_path / "a.png")
    assert result.status == 2
    assert "in.png cannot be read as a picture: " in result.message


def test_files_that_are_there_stay(tiny_bundle: Path, tmp_path: Path) -> None:
    for name in ("a.png", "0000.png"):
        (tmp_path / name).write_bytes(b"mine")
    for out in (tmp_path / "a.png", tmp_path):
        result = program(tiny_bundle, out, "--class-label", 3, *FAST)
        assert result.status == 2
        assert "exists; give another name, or --overwrite" in result.message
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "0000.png").read_bytes() == b"mine"
    assert program(tiny_bundle, tmp_path / "a.png", "--class-label", 3, "--overwrite", *FAST).status == 0
    assert Image.open(tmp_path / "a.png").size == (64, 64)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0000.png", "a.png"]


def test_places_that_do_not_fit(tiny_bundle: Path, tmp_path: Path) -> None:
    two = ("--class-label", 1, "--class-label", 2, *FAST)
    (tmp_path / "file").write_bytes(b"")
    for out, words, message in (
        (tmp_path / "a.png", two, "2 pictures do not fit into one file"),
        (tmp_path / "a.gif", two[:2], ".gif is not written"),
        (tmp_path / "folder", (*two, "--grid"), "--grid makes one picture"),
        (tmp_path / "none" / "a.png", two[:2], "there is no folder"),
        (tmp_path / "file", two, "is a file"),
        (tmp_path / "a.png", (), "--class-label: none came"),
    ):
        result = program(tiny_bundle, out, *words)
        assert result.status == 2
        assert message in result.message
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_which_engine_runs_is_said(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(copy_bundle(tiny_bundle, tmp_path / "b"))
    add_engine(bundle, "fast")
    words = (bundle.path, tmp_path / "a.png", "--class-label", 3, "--overwrite", *FAST)
    assert program(*words).err == "engine fast: the one that fits\n"
    assert program(*words, "--engine", "fast").err == ""


def test_verify(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = copy_bundle(tiny_bundle, tmp_path / "b")
    whole = program("--verify", bundle)
    assert (whole.status, whole.err) == (0, "")
    model = bundle / "denoiser" / "model.onnx"
    data = bytearray(model.read_bytes())
    data[100] ^= 1
    model.write_bytes(data)
    (bundle / "vae_decoder" / "model.onnx").unlink()
    damaged = program("--verify", bundle)
    assert damaged.status == 1
    assert len(damaged.out.splitlines()) == 2
    assert "denoiser/model.onnx" in damaged.out and "vae_decoder/model.onnx" in damaged.out
    assert program("--verify", tmp_path / "none").status == 2


def test_interrupted(tiny_bundle: Path, tmp_path: Path) -> None:
    """Once the bar on the terminal shows a step, of so many that the last is far."""
    size = ("--height", 512, "--width", 512)
    words = [tiny_bundle, tmp_path / "a.png", "--class-label", 3, "--steps", 1000, "--threads", 1, *size]
    ours, terminal = os.openpty()
    running = subprocess.Popen([PROGRAM, *map(str, words)], stderr=terminal)
    os.close(terminal)
    shown = os.read(ours, 1000)
    while b"1/1000" not in shown:
        shown += os.read(ours, 1000)
    running.send_signal(signal.SIGINT)
    with suppress(OSError):  # at its end, a terminal is gone
        while more := os.read(ours, 1000):
            shown += more
    os.close(ours)
    assert running.wait() == 130
    assert shown.endswith(b"\r\x1b[Kdit-deploy-run: interrupted; nothing was written\r\n")
    assert list(tmp_path.iterdir()) == []


def test_the_bar_counts_pieces(tiny_bundle: Path, tmp_path: Path) -> None:
    words = [tiny_bundle, tmp_path / "a.png", "--class-label", 3, "--height", 128, "--vae-tile", 64, *FAST]
    ours, terminal = os.openpty()
    running = subprocess.Popen([PROGRAM, *map(str, words)], stderr=terminal, stdout=subprocess.DEVNULL)
    os.close(terminal)
    shown = b""
    with suppress(OSError):
        while more := os.read(ours, 1000):
            shown += more
    os.close(ours)
    assert running.wait() == 0
    found = re.findall(r"\x1b\[K(\w+) [━·]+ (\d+/\d+) \d+:\d\d:\d\d", shown.decode())
    assert found == [("denoising", "1/2"), ("denoising", "2/2"), *(("decoding", f"{i}/6") for i in range(1, 7))]
