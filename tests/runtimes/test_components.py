"""Components are checked before a backend opens them, and loaded when they are first used, once."""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dit_deploy import Bundle, Pipeline
from dit_deploy.errors import IntegrityError
from dit_deploy.runtimes import integrity, onnxruntime


def alter(folder: Path) -> Path:
    """Change one byte, in the middle, of the largest file in ``folder``, and keep its size."""
    path = max(folder.iterdir(), key=lambda file: file.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path


@pytest.fixture
def copied(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "copied"))


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders of the graphs that ONNX Runtime opens, slowly."""
    names: list[str] = []
    original = onnxruntime.OnnxRuntimeRunner

    def load(path: Path, *arguments: Any, **options: Any) -> Any:
        names.append(path.parent.name)
        time.sleep(0.05)
        return original(path, *arguments, **options)

    monkeypatch.setattr(onnxruntime, "OnnxRuntimeRunner", load)
    return names


def test_altered_weights_of_the_same_size_are_not_opened(copied: Path, loaded: list[str]) -> None:
    path = alter(copied / "denoiser")
    with pytest.raises(IntegrityError, match=r"was altered: its SHA-256 is .*export the bundle again") as caught:
        Pipeline(Bundle.open(copied), threads=1)
    assert str(path) in str(caught.value) and "dit-deploy verify" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert loaded == []


def test_weights_altered_between_two_pipelines_are_found(copied: Path) -> None:
    bundle = Bundle.open(copied)
    Pipeline(bundle, threads=1)
    alter(copied / "denoiser")
    with pytest.raises(IntegrityError, match="was altered"):
        Pipeline(bundle, threads=1)


def test_the_vae_is_checked_when_it_is_used(copied: Path) -> None:
    alter(copied / "vae_decoder")
    pipe = Pipeline(Bundle.open(copied), threads=1)
    assert pipe(class_labels=1, num_inference_steps=1, output_type="latent").latents.size
    with pytest.raises(IntegrityError, match="vae_decoder"):
        pipe(class_labels=1, num_inference_steps=1)


def test_a_second_pipeline_hashes_nothing(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Pipeline(Bundle.open(copied), threads=1)
    assert any(path == str(copied / "denoiser" / "model.onnx") for path, *_ in integrity._known)
    monkeypatch.setattr(hashlib, "file_digest", lambda *arguments: pytest.fail("hashed again"))
    Pipeline(Bundle.open(copied), threads=1)


def test_components_are_loaded_when_first_used(tiny_bundle: Path, loaded: list[str]) -> None:
    pipe = Pipeline(Bundle.open(tiny_bundle), threads=1)
    assert loaded == ["denoiser"]
    pipe(class_labels=1, num_inference_steps=1)
    assert loaded == ["denoiser", "vae_decoder"]


def test_threads_load_a_component_once(tiny_bundle: Path, loaded: list[str]) -> None:
    pipe = Pipeline(Bundle.open(tiny_bundle), threads=1)
    pools: list[Any] = []
    threads = [threading.Thread(target=lambda: pools.append(pipe.pool("vae_decoder"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pools) == 4 and len({id(pool) for pool in pools}) == 1
    assert loaded == ["denoiser", "vae_decoder"]
