"""``export``, ``inspect``, ``verify`` and ``parity`` as commands."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import Command, change_manifest, copy_bundle
from tests.runtimes.engines import add_engine, alter, rtx


def test_inspect(cli: Command, tiny_bundle: Path) -> None:
    result = cli("inspect", tiny_bundle)
    assert (result.status, result.err) == (0, "")
    assert "64 × 64 pixels in training; height and width are multiples of 16" in result.out
    assert "← class_labels int64 [batch], 0 … 17" in result.out
    assert all(line == line.rstrip() for line in result.out.splitlines())
    assert "\x1b" not in result.out


def test_inspect_as_json(cli: Command, tiny_bundle: Path) -> None:
    facts = json.loads(cli("inspect", tiny_bundle, "--json").out)
    assert facts["family"] == "dit"
    assert set(facts["components"]) == {"denoiser", "vae_decoder", "vae_encoder"}


@pytest.fixture
def with_engines(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle with an engine that runs here, and one for a GPU."""
    from dit_deploy import Bundle

    bundle = Bundle.open(copy_bundle(tiny_bundle, tmp_path / "engines"))
    add_engine(bundle, "fast", precision="int8", parity={"passed": True, "psnr": 34.56})
    add_engine(bundle, "rtx-fp16", "denoiser", "vae_decoder", precision="fp16", **rtx("99.0"))
    return bundle.path


def test_inspect_engines(cli: Command, with_engines: Path) -> None:
    (with_engines / "engines/broken").mkdir()
    (with_engines / "engines/broken/engine.json").write_text("{}", encoding="utf-8")
    out = cli("inspect", with_engines).out
    assert "broken, fast, rtx-fp16" in out
    for words in (
        "int8 for ONNX Runtime",
        "parity passed, PSNR 34.6 dB",
        "fits this machine",
        "fp16 for TensorRT-RTX 1.7.1.116 on compute capability 99.0",
        "vae_decoder: any size",
        "parity not measured",
        "does not fit this machine: it is for TensorRT-RTX 1.7.1.116 on compute capability 99.0; this machine",
        "is no record of an engine",
    ):
        assert words in " ".join(out.split()), words
    engines = json.loads(cli("inspect", with_engines, "--json").out)["engines"]
    assert engines["fast"]["unfit"] == "" and engines["fast"]["parity"]["psnr"] == 34.56
    assert engines["rtx-fp16"]["unfit"].startswith("it is for TensorRT-RTX")
    assert set(engines["broken"]) == {"error"}


def test_verify_engines(cli: Command, with_engines: Path) -> None:
    result = cli("verify", with_engines)
    assert (result.status, result.err) == (0, "")
    assert "those of 2 engines among them, all as recorded" in result.out
    alter(with_engines / "engines/fast/denoiser/model.onnx.data")
    (with_engines / "engines/rtx-fp16/denoiser.engine").write_bytes(b"cut")
    result = cli("verify", with_engines)
    assert (result.status, result.err) == (1, "")
    altered, cut = result.out.splitlines()
    assert altered.startswith("engines/fast/denoiser/model.onnx.data was altered: ")
    assert cut == "engines/rtx-fp16/denoiser.engine has 3 bytes, expected 6"


def test_verify(cli: Command, tiny_bundle: Path) -> None:
    result = cli("verify", tiny_bundle)
    assert (result.status, result.err) == (0, "")
    assert "all as recorded" in result.out


def test_verify_names_each_problem(cli: Command, tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = copy_bundle(tiny_bundle, tmp_path / "b")
    graph = bundle / "denoiser/model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"\x00")
    (bundle / "extra.bin").write_bytes(b"?")
    result = cli("verify", bundle)
    assert (result.status, result.err) == (1, "")
    lines = result.out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("denoiser/model.onnx was altered")
    assert lines[1].startswith("extra.bin is not recorded")


def test_a_truncated_file(cli: Command, tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = copy_bundle(tiny_bundle, tmp_path / "b")
    data = bundle / "vae_decoder/model.onnx"
    data.write_bytes(data.read_bytes()[:-5])
    found = cli("verify", bundle)
    assert (found.status, found.err) == (1, "")
    assert "vae_decoder/model.onnx" in found.out
    for words in (("inspect", bundle), ("generate", bundle, tmp_path / "a.png", "--class-label", 1)):
        result = cli(*words)
        assert result.status == 2
        assert "bytes, but the manifest says" in result.message
    assert not (tmp_path / "a.png").exists()


def test_verify_goes_on_after_the_first_problem(cli: Command, tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = copy_bundle(tiny_bundle, tmp_path / "b")
    (bundle / "vae_encoder/model.onnx").unlink()
    data = bundle / "vae_decoder/model.onnx"
    data.write_bytes(data.read_bytes()[:-5])
    (bundle / "parity").symlink_to(tmp_path)
    result = cli("verify", bundle)
    assert (result.status, result.err) == (1, "")
    assert sorted(line.split(" ")[0] for line in result.out.splitlines()) == [
        "parity",
        "vae_decoder/model.onnx",
        "vae_encoder/model.onnx",
    ]


@pytest.mark.parametrize("name", ["verify", "inspect"])
def test_a_newer_manifest(cli: Command, tiny_bundle: Path, tmp_path: Path, name: str) -> None:
    bundle = copy_bundle(tiny_bundle, tmp_path / "b")
    change_manifest(bundle, lambda manifest: manifest.update(version=2))
    result = cli(name, bundle)
    assert result.status == 2
    assert "version 2" in result.message


def test_no_bundle(cli: Command, tmp_path: Path) -> None:
    assert "it is empty" in cli("verify", tmp_path).message
    assert "there is no" in cli("inspect", tmp_path / "none").message


class _Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.target,))


def test_a_pickle_that_wants_to_run_code(cli: Command, tmp_path: Path) -> None:
    """Neither plain nor inside the archive that torch writes."""
    import torch

    ran = tmp_path / "ran"
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(_Bomb(ran)))
    torch.save({"ema": _Bomb(ran)}, tmp_path / "archive.pt")
    for source in ("plain.pt", "archive.pt"):
        result = cli("export", tmp_path / source, tmp_path / "bundle", "--quiet")
        assert result.status == 2
        assert source in result.message
        assert not ran.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive.pt", "plain.pt"]


