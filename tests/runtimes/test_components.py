"""Components are checked before a backend opens them, and loaded when they are first used, once."""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from dit_deploy import Bundle, Pipeline
from dit_deploy.errors import IntegrityError
from dit_deploy.runtimes import integrity, onnxruntime, tensorrt
from dit_deploy.runtimes.components import Components

from .engines import add_engine, rtx
from .engines import alter as alter_file


def alter(folder: Path) -> Path:
    """Change one byte, in the middle, of the largest file in ``folder``, and keep its size."""
    return alter_file(max(folder.iterdir(), key=lambda file: file.stat().st_size))


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


def test_an_engine_runs_in_place_of_the_plain_graph(copied: Path) -> None:
    """A copy draws the same picture to the bit; other weights draw another, with the other components unchanged."""
    bundle = Bundle.open(copied)
    add_engine(bundle, "copy")
    add_engine(bundle, "scaled", scale=1.25)
    options: dict[str, Any] = {"class_labels": [1, 2], "num_inference_steps": 3, "seed": 5, "output_type": "numpy"}
    plain = Pipeline(bundle, "onnx", threads=1)(**options)
    pipe = Pipeline(bundle, "copy", threads=1)
    assert (pipe.engine, pipe.engine_reason) == ("copy", "copy: as asked")
    np.testing.assert_array_equal(pipe(**options).images, plain.images)
    scaled = Pipeline(bundle, "scaled", threads=1)
    assert np.abs(scaled(**options).latents - plain.latents).max() > 1e-3
    decoded = scaled.pool("vae_decoder").runner
    assert type(decoded) is type(pipe.pool("vae_decoder").runner)


def test_an_engines_components_are_read_from_its_folder(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.open(copied)
    add_engine(bundle, "fast", "denoiser", "vae_encoder")
    opened: list[tuple[str, tuple[str, ...]]] = []
    original = onnxruntime.OnnxRuntimeRunner

    def load(path: Path, *arguments: Any, **options: Any) -> Any:
        opened.append((str(path.relative_to(copied)), options["providers"]))
        return original(path, *arguments, **options)

    monkeypatch.setattr(onnxruntime, "OnnxRuntimeRunner", load)
    pipe = Pipeline(bundle, "auto", threads=1)
    assert pipe.engine == "fast"
    for name in ("vae_encoder", "vae_decoder"):
        pipe.pool(name)
    cpu = ("CPUExecutionProvider",)
    assert opened == [
        ("engines/fast/denoiser/model.onnx", cpu),
        ("engines/fast/vae_encoder/model.onnx", cpu),
        ("vae_decoder/model.onnx", cpu),
    ]


@pytest.mark.parametrize("file", ["denoiser/model.onnx", "denoiser/model.onnx.data"])
def test_an_altered_engine_of_the_same_size_is_not_opened(copied: Path, loaded: list[str], file: str) -> None:
    bundle = Bundle.open(copied)
    path = alter_file(add_engine(bundle, "fast").path / file)
    with pytest.raises(
        IntegrityError, match=r"was altered: its SHA-256 is .*engine\.json says .*build the engine again"
    ) as caught:
        Pipeline(bundle, "fast", threads=1)
    assert str(path) in str(caught.value) and f"`dit-deploy verify {copied}`" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert loaded == []


def test_only_what_a_component_runs_from_is_hashed(copied: Path) -> None:
    bundle = Bundle.open(copied)
    engine = add_engine(bundle, "fast", "denoiser", "vae_decoder")
    alter(engine.path / "vae_decoder")
    pipe = Pipeline(bundle, "fast", threads=1)
    with pytest.raises(IntegrityError, match="vae_decoder"):
        pipe.pool("vae_decoder")


def test_tensorrt_engines_get_their_profiles_and_the_bundles_cache(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for the runner: the real one needs a GPU."""
    bundle = Bundle.open(copied)
    engine = add_engine(bundle, "rtx", **rtx("8.9"))
    made: dict[str, Any] = {}

    class Stub:
        def __init__(self, path: Path, component: Any, **options: Any) -> None:
            self.component = component
            made.update(path=path, **options)

    monkeypatch.setattr(tensorrt, "TensorRTRunner", Stub)
    components = Components(bundle, None, {}, engine)
    assert isinstance(components.pool("denoiser").runner, Stub)
    assert made["path"] == engine.path / "denoiser.engine"
    assert (made["flavour"], made["profiles"]) == ("tensorrt-rtx", engine.record.components["denoiser"].profiles)
    assert made["cache"] == copied / "engines/.cache"


def test_an_engine_without_weights_is_filled_from_the_graph_beside_it(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(copied)
    made: dict[str, Any] = {}

    class Stub:
        def __init__(self, path: Path, component: Any, **options: Any) -> None:
            self.component = component
            made.update(options)

    monkeypatch.setattr(tensorrt, "TensorRTRunner", Stub)
    text = '<ir_version: 10, opset_import: ["": 18]> g (float[1] x) => (float[1] y) {y = Abs(x)}'
    graph = onnx.parser.parse_model(text)
    also = {"denoiser.onnx": graph.SerializeToString()}
    engine = add_engine(bundle, "stripped", **rtx("8.9"), options={"strip_weights": True}, also=also)
    Components(bundle, None, {}, engine).pool("denoiser")
    assert made["weights"] == engine.path / "denoiser.onnx"
    (engine.path / "denoiser.onnx").write_bytes(also["denoiser.onnx"].replace(b"Abs", b"Exp"))
    with pytest.raises(IntegrityError, match="altered"):
        Components(bundle, None, {}, engine).pool("denoiser")
    whole = add_engine(bundle, "whole", **rtx("8.9"))
    Components(bundle, None, {}, whole).pool("denoiser")
    assert made["weights"] is None
