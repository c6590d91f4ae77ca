"""A BF16 graph that a CPU without BF16 kernels can run: computed in float32, rounded to BF16 wherever a value is.

Each operator's result has the eight bits that it would have; sums inside an operator are float32's, as they are on
GPUs. It serves to measure what BF16 costs, not to run fast.
"""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["emulate_bfloat16"]

_BF16, _FLOAT = ir.DataType.BFLOAT16, ir.DataType.FLOAT


def emulate_bfloat16(model: ir.Model) -> int:
    """Let ``model``, a graph with BF16 values inside, compute the same in float32, in place.

    Returns:
        how many values are rounded.
    """
    graph = model.graph
    widened = 0
    for value in [one for one in graph.initializers.values() if one.dtype == _BF16]:
        _read_as_float(graph, value, graph[0])
    for node in list(graph):
        if node.op_type == "Cast" and node.attributes.get_int("to", 0) == _BF16:
            output = node.outputs[0]
            if any(usage.node.op_type != "Cast" for usage in output.uses()):
                _read_as_float(graph, output, None)
            widened += 1
            continue
        for output in node.outputs:
            if output.dtype != _BF16:
                continue
            users = list(output.uses())
            output.type = ir.TensorType(_FLOAT)
            rounded = _cast(output, _BF16)
            back = _cast(rounded.outputs[0], _FLOAT)
            graph.insert_after(node, [rounded, back])
            for usage in users:
                usage.node.replace_input_with(usage.idx, back.outputs[0])
            widened += 1
    return widened


def _read_as_float(graph: ir.Graph, value: ir.Value, first: ir.Node | None) -> None:
    """Let every reader of a stored or cast BF16 value read it as float32."""
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