def test_sources_that_are_none(cli: Command, tiny_source: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    for words, message in (
        ((tmp_path / "none.pt", out), "does not exist"),
        ((tmp_path, out), "neither model_index.json"),
        ((tiny_source, out, "--arch", "DiT-S/8"), "are for checkpoint files"),
        ((tiny_source, out, "--dtype", "int3"), "int3"),
        ((tiny_source, tmp_path / "none" / "b"), "none"),
    ):
        result = cli("export", *words, "--quiet")
        assert result.status == 2
        assert message in result.message
        assert not out.exists()


def test_an_output_folder_that_is_no_bundle(cli: Command, tiny_source: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    for words in ((), ("--overwrite",)):
        result = cli("export", tiny_source, tmp_path, "--quiet", *words)
        assert result.status == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_export(cli: Command, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command hands its options on; what an export does is tested in tests/exporters."""
    import dit_deploy.exporters
    from dit_deploy import Bundle

    given: dict[str, Any] = {}

    def fake(source: Path, out: Path, **options: Any) -> Bundle:
        given.update(options, source=source, out=out)
        options["progress"]("tracing the denoiser")
        return Bundle.open(tiny_bundle)

    monkeypatch.setattr(dit_deploy.exporters, "export", fake)
    words = ("--arch", "DiT-B/4", "--image-size", 128, "--vae", "v", "--dtype", "fp16", "--overwrite")
    texts = ("--max-sequence-length", 128, "--clip-skip", 1)
    result = cli("export", "checkpoint.pt", tmp_path / "b", *words, *texts)
    assert result.status == 0
    assert result.err == "tracing the denoiser\n"
    assert result.out.startswith(f"{tiny_bundle}: ")
    del given["progress"]
    assert given == {
        "source": Path("checkpoint.pt"),
        "out": tmp_path / "b",
        "arch": "DiT-B/4",
        "image_size": 128,
        "vae": Path("v"),
        "dtype": "fp16",
        "overwrite": True,
        "max_sequence_length": 128,
        "clip_skip": 1,
    }


@pytest.fixture
def parity_words(tiny_bundle: Path, tiny_source: Path, tmp_path: Path) -> tuple[object, ...]:
    bundle = copy_bundle(tiny_bundle, tmp_path / "b")
    return "parity", bundle, "--reference", tiny_source, "--steps", 2, "--class-label", 3, "--quiet"


def test_parity(cli: Command, parity_words: tuple[object, ...], tmp_path: Path) -> None:
    result = cli(*parity_words, "--report", tmp_path / "report")
    assert result.status == 0, result.out + result.err
    report = json.loads((tmp_path / "b/parity/onnx.json").read_text(encoding="utf-8"))
    assert report["passed"] is True
    assert (tmp_path / "report/index.html").is_file()
    assert "within the limits" in result.out


def test_parity_beyond_its_limits(cli: Command, parity_words: tuple[object, ...], tmp_path: Path) -> None:
    """Another noise schedule in the bundle than in the source draws other pictures."""
    bundle = tmp_path / "b"
    path = bundle / "scheduler/scheduler_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["beta_end"] = 0.03
    data = json.dumps(config).encode()
    path.write_bytes(data)
    record = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    change_manifest(bundle, lambda manifest: manifest["files"].update({"scheduler/scheduler_config.json": record}))
    result = cli(*parity_words)
    assert (result.status, result.err) == (1, "")
    assert "beyond the limits of fp32: generation" in result.out
    assert json.loads((bundle / "parity/onnx.json").read_text(encoding="utf-8"))["passed"] is False


def test_parity_of_bad_input(cli: Command, parity_words: tuple[object, ...], tmp_path: Path) -> None:
    assert "Missing option '--reference'" in cli("parity", tmp_path / "b").message
    (tmp_path / "file").write_text("", encoding="utf-8")
    for words, message in (
        (("--report", tmp_path / "file"), "is a file"),
        (("--engine", "int8"), "engine: 'int8' came"),
        (("--steps", 0), "Invalid value for '--steps'"),
        (("--steps", 1001), "1001"),
        (("--init-image", tmp_path / "none.png"), "none.png does not exist"),
        (("--last-image", tmp_path / "none.png"), "last_image: this bundle takes none"),
    ):
        result = cli(*parity_words, *words)
        assert result.status == 2
        assert message in result.message
