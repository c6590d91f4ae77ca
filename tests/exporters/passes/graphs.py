"""Graphs for the tests of the passes, written by hand in ONNX's text form or taken from a bundle."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

__all__ = ["denoiser", "feeds", "parse", "run", "session"]


def parse(text: str, weights: Mapping[str, np.ndarray]) -> ir.Model:
    """Return the model of ``text``, a graph in ONNX's text form without its initializers, and ``weights``.

    The shapes of its values are inferred, as the exporter writes them into a bundle's graphs. Names may
    have dots in them.
    """
    text = re.sub(r"(?<=[a-z0-9_])\.(?=[a-z0-9_]*[a-z_])", "__", text)  # ONNX's text form allows no dot in a name
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 23]>\n{text}')
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [name.replace("__", ".") for name in names]
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    return ir.from_proto(onnx.shape_inference.infer_shapes(model, strict_mode=True))


def denoiser(bundle: Path) -> ir.Model:
    """Return the denoiser of a bundle, its weights mapped."""
    return ir.load(bundle / "denoiser" / "model.onnx")


def session(model: ir.Model, *, optimized: bool = False) -> ort.InferenceSession:
    """Open ``model`` in ONNX Runtime as it stands, or with ONNX Runtime's own rewriting."""
    options = ort.SessionOptions()
    options.graph_optimization_level = (
        ort.GraphOptimizationLevel.ORT_ENABLE_ALL if optimized else ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    )
    proto = ir.to_proto(model)
    for tensor in proto.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            weight = model.graph.initializers[tensor.name].const_value
            assert weight is not None
            tensor.CopyFrom(onnx.numpy_helper.from_array(weight.numpy(), tensor.name))
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model: ir.Model, inputs: Mapping[str, np.ndarray], *also: str) -> list[np.ndarray]:
    """Return the outputs of ``model`` on ``inputs``, and then the values named in ``also``."""
    model = model.clone()
    values = {value.name: value for node in model.graph for value in node.outputs}
    model.graph.outputs.extend(values[name] for name in also)
    return session(model).run(None, dict(inputs))


def feeds(seed: int = 0, batch: int = 2, height: int = 16, width: int = 24) -> dict[str, np.ndarray]:
    """Return inputs of the tiny bundle's denoiser."""
    generator = np.random.default_rng(seed)
    return {
        "latents": generator.standard_normal((batch, 6, height, width), np.float32),
        "timestep": generator.uniform(0, 999, batch).astype(np.float32),
        "class_labels": generator.integers(0, 17, batch),
    }
