"""The benchmark as a function and as a command, on the tiny bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dit_deploy import Bundle
from dit_deploy.bench import bench, candidates, timing
from dit_deploy.cli import run
from dit_deploy.errors import BackendError, InputError
from dit_deploy.runtimes.image_conditions import ImageConditioner, Pictures
from tests.parity.altered import rebuild

FAST: dict[str, Any] = {"steps": 2, "repeats": 2, "threads": 1}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(timing, "_SAMPLE_SECONDS", 0.001)


def refuse(module: object) -> None:
    raise BackendError("no compiler today")


def test_against_pytorch(tiny_bundle: Path, tiny_source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "_compile", refuse)
    report = bench(Bundle.open(tiny_bundle), reference=tiny_source, batch=2, **FAST)
    assert report.baseline == "PyTorch eager"
    assert list(report.forward) == list(report.run) == ["PyTorch eager", "onnx"]
    assert report.absent == {"torch.compile": "no compiler today"}
    assert len(report.forward["onnx"].seconds) == 2
    assert len(report.run["onnx"].seconds) == 1
    assert report.differences["onnx"] < 1e-4
    assert all(0 < share < 1 for timing in report.outside.values() for share in timing.seconds)
    assert report.settings["forward_batch"] == 4
    found = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert found["candidates"]["PyTorch eager"]["forward"]["ratio"] == 1.0
    assert found["machine"]["versions"]["torch"]


@pytest.mark.parametrize("required", [False, True])
def test_a_bundle_that_makes_videos_of_pictures(
    tiny_video_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, required: bool
) -> None:
    """It is given some where it needs them, in a whole run and in one call of its denoiser.

    Its schedule ends above zero, as LTX-Video's, and has no single step.
    """

    def ends_above_zero(folder: Path) -> None:
        path = folder / "scheduler" / "scheduler_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "shift_terminal": 0.1}))

    opened = Bundle.open(tiny_video_bundle)
    record = opened.manifest.image_conditions
    assert record is not None
    needed = record.model_copy(update={"required": required})
    bundle = rebuild(opened, tmp_path / "bundle", ends_above_zero, image_conditions=needed)
    seen: list[tuple[bool, int]] = []
    original = ImageConditioner.__call__

    def watched(self: ImageConditioner, pictures: Pictures | None, batch: int, *more: Any) -> Any:
        seen.append((pictures is not None, batch))
        return original(self, pictures, batch, *more)

    monkeypatch.setattr(ImageConditioner, "__call__", watched)
    report = bench(bundle, batch=2, **FAST)
    assert list(report.run) == ["onnx"] and report.settings["forward_batch"] == 4
    assert len(seen) > 2 and set(seen) == {(required, 2)}


def test_a_machine_without_a_compiler(tiny_bundle: Path, tiny_source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    report = bench(Bundle.open(tiny_bundle), reference=tiny_source, **FAST)
    assert "there is no no-such-compiler" in report.absent["torch.compile"]


@pytest.mark.slow
def test_compiled(tiny_bundle: Path, tiny_source: Path) -> None:
    report = bench(Bundle.open(tiny_bundle), reference=tiny_source, **FAST)
    assert report.absent == {}
    assert report.differences["torch.compile"] < 1e-4


def test_as_a_command(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench.json"
    words = [
        "bench",
        str(tiny_bundle),
        "--steps",
        "2",
        "--repeats",
        "1",
        "--threads",
        "1",
        "--quiet",
        "--json",
        str(out),
    ]
    assert run(words) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "one denoiser call, batch 2" in captured.out
    assert "outside the graphs" in captured.out
    assert list(json.loads(out.read_text(encoding="utf-8"))["candidates"]) == ["onnx"]
    assert run(words) == 2
    assert "exists; give another name, or --overwrite" in capsys.readouterr().err
    assert run([*words, "--overwrite"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]
    assert run(["bench", str(tiny_bundle), "--arch", "DiT-B/2"]) == 2
    assert "--arch, --image-size and --vae say what a --reference is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": 0}, "steps: 0 came"),
        ({"repeats": 0}, "repeats: 0 came"),
        ({"engines": ["int8"]}, "engine: 'int8' came"),
        ({"engines": ["onnx", "onnx"]}, "engine: one came twice"),
    ],
)
def test_bad_input(tiny_bundle: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        bench(Bundle.open(tiny_bundle), **{**FAST, **changed})


def test_another_model_s_reference(tiny_bundle: Path, tmp_path: Path) -> None:
    from tests.models import make_transformer

    make_transformer(seed=5).save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="not what this bundle was exported from"):
        bench(Bundle.open(tiny_bundle), reference=tmp_path / "other", **FAST)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give a BUNDLE, or --arch DiT-B/2"),
        (("--arch", "DiT-M/2"), "'DiT-M/2' came, expected one of"),
        (("--arch", "DiT-S/8", "--reference", "x"), "--reference and --vae belong to a BUNDLE"),
        (("--arch", "DiT-S/8", "--image-size", "100"), "expected a multiple of 64 pixels"),
        (("--arch", "DiT-S/8", "--keep", "."), "--keep . exists"),
        (("--arch", "DiT-S/8", "--json", "no-such-folder/b.json"), "--json no-such-folder/b.json: give a file"),
        (("some-bundle", "--keep", "x"), "--keep x is for random models"),
    ],
)
def test_bad_words(words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", *words, "--quiet"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message in err


def test_a_random_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """``bench --arch``: made, benched against itself, kept where that is asked for; the export is another test's."""
    import dit_deploy.bench
    import dit_deploy.exporters

    seen: dict[str, Any] = {}

    class Made:
        path = tmp_path

    def export(source: Path, out: Path, **_: object) -> Made:
        seen.update(source=source, vae=(source.parent / "vae" / "config.json").is_file())
        out.mkdir()
        return Made()

    class Report:
        def table(self) -> str:
            return "the table"

    def measure(bundle: object, **options: object) -> Report:
        seen.update(reference=options["reference"])
        return Report()

    monkeypatch.setattr(dit_deploy.exporters, "export", export)
    monkeypatch.setattr(dit_deploy.bench, "bench", measure)
    monkeypatch.setattr(Bundle, "open", lambda path: path)
    words = ["bench", "--arch", "DiT-S/8", "--image-size", "64", "--quiet"]
    assert run(words) == 0
    assert capsys.readouterr().out == "the table\n"
    assert seen["vae"]
    assert seen["source"] == seen["reference"]
    assert not seen["source"].exists()
    assert run([*words, "--keep", str(tmp_path / "kept")]) == 0
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["DiT-S-8.safetensors", "bundle", "vae"]
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
