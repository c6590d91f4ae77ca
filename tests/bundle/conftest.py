"""A bundle as small as one can be: a denoiser with external data, a decoder, a scheduler config."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dit_deploy.bundle import (
    Axis,
    Bundle,
    BundleWriter,
    Component,
    Guidance,
    Latents,
    Prediction,
    SourceRecord,
    TensorSpec,
)
from dit_deploy.bundle._reader import digest_line

BATCH = Axis(name="batch")
LATENTS = (BATCH, 4, Axis(name="patch_height", multiple=2), Axis(name="patch_width", multiple=2, maximum=64))
HEIGHT, WIDTH = Axis(name="latent_height"), Axis(name="latent_width")
IMAGE = (BATCH, 3, Axis(name="latent_height", multiple=8), Axis(name="latent_width", multiple=8))

FIELDS: dict[str, Any] = {
    "family": "dit",
    "source": SourceRecord(kind="test", name="tiny", sha256="0" * 64),
    "latents": Latents(channels=4, height=8, width=8, patch_size=2, spatial_compression=8, scaling_factor=0.18215),
    "components": {
        "denoiser": Component(
            path="denoiser/model.onnx",
            inputs=(
                TensorSpec(name="latents", dtype="float32", axes=LATENTS),
                TensorSpec(name="timestep", dtype="float32", axes=(BATCH,), unit="training index"),
                TensorSpec(name="class_labels", dtype="int64", axes=(BATCH,), minimum=0, maximum=1000),
            ),
            outputs=(TensorSpec(name="prediction", dtype="float32", axes=LATENTS),),
        ),
        "vae_decoder": Component(
            path="vae_decoder/model.onnx",
            inputs=(TensorSpec(name="latents", dtype="float32", axes=(BATCH, 4, HEIGHT, WIDTH)),),
            outputs=(TensorSpec(name="images", dtype="float32", axes=IMAGE, minimum=-1, maximum=1),),
        ),
    },
    "prediction": Prediction(type="epsilon"),
    "guidance": Guidance(kind="classifier_free", unconditional={"class_labels": 1000}, channels=3, default_scale=4.0),
    "labels": {"0": "tench", "1": "goldfish"},
    "created_by": "dit-deploy tests",
}
SCHEDULER = {"_class_name": "DDIMScheduler", "num_train_timesteps": 1000}


def tiny_model(weights: int = 4) -> onnx.ModelProto:
    """A graph of one Add, whose initializer can be moved outside."""
    weight = numpy_helper.from_array(np.arange(weights, dtype=np.float32), "weight")
    shape = ["batch", weights]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "weight"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def fill(writer: BundleWriter) -> None:
    """Write the files of the tiny bundle."""
    onnx.save(
        tiny_model(),
        writer.file("denoiser/model.onnx"),
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=0,
    )
    onnx.save(tiny_model(), writer.file("vae_decoder/model.onnx"))
    writer.file("scheduler/scheduler_config.json").write_text(json.dumps(SCHEDULER))


def make(
    path: Path | str, *, overwrite: bool = False, before_finish: Callable[[], object] = lambda: None, **changes: Any
) -> Bundle:
    """Write the tiny bundle to ``path``, with ``changes`` to its manifest."""
    with BundleWriter(path, overwrite=overwrite) as writer:
        fill(writer)
        before_finish()
        return writer.finish(**{**FIELDS, **changes})


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make(tmp_path / "tiny")


def rewrite(bundle: Bundle, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest of a bundle as someone would who knows about its digest."""
    document = json.loads((bundle.path / "manifest.json").read_text())
    change(document)
    data = json.dumps(document).encode()
    (bundle.path / "manifest.json").write_bytes(data)
    (bundle.path / "manifest.json.sha256").write_bytes(digest_line(hashlib.sha256(data).hexdigest()))


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What survives a power cut cannot be tested here, and waiting for it a thousand times takes a minute."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
