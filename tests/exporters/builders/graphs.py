"""Small ONNX graphs for TensorRT: what it takes, and what it refuses. Each is paired with its declaration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dit_deploy.bundle import Axis, Component, TensorSpec

__all__ = ["AXES", "attention", "linear", "one_node", "quantized", "stored_in_half"]

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
AXES = {"batch": (1, 2, 4), "tokens": (8, 8, 16)}


def write(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    shape: tuple[str | int, ...],
    weights: Sequence[onnx.TensorProto] = (),
    output_shape: tuple[str | int, ...] | None = None,
) -> Component:
    """Write a graph from float32 ``x`` to float32 ``y``, its weights beside it, and return its declaration."""
    out = shape if output_shape is None else output_shape
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info("y", FLOAT, out)],
        list(weights),
    )
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=64)
    return Component(path=path.name, inputs=(declared("x", shape),), outputs=(declared("y", out),))


def declared(name: str, shape: tuple[str | int, ...]) -> TensorSpec:
    axes = tuple(Axis(name=size) if isinstance(size, str) else size for size in shape)
    return TensorSpec(name=name, dtype="float32", axes=axes)


def weight(name: str, *shape: int, dtype: type = np.float32) -> onnx.TensorProto:
    # Each of its own values: equal weights are stored once.
    values = np.random.default_rng(list(name.encode())).standard_normal(shape) / 8
    return numpy_helper.from_array(values.astype(dtype), f"blocks.3.{name}.weight")


def scoped(node: onnx.NodeProto, *scopes: str) -> onnx.NodeProto:
    """Note the modules that a node came from, as the exporter does."""
    entry = node.metadata_props.add()
    entry.key, entry.value = "pkg.torch.onnx.name_scopes", str(["", *scopes])
    return node


def linear(path: Path, dtype: int = HALF, *, forgotten: bool = False) -> Component:
    """Two linear layers in ``dtype``; the second stays in float32 where it is ``forgotten``."""
    second = FLOAT if forgotten else dtype
    arrays = {FLOAT: np.float32, HALF: np.float16}
    nodes = [
        helper.make_node("Cast", ["x"], ["x.cast"], to=dtype),
        scoped(helper.make_node("MatMul", ["x.cast", "blocks.3.to_q.weight"], ["q"], name="node_first"), "a", "b"),
        helper.make_node("Cast", ["q"], ["q.cast"], to=second),
        helper.make_node("MatMul", ["q.cast", "blocks.3.to_out.weight"], ["o"], name="node_second"),
        helper.make_node("Cast", ["o"], ["y"], to=FLOAT),
    ]
    weights = [weight("to_q", 64, 64, dtype=arrays[dtype]), weight("to_out", 64, 64, dtype=arrays[second])]
    return write(path, nodes, ("batch", 64), weights)


def stored_in_half(path: Path) -> Component:
    """A linear layer that computes in float32 with a weight of 128 × 128 stored in float16."""
    nodes = [
        helper.make_node("Cast", ["blocks.3.to_q.weight"], ["w"], to=FLOAT),
        helper.make_node("MatMul", ["x", "w"], ["y"], name="node_first"),
    ]
    return write(path, nodes, ("batch", 128), [weight("to_q", 128, 128, dtype=np.float16)])


def one_node(path: Path, operator: str, **attributes: object) -> Component:
    """One operator on matrices of 8 × 8."""
    node = helper.make_node(operator, ["x"], ["y"], name="node_odd", **attributes)
    scoped(node, "blocks.3", "blocks.3.attn", "odd")
    return write(path, [node], ("batch", 8, 8), output_shape=("batch",))


def attention(path: Path, dtype: int = HALF, head_dim: int = 32, *, direct: bool = False) -> Component:
    """Self-attention of two heads. ``direct``: q, k and v are the input itself."""
    array = {FLOAT: np.float32, HALF: np.float16}[dtype]
    width = 2 * head_dim
    nodes, weights, inputs = [helper.make_node("Cast", ["x"], ["x.cast"], to=dtype)], [], []
    for name in ("to_q", "to_k", "to_v"):
        weights.append(weight(name, width, width, dtype=array))
        nodes.append(helper.make_node("MatMul", ["x.cast", f"blocks.3.{name}.weight"], [name], name=f"node_{name}"))
        inputs.append("x.cast" if direct else name)
    node = helper.make_node("Attention", inputs, ["o"], name="node_attention", q_num_heads=2, kv_num_heads=2)
    nodes.append(scoped(node, "blocks.3", "scaled_dot_product_attention"))
    nodes.append(helper.make_node("Cast", ["o"], ["y"], to=FLOAT))
    if direct:
        nodes, weights = [nodes[0], *nodes[4:]], []
    return write(path, nodes, ("batch", "tokens", width), weights)


def quantized(path: Path, zero_point: int = 0) -> Component:
    """Two linear layers in float16, the first of them quantised to int8."""
    whole = numpy_helper.from_array(np.full((64, 64), 3, np.int8), "blocks.3.to_q.weight")
    scale = numpy_helper.from_array(np.float16(0.125).reshape(()), "scale")
    zero = numpy_helper.from_array(np.int8(zero_point).reshape(()), "zero")
    nodes = [
        helper.make_node("Cast", ["x"], ["x.cast"], to=HALF),
        helper.make_node("QuantizeLinear", ["x.cast", "scale", "zero"], ["x.int8"], name="node_quantize"),
        helper.make_node("DequantizeLinear", ["x.int8", "scale", "zero"], ["x.half"], name="node_dequantize"),
        helper.make_node("DequantizeLinear", ["blocks.3.to_q.weight", "scale"], ["w.half"], name="node_weight"),
        helper.make_node("MatMul", ["x.half", "w.half"], ["q"], name="node_first"),
        helper.make_node("MatMul", ["q", "blocks.3.to_out.weight"], ["o"], name="node_second"),
        helper.make_node("Cast", ["o"], ["y"], to=FLOAT),
    ]
    return write(path, nodes, ("batch", 64), [whole, weight("to_out", 64, 64, dtype=np.float16), scale, zero])
