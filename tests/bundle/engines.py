"""Engines of the tiny bundle, as small as the store takes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from dit_deploy.bundle import Bundle, Engine, EngineComponent, EngineWriter, Profile, SizeRange, Target, graph_digest

from .conftest import tiny_model

KEY = {"backend": "onnxruntime 1.32.0", "precision": "int8"}
PROFILE = Profile(sizes={"batch": SizeRange(minimum=1, optimum=2, maximum=8)})
FIELDS: dict[str, Any] = {
    "backend": "onnxruntime",
    "backend_version": "1.32.0",
    "precision": "int8",
    "target": Target(device="cpu", provider="CPUExecutionProvider"),
    "key_parts": KEY,
    "seconds": 1.5,
    "options": {"alpha": 0.5, "layers": ["a", None]},
    "created_by": "dit-deploy tests",
}


def build(
    bundle: Bundle,
    name: str = "fast",
    *,
    before_finish: Callable[[EngineWriter], object] = lambda _: None,
    **changes: Any,
) -> Engine:
    """Write an engine of the denoiser, one Add with external data, with ``changes`` to its record."""
    component = EngineComponent(
        path="denoiser.onnx", kind="onnx", graph=graph_digest(bundle.manifest, "denoiser"), profiles=(PROFILE,)
    )
    with EngineWriter(bundle, name) as writer:
        onnx.save(
            tiny_model(),
            writer.file("denoiser.onnx"),
            save_as_external_data=True,
            location="denoiser.onnx.data",
            size_threshold=0,
        )
        before_finish(writer)
        return writer.finish(**{**FIELDS, "components": {"denoiser": component}, **changes})


def context_model(**attributes: Any) -> bytes:
    """A graph of one EPContext node, nested in the branch of an If, as a partitioned graph may have it."""
    context = helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft", **attributes)
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    out = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    branch = helper.make_graph([context], "branch", [], [out])
    condition = helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, [])
    node = helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)
    result = helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [1])
    graph = helper.make_graph([node], "context", [condition, value], [result])
    data: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()
    return data


def rewrite_engine(engine: Engine, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what ``engine.json`` says."""
    path = engine.path / "engine.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def copy_engine(engine: Engine, bundle: Path) -> None:
    """Put a copy of an engine into another bundle, as someone does who exported again and wants to save time."""
    import shutil

    shutil.copytree(engine.path, bundle / "engines" / engine.name)
