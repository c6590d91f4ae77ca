"""INT8 in the form that ONNX Runtime's CPU kernels run fast: unsigned activations, one fused product a layer.

TensorRT wants symmetric S8 × S8; on a CPU without VNNI for signed bytes that form is the slow one. An activation's
integers are moved up by 128 with its zero point, which changes no value: the product is the same to the last bit of
its integers. ``MatMulIntegerToFloat`` scales it and adds the bias in the same pass.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dit_deploy.exporters.passes.linear import initializer_behind

__all__ = ["DOMAIN", "to_cpu_integer"]

DOMAIN = "com.microsoft"
_ZERO_POINT = 128


def to_cpu_integer(model: ir.Model) -> int:
    """Write each quantised linear layer of ``model`` as one ``MatMulIntegerToFloat``, in place.

    Runs after :func:`~dit_deploy.exporters.passes.int8.quantize_int8`. A product that is not of the form that pass
    writes stays as it is, and computes the same.

    Returns:
        how many layers were rewritten.
    """
    graph = model.graph
    rewritten: set[ir.Node] = set()
    count = 0
    for node in list(graph):
        if node.op_type != "MatMul" or node.domain:
            continue
        activation, weight = (_dequantized(value) for value in node.inputs)
        if activation is None or weight is None or not _is_weight(weight):
            continue
        quantize = _producer(activation.inputs[0])
        if quantize is None or quantize.op_type != "QuantizeLinear":
            continue
        if quantize not in rewritten:
            _make_unsigned(graph, quantize)
            rewritten.add(quantize)
        _fuse(graph, node, quantize, weight)
        count += 1
    for quantize in rewritten:
        for usage in list(quantize.outputs[0].uses()):
            if usage.node.op_type == "DequantizeLinear" and not usage.node.outputs[0].uses():
                graph.remove(usage.node, safe=True)
    if count:
        graph.opset_imports.setdefault(DOMAIN, 1)
    return count


def _dequantized(value: ir.Value | None) -> ir.Node | None:
    node = _producer(value)
    return node if node is not None and node.op_type == "DequantizeLinear" else None


def _producer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _is_weight(dequantize: ir.Node) -> bool:
    """Say whether the node scales an S8 initializer [in, out], one scale for each of its columns."""
    stored = dequantize.inputs[0]
    symmetric = len(dequantize.inputs) < 3 or dequantize.inputs[2] is None
    return (
        symmetric
        and stored is not None
        and stored.is_initializer()
        and stored.dtype == ir.DataType.INT8
        and dequantize.attributes.get_int("axis", 1) == 1
    )


def _make_unsigned(graph: ir.Graph, quantize: ir.Node) -> None:
    """Let ``quantize`` write U8 around 128; what still reads it as S8 values gets the same zero point."""
    name = "uint8.zero_point"
    zero = graph.initializers.get(name)
    if zero is None:
        tensor = ir.Tensor(np.array(_ZERO_POINT, np.uint8), name=name)
        zero = ir.Value(name=name, shape=ir.Shape([]), type=ir.TensorType(ir.DataType.UINT8), const_value=tensor)
        graph.register_initializer(zero)
    quantize.replace_input_with(2, zero)
    quantized = quantize.outputs[0]
    quantized.type = ir.TensorType(ir.DataType.UINT8)
    for usage in quantized.uses():
        if usage.node.op_type == "DequantizeLinear":
            usage.node.replace_input_with(2, zero)


def _fuse(graph: ir.Graph, matmul: ir.Node, quantize: ir.Node, weight: ir.Node) -> None:
    output, bias = matmul.outputs[0], None
    consumers = [usage.node for usage in output.uses()]
    if len(consumers) == 1 and consumers[0].op_type == "Add" and not output.is_graph_output():
        others = [value for value in consumers[0].inputs if value is not output]
        found = initializer_behind(others[0]) if others else None
        if found is not None and found.shape is not None and len(found.shape) == 1:
            bias, output = others[0], consumers[0].outputs[0]
    inputs = [
        quantize.outputs[0],
        weight.inputs[0],
        quantize.inputs[1],
        weight.inputs[1],
        quantize.inputs[2],
        None,
        bias,
    ]
    fused = ir.node("MatMulIntegerToFloat", inputs[: 7 if bias is not None else 5], domain=DOMAIN, name=matmul.name)
    fused.metadata_props.update(matmul.metadata_props)
    replacement = fused.outputs[0]
    replacement.shape, replacement.type = output.shape, output.type
    graph.insert_before(consumers[0] if bias is not None else matmul, fused)
    ir.convenience.replace_all_uses_with(output, replacement, replace_graph_outputs=True)
    name = output.name
    if bias is not None:
        graph.remove(consumers[0], safe=True)
    graph.remove(matmul, safe=True)
    replacement.name = name
    if not weight.outputs[0].uses():
        graph.remove(weight, safe=True)
