"""``Bundle.verify`` lists everything that differs, and stops at nothing."""

from __future__ import annotations

import os

import pytest

from dit_deploy.bundle import Bundle, Problem


def test_each_kind_of_problem(bundle: Bundle) -> None:
    root = bundle.path
    model, data = root / "denoiser/model.onnx", root / "denoiser/model.onnx.data"
    config, decoder = root / "scheduler/scheduler_config.json", root / "vae_decoder/model.onnx"
    model.write_bytes(bytes(model.stat().st_size))
    data.write_bytes(b"short")
    config.unlink()
    decoder.unlink()
    decoder.mkdir()
    (root / "notes.txt").write_text("mine")
    (root / "denoiser/link").symlink_to("nowhere")
    problems = {problem.path: problem for problem in bundle.verify()}
    assert {path: problem.kind for path, problem in problems.items()} == {
        "denoiser/model.onnx": "altered",
        "denoiser/model.onnx.data": "size",
        "scheduler/scheduler_config.json": "missing",
        "vae_decoder/model.onnx": "unsafe",
        "notes.txt": "extra",
        "denoiser/link": "extra",
    }
    assert str(problems["denoiser/model.onnx.data"]) == "denoiser/model.onnx.data has 5 bytes, expected 16"
    assert str(problems["scheduler/scheduler_config.json"]) == "scheduler/scheduler_config.json is missing"
    assert str(problems["notes.txt"]) == "notes.txt is not recorded in the manifest"
    expected = bundle.manifest.files["denoiser/model.onnx"].sha256
    assert problems["denoiser/model.onnx"].expected == expected
    assert f"expected {expected}" in str(problems["denoiser/model.onnx"])


def test_engines_and_parity_have_records_of_their_own(bundle: Bundle) -> None:
    for folder in ("engines/fast", "parity"):
        (bundle.path / folder).mkdir(parents=True)
        (bundle.path / folder / "x.json").write_text("{}")
    assert bundle.verify() == []


def test_progress_counts_every_byte(bundle: Bundle) -> None:
    seen: list[tuple[str, int, int]] = []
    assert bundle.verify(lambda path, done, total: seen.append((path, done, total))) == []
    total = sum(record.size for record in bundle.manifest.files.values())
    assert [path for path, _, _ in seen] == list(bundle.manifest.files)
    assert seen[-1][1:] == (total, total)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


@pytest.mark.parametrize("name", ["manifest.json", "manifest.json.sha256"])
def test_the_manifest_itself_is_watched(bundle: Bundle, name: str) -> None:
    path = bundle.path / name
    path.write_bytes(path.read_bytes() + b" ")
    assert [(problem.path, problem.kind) for problem in bundle.verify()] == [(name, "altered")]
    path.unlink()
    assert bundle.verify() == [Problem(name, "missing")]
    os.mkfifo(path)
    assert [problem.kind for problem in bundle.verify()] == ["unreadable"]
