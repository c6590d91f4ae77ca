"""Multiply the weights of a graph by vectors, one weight at a time when its bytes are written."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dit_deploy.exporters.passes.linear import Linear

__all__ = ["divide_columns", "multiply_rows", "own_constant", "owned", "parameters"]


def multiply_rows(linear: Linear, factors: np.ndarray) -> None:
    """Multiply row j of the weight [in, out] by ``factors[j]``."""
    _scale(linear.weight, factors[None, :] if linear.transposed else factors[:, None])


def divide_columns(linear: Linear, divisors: np.ndarray) -> None:
    """Divide channel j of the layer's output by ``divisors[j]``: column j of the weight [in, out], and the bias."""
    inverse = 1.0 / divisors.astype(np.float64)
    _scale(linear.weight, inverse[:, None] if linear.transposed else inverse[None, :])
    if linear.bias is not None:
        _scale(linear.bias, inverse)


def own_constant(graph: ir.Graph, node: ir.Node, index: int, name: str, array: np.ndarray) -> None:
    """Give ``node`` a constant of its own as input ``index``; the one that it had may serve others."""
    unique, number = name, 2
    while unique in graph.initializers:
        unique, number = f"{name}.{number}", number + 1
    tensor = ir.Tensor(array, name=unique)
    value = ir.Value(name=unique, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    previous = node.inputs[index]
    node.replace_input_with(index, value)
    cast = previous.producer() if previous is not None else None
    if cast is not None and not cast.outputs[0].uses():
        previous = cast.inputs[0]
        graph.remove(cast, safe=True)
    if previous is not None and previous.name is not None and previous.is_initializer() and not previous.uses():
        graph.initializers.pop(previous.name)


def parameters(linear: Linear) -> list[ir.Value]:
    """Return the layer's initializers, and the Casts in front of them where it reads them through one."""
    values = [linear.weight, linear.node.inputs[1]]
    if linear.bias is not None:
        reader = linear.bias_node or linear.node
        values += [linear.bias, *(value for value in reader.inputs if value is not None and _comes_from(value, linear))]
    return [value for value in dict.fromkeys(values) if value is not None]


def owned(value: ir.Value) -> bool:
    """Whether ``value`` has one reader, so that nothing else changes with it."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def _comes_from(value: ir.Value, linear: Linear) -> bool:
    cast = value.producer()
    return cast is not None and cast.op_type == "Cast" and cast.inputs[0] is linear.bias


def _scale(value: ir.Value, factors: np.ndarray) -> None:
    """Multiply an initializer; one stored in 16 bits becomes float32 without its Cast, so that it is rounded once."""
    tensor, name = value.const_value, value.name
    assert tensor is not None

    def convert() -> ir.TensorProtocol:
        return ir.Tensor((tensor.numpy().astype(np.float32) * factors).astype(np.float32), name=name)

    if value.dtype != ir.DataType.FLOAT:
        (cast,) = (usage.node for usage in value.uses())
        cast.outputs[0].replace_all_uses_with(value)
        assert cast.graph is not None
        cast.graph.remove(cast, safe=True)
        value.type = ir.TensorType(ir.DataType.FLOAT)
    value.const_value = ir.LazyTensor(convert, dtype=ir.DataType.FLOAT, shape=ir.Shape(tensor.shape.numpy()), name=name)
