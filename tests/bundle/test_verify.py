"""``Bundle.verify`` lists everything that differs, and stops at nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dit_deploy.bundle import Bundle, Problem
from dit_deploy.errors import BundleError


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


def test_a_bundle_that_does_not_open_is_verified(bundle: Bundle, tmp_path: Path) -> None:
    root = bundle.path
    (root / "denoiser/model.onnx.data").write_bytes(b"short")
    (root / "scheduler/scheduler_config.json").unlink()
    (root / "engines").symlink_to(tmp_path)
    manifest = root / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"epsilon"', '"sample"'))
    with pytest.raises(BundleError):
        Bundle.open(root)
    problems = Bundle.open(root, check_files=False).verify()
    assert {problem.path: problem.kind for problem in problems} == {
        "manifest.json": "altered",
        "denoiser/model.onnx.data": "size",
        "scheduler/scheduler_config.json": "missing",
        "engines": "unsafe",
    }
    assert f"engines is unsafe: a link that leaves the bundle, to {tmp_path}" in map(str, problems)


@pytest.mark.parametrize("data", [b"", b"\xff" * 80, b"0" * 64])
def test_a_digest_that_is_none(bundle: Bundle, data: bytes) -> None:
    (bundle.path / "manifest.json.sha256").write_bytes(data)
    problems = Bundle.open(bundle.path, check_files=False).verify()
    assert [(problem.path, problem.kind) for problem in problems] == [("manifest.json.sha256", "altered")]
