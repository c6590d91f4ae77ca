"""A half-precision graph as a CPU can compute it: in float32, rounded to FP16 or BF16 wherever a value is.

Each operator's result has the bits that it would have; sums inside an operator are float32's, as they are on GPUs. ONNX
Runtime's CPU provider has no BF16 kernels, and runs FP16 graphs in float32 from operator to operator, unrounded: what
it shows of them is too good. This serves to measure what a precision costs, not to run fast.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

__all__ = ["emulate_half"]

_FLOAT = ir.DataType.FLOAT


def emulate_half(model: ir.Model, dtype: ir.DataType) -> int:
    """Let ``model``, a graph with values of ``dtype`` inside (FLOAT16 or BFLOAT16), compute in float32, in place.

    Returns:
        how many values are rounded.
    """
    graph = model.graph
    widened = 0
    for value in [one for one in graph.initializers.values() if one.dtype == dtype]:
        if all(usage.node.op_type in ("QuantizeLinear", "DequantizeLinear") for usage in value.uses()):
            _widen(value)  # a scale: ONNX Runtime's rewriting of Q/DQ wants it constant
        else:
            _read_as_float(graph, value, graph[0])
    for node in list(graph):
        if node.op_type == "Cast" and node.attributes.get_int("to", 0) == dtype:
            output = node.outputs[0]
            if any(usage.node.op_type != "Cast" for usage in output.uses()):
                _read_as_float(graph, output, None)
            widened += 1
            continue
        for output in node.outputs:
            if output.dtype != dtype:
                continue
            users = list(output.uses())
            output.type = ir.TensorType(_FLOAT)
            if node.op_type == "DequantizeLinear":
                continue  # backends multiply the integers: no value of half precision lies between
            rounded = _cast(output, dtype)
            back = _cast(rounded.outputs[0], _FLOAT)
            graph.insert_after(node, [rounded, back])
            for usage in users:
                usage.node.replace_input_with(usage.idx, back.outputs[0])
            widened += 1
    return widened


def _widen(value: ir.Value) -> None:
    assert value.const_value is not None
    array = value.const_value.numpy().astype(np.float32)
    value.const_value = ir.Tensor(array, name=value.name)
    value.type = ir.TensorType(_FLOAT)


def _read_as_float(graph: ir.Graph, value: ir.Value, first: ir.Node | None) -> None:
    """Let every reader of a stored or cast half-precision value read it as float32."""
    users = list(value.uses())
    back = _cast(value, _FLOAT)
    if first is not None:
        graph.insert_before(first, back)
    else:
        producer = value.producer()
        assert producer is not None
        graph.insert_after(producer, back)
    for usage in users:
        if usage.node is not back:
            usage.node.replace_input_with(usage.idx, back.outputs[0])


def _cast(value: ir.Value, dtype: ir.DataType) -> ir.Node:
    node = ir.node("Cast", [value], attributes={"to": int(dtype)}, name=f"{value.name}.{dtype.name.lower()}")
    node.outputs[0].name = f"{value.name}.as_{dtype.name.lower()}"
    node.outputs[0].shape, node.outputs[0].type = value.shape, ir.TensorType(dtype)
    return node
