"""``dit-deploy generate``: where pictures go, what they are, and what bad input gets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dit_deploy import Bundle
from tests.cli.command import Command, copy_bundle
from tests.runtimes.engines import add_engine, rtx

FAST = ("--steps", 2, "--threads", 1)


def test_one_picture(cli: Command, tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.png"
    result = cli("generate", tiny_bundle, out, "--class-label", 3, "--seed", 7, *FAST)
    assert (result.status, result.err) == (0, "")
    assert "seed 7," in result.out
    assert str(out) in result.out
    assert Image.open(out).size == (64, 64)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_drawn_seed_is_printed_and_draws_the_same(cli: Command, tiny_bundle: Path, tmp_path: Path) -> None:
    first = cli("generate", tiny_bundle, tmp_path / "a.png", "--class-label", 3, *FAST)
    seed = first.out.split("seed ")[1].split(",")[0]
    cli("generate", tiny_bundle, tmp_path / "b.png", "--class-label", 3, "--seed", seed, *FAST)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_folder_of_pictures(cli: Command, tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "pictures"
    result = cli("generate", tiny_bundle, out, "--class-label", 1, "--class-label", 2, "--seed", 0, *FAST)
    assert result.status == 0, result.err
    assert sorted(path.name for path in out.iterdir()) == ["0000.png", "0001.png"]
    assert "2 pictures" in result.out


def test_several_seeds_draw_one_class_once_each(cli: Command, tiny_bundle: Path, tmp_path: Path) -> None:
    cli("generate", tiny_bundle, tmp_path / "d", "--class-label", 1, "--seed", 5, "--seed", 6, *FAST)
    cli("generate", tiny_bundle, tmp_path / "six.png", "--class-label", 1, "--seed", 6, *FAST)
    second, alone = (np.asarray(Image.open(tmp_path / name)).astype(int) for name in ("d/0001.png", "six.png"))
    assert np.abs(second - alone).max() <= 1


def test_a_grid(cli: Command, tiny_bundle: Path, tmp_path: Path) -> None:
    labels = [word for index in range(3) for word in ("--class-label", index)]
    assert cli("generate", tiny_bundle, tmp_path / "a.png", "--grid", *labels, *FAST).status == 0
    assert Image.open(tmp_path / "a.png").size == (130, 130)
    assert cli("generate", tiny_bundle, tmp_path / "b.webp", "--grid", "--columns", 3, *labels, *FAST).status == 0
    assert Image.open(tmp_path / "b.webp").size == (196, 64)


def test_sizes_suffixes_and_every_option(cli: Command, tiny_bundle: Path, tmp_path: Path) -> None:
    guidance = ("--guidance-scale", 3, "--guidance-channels", 3, "--guidance-interval", 0.1, 0.9)
    more = ("--guidance-rescale", 0.5, "--guidance-apart", "--scheduler", "DDIMScheduler", "--eta", 0.3)
    size = ("--height", 32, "--width", 48, "--engine", "onnx")
    result = cli("generate", tiny_bundle, tmp_path / "a.jpg", "--class-label", 3, *guidance, *more, *size, *FAST)
    assert result.status == 0, result.err
    assert Image.open(tmp_path / "a.jpg").size == (48, 32)


def test_image_to_image(cli: Command, tiny_bundle: Path, tmp_path: Path) -> None:
    Image.new("RGB", (80, 64), "red").save(tmp_path / "in.png")
    init = ("--init-image", tmp_path / "in.png", "--strength", 0.5)
    result = cli("generate", tiny_bundle, tmp_path / "a.png", "--class-label", 3, *init, "--steps", 4, "--threads", 1)
    assert result.status == 0, result.err
    assert Image.open(tmp_path / "a.png").size == (80, 64)


def test_which_engine_runs_is_said(cli: Command, tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(copy_bundle(tiny_bundle, tmp_path / "b"))
    add_engine(bundle, "fast")
    words = ("generate", bundle.path, tmp_path / "a.png", "--class-label", 3, "--overwrite", *FAST)
    result = cli(*words)
    assert (result.status, result.err) == (0, "engine fast: the one that fits\n")
    result = cli(*words, "--engine", "fast")
    assert (result.status, result.err) == (0, "")
    data = bundle.path / "engines/fast/denoiser/model.onnx.data"
    data.write_bytes(data.read_bytes()[:-1])
    result = cli(*words)
    assert result.status == 0 and result.err.startswith("engine onnx: the plain graphs; fast cannot be used: ")
    result = cli(*words, "--engine", "fast")
    assert result.status == 2 and "bytes, but engine.json says" in result.message


def test_an_engine_of_another_machine(cli: Command, tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(copy_bundle(tiny_bundle, tmp_path / "b"))
    add_engine(bundle, "rtx", **rtx("99.0"))
    words = ("generate", bundle.path, tmp_path / "a.png", "--class-label", 3, *FAST)
    result = cli(*words, "--engine", "rtx")
    assert result.status == 2
    assert (
        "rtx does not fit this machine: it is for TensorRT-RTX 1.7.1.116 on compute capability 99.0; " in result.message
    )
    assert not (tmp_path / "a.png").exists()
    assert cli(*words).err.startswith("engine onnx: the plain graphs; rtx does not fit: this machine")


@pytest.mark.parametrize("name", ["ankle boot", "ANKLE  BOOT", "8"])
def test_a_class_by_name(cli: Command, named_bundle: Path, tmp_path: Path, name: str) -> None:
    result = cli("generate", named_bundle, tmp_path / "a.png", "--class-label", name, *FAST)
    assert result.status == 0, result.err


BAD = {
    "height": (("--height", 40), "height: 40 came, expected a multiple of 16 pixels; the nearest is 3"),
    "width": (("--width", 0), "width: 0 came, expected a multiple of 16"),
    "class out of range": (("--class-label", 18), "class_labels"),
    "class below range": (("--class-label", -1), "class_labels"),
    "no steps": (("--steps", 0), "0"),
    "steps beyond training": (("--steps", 1001), "1001"),
    "nan guidance": (("--guidance-scale", "nan"), "guidance_scale: nan came"),
    "infinite guidance": (("--guidance-scale", "inf"), "guidance_scale: inf came"),
    "guidance channels": (("--guidance-channels", "three"), "--guidance-channels: 'three' came"),
    "rescale": (("--guidance-rescale", 2), "guidance rescale: 2.0 came"),
    "interval": (("--guidance-interval", 0.9, 0.1), "guidance interval"),
    "scheduler": (("--scheduler", "NoSuchScheduler"), "NoSuchScheduler"),
    "engine": (("--engine", "int8"), "engine: 'int8' came; this bundle has onnx"),
    "strength alone": (("--strength", 0.5), "strength: 0.5 came without an image"),
    "missing image": (("--init-image", "no-such.png"), "no-such.png does not exist"),
    "number": (("--steps", "many"), "Invalid value for '--steps'"),
    "columns": (("--columns", 2), "--columns 2 is for --grid"),
    "unknown option": (("--no-such-option",), "No such option"),
    "negative seed": (("--seed", -1), "seed"),
}


@pytest.mark.parametrize(("words", "message"), BAD.values(), ids=list(BAD))
def test_bad_input(cli: Command, tiny_bundle: Path, tmp_path: Path, words: tuple[object, ...], message: str) -> None:
    label = () if "--class-label" in words else ("--class-label", 3)
    steps = () if "--steps" in words else ("--steps", 2)
    result = cli("generate", tiny_bundle, tmp_path / "a.png", *label, *steps, *words)
    assert result.status == 2
    assert message in result.message
    assert list(tmp_path.iterdir()) == []


def test_an_unreadable_image(cli: Command, tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "in.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    words = ("--class-label", 3, "--init-image", tmp_path / "in.png", *FAST)
    result = cli("generate", tiny_bundle, tmp_path / "a.png", *words)
    assert result.status == 2
    assert "in.png cannot be read as a picture" in result.message


NAMES = {
    "unknown": ("ankel boot", "did you mean 'ankle boot'"),
    "part": ("boot", "did you mean 'ankle boot'"),
    "ambiguous": ("crane", "names several classes: 3, 5"),
    "far": ("zzzzzzzzzzzzzz", "it has 'kind 0', 'kind 1'"),
    "empty": ("", "is no class of this bundle"),
}


@pytest.mark.parametrize(("name", "message"), NAMES.values(), ids=list(NAMES))
def test_class_names_that_are_none(cli: Command, named_bundle: Path, tmp_path: Path, name: str, message: str) -> None:
    result = cli("generate", named_bundle, tmp_path / "a.png", "--class-label", name)
    assert result.status == 2
    assert message in result.message


def test_class_labels_are_needed(cli: Command, tiny_bundle: Path, tmp_path: Path) -> None:
    assert "--class-label: none came" in cli("generate", tiny_bundle, tmp_path / "a.png").message


def test_files_that_are_there_stay(cli: Command, tiny_bundle: Path, tmp_path: Path) -> None:
    for name in ("a.png", "0000.png"):
        (tmp_path / name).write_bytes(b"mine")
    for out in (tmp_path / "a.png", tmp_path):
        result = cli("generate", tiny_bundle, out, "--class-label", 3, *FAST)
        assert result.status == 2
        assert "exists; give another name, or --overwrite" in result.message
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "0000.png").read_bytes() == b"mine"
    assert cli("generate", tiny_bundle, tmp_path / "a.png", "--class-label", 3, "--overwrite", *FAST).status == 0
    assert Image.open(tmp_path / "a.png").size == (64, 64)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0000.png", "a.png"]


def test_places_that_do_not_fit(cli: Command, tiny_bundle: Path, tmp_path: Path) -> None:
    two = ("--class-label", 1, "--class-label", 2, *FAST)
    (tmp_path / "file").write_bytes(b"")
    for out, words, message in (
        (tmp_path / "a.png", two, "2 pictures do not fit into one file"),
        (tmp_path / "a.gif", two[:2], ".gif is not written"),
        (tmp_path / "folder", (*two, "--grid"), "--grid makes one picture"),
        (tmp_path / "none" / "a.png", two[:2], "there is no folder"),
        (tmp_path / "file", two, "is a file"),
    ):
        result = cli("generate", tiny_bundle, out, *words)
        assert result.status == 2
        assert message in result.message
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_interrupted(cli: Command, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dit_deploy import Pipeline

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Pipeline, "__call__", interrupt)
    result = cli("generate", tiny_bundle, tmp_path / "a.png", "--class-label", 3)
    assert result.status == 130
    assert "interrupted" in result.message
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_nothing(
    cli: Command, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Image.Image, stream: object, *_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    result = cli("generate", tiny_bundle, tmp_path / "a.png", "--class-label", 3, *FAST)
    assert result.status == 2
    assert "No space left on device" in result.message
    assert list(tmp_path.iterdir()) == []
