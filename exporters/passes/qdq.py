"""Insert explicit QuantizeLinear and DequantizeLinear around linear layers, for any 8-bit grid.

The graph says exactly what is rounded, and every backend that reads it must round the same. Activations get one scale
per tensor, weights one per output channel, all symmetric; weights are stored on the grid, so the file shrinks with
them. Biases and the products of attention stay in floating point.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir

from dit_deploy.errors import ExportError, InputError
from dit_deploy.exporters.passes.linear import Choice, Linear, choose_linears

__all__ = ["Grid", "activation_steps", "channel_scales", "constant", "insert_qdq", "round_up", "zero_point"]

#: Floating-point types that a scale may have, and the numpy type of each.
_SCALES: dict[ir.DataType, np.dtype] = {
    ir.DataType.FLOAT: np.dtype(np.float32),
    ir.DataType.FLOAT16: np.dtype(np.float16),
    ir.DataType.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
}

_LARGEST: dict[ir.DataType, float] = {
    ir.DataType.FLOAT: float(np.finfo(np.float32).max),
    ir.DataType.FLOAT16: 65504.0,
    ir.DataType.BFLOAT16: (2 - 2**-7) * 2.0**127,
}


@dataclass(frozen=True)
class Grid:
    """The numbers that an 8-bit type holds, e.g. ``Grid(INT8, 127.0, opset=13, …)``.

    Attributes:
        maximum: the largest used; the grid is symmetric, so −128 of INT8 is not.
        opset: the first whose QuantizeLinear has the type.
        store: rounds an array that is already within ±``maximum``, ties to even.
    """

    dtype: ir.DataType
    maximum: float
    opset: int
    store: Callable[[np.ndarray], np.ndarray]


def insert_qdq(
    model: ir.Model,
    grid: Grid,
    scales: Mapping[str, float],
    *,
    kept: Collection[str] = (),
    scale_dtype: ir.DataType = ir.DataType.FLOAT,
) -> Choice:
    """Quantise the linear layers that :func:`choose_linears` chooses, in place; the rest stays bit for bit.

    Layers that read one activation share its pair of nodes, with the largest of their scales. A weight keeps its name,
    ``blocks.0.to_q.weight``; beside it comes ``blocks.0.to_q.weight.scale``, float32 [out]. Weights are read here one
    at a time for their scales, and again when their bytes are written.

    Args:
        model: a float32 graph: other passes come after this one.
        scales: layer → the step of its activation's grid, for each layer that is quantised; others are not looked at.
        kept: names or glob patterns of layers that stay as they are, beside those that are never quantised.
        scale_dtype: what the graph will compute in at last. Every scale is rounded up to a number of this type before
            the weights are divided by it, so that a later cast of the graph changes no scale.

    Returns:
        the layers that were quantised, and why each other was not. Their ``weight`` is the one that was replaced.

    Raises:
        InputError: a scale is missing, not positive, or so large that ``scale_dtype`` does not hold what it stands
            for; a pattern of ``kept`` matches nothing.
        ExportError: the graph is not float32, its opset is too old for the grid, or a weight is not finite.
    """
    graph = model.graph
    if (graph.opset_imports.get("") or 0) < grid.opset:
        raise ExportError(
            f"opset {graph.opset_imports.get('')} cannot quantise to {grid.dtype.name.lower()}; "
            f"export with opset {grid.opset} or newer"
        )
    choice = choose_linears(graph, kept)
    steps = activation_steps(choice, grid, scales, scale_dtype)
    activations: dict[ir.Value, ir.Value] = {}
    weights: dict[ir.Value, ir.Value] = {}
    for linear in choice.chosen:
        activation, weight = linear.activation, linear.weight
        if activation not in activations:
            activations[activation] = _round_activation(graph, linear, steps[activation], grid)
        if weight not in weights:
            weights[weight] = _store_weight(graph, linear, grid, scale_dtype)
    for linear in choice.chosen:
        previous = linear.node.inputs[1]
        linear.node.replace_input_with(1, weights[linear.weight])
        linear.node.replace_input_with(0, activations[linear.activation])
        _drop_unused(graph, previous)
    _name_weights(graph, weights)
    return choice


def round_up(values: np.ndarray, dtype: ir.DataType) -> np.ndarray:
    """Return the smallest numbers of ``dtype`` that are not below the positive ``values``, as float32.

    Rounded to nearest, a scale could be too small for the largest value, which would then be clipped.
    """
    values = np.asarray(values, np.float64)
    with np.errstate(over="ignore"):
        rounded = np.atleast_1d(values.astype(_SCALES[dtype]))
    bits = rounded.view(f"u{rounded.itemsize}")  # of positive numbers the next one up has the next pattern of bits
    bits += rounded.astype(np.float64) < np.atleast_1d(values)
    return rounded.astype(np.float32).reshape(values.shape)


def channel_scales(weight: np.ndarray, maximum: float, dtype: ir.DataType) -> np.ndarray:
    """Return the scale of each output channel of ``weight`` [in, out] as float32 [out]; 1 for a channel of zeros."""
    largest = np.maximum(weight.max(axis=0), -weight.min(axis=0)).astype(np.float64)
    return np.where(largest > 0, round_up(largest / maximum, dtype), np.float32(1))


def activation_steps(
    choice: Choice, grid: Grid, scales: Mapping[str, float], dtype: ir.DataType
) -> dict[ir.Value, float]:
    """Return the scale of each activation that a chosen layer reads: the largest of its layers', rounded up.

    Raises :class:`InputError` and :class:`ExportError` as :func:`insert_qdq` does.
    """
    steps: dict[ir.Value, float] = {}
    for linear in choice.chosen:
        step = _step(linear, scales, grid, dtype)
        steps[linear.activation] = max(step, steps.get(linear.activation, 0.0))
    return steps


def zero_point(graph: ir.Graph, grid: Grid) -> ir.Value:
    """Return the zero of the grid, which tells QuantizeLinear its type; one initializer serves the whole graph."""
    name = f"{grid.dtype.name.lower()}.zero_point"
    if name not in graph.initializers:
        constant(graph, name, np.zeros((), grid.dtype.numpy()), grid.dtype)
    return graph.initializers[name]


def _step(linear: Linear, scales: Mapping[str, float], grid: Grid, dtype: ir.DataType) -> float:
    name = linear.name
    if linear.activation.dtype != ir.DataType.FLOAT:
        raise ExportError(f"{name} reads {linear.activation.dtype}; quantise the float32 graph, and cast it after that")
    if name not in scales:
        raise InputError(f"scales: none for {name}; calibrate the bundle, or name the layer in kept")
    scale = float(scales[name])
    if not (np.isfinite(scale) and scale > 0):
        raise InputError(f"scales: {name} has {scale}, expected a positive number; calibrate the bundle again")
    rounded = float(round_up(np.array(scale), dtype))
    if rounded * grid.maximum > _LARGEST[dtype]:
        raise InputError(
            f"scales: {name} reads values up to {scale * grid.maximum:.4g}, which {dtype.name.lower()} cannot hold; "
            "name the layer in kept, or use bf16"
        )
    return rounded


def _round_activation(graph: ir.Graph, linear: Linear, step: float, grid: Grid) -> ir.Value:
    """Insert the pair that rounds what ``linear`` reads, and return its output."""
    activation = linear.activation
    name = activation.name
    scale = constant(graph, f"{name}.scale", np.array(step, np.float32))
    zero = zero_point(graph, grid)
    quantize = ir.node("QuantizeLinear", [activation, scale, zero], name=f"{name}.quantize")
    quantized = quantize.outputs[0]
    quantized.name, quantized.shape, quantized.type = f"{name}.quantized", activation.shape, ir.TensorType(grid.dtype)
    dequantize = ir.node("DequantizeLinear", [quantized, scale, zero], name=f"{name}.dequantize")
    dequantized = dequantize.outputs[0]
    dequantized.name, dequantized.shape, dequantized.type = f"{name}.dequantized", activation.shape, activation.type
    _insert_before(graph, linear.node, quantize, dequantize)
    return dequantized


def _store_weight(graph: ir.Graph, linear: Linear, grid: Grid, scale_dtype: ir.DataType) -> ir.Value:
    """Insert the weight on the grid and the node that scales it, and return that node's output."""
    weight, name = linear.weight, linear.weight.name
    array = linear.array()
    if not np.isfinite([array.min(), array.max()]).all():
        raise ExportError(f"{name} holds NaN or infinite values; the checkpoint is damaged or did not converge")
    if max(array.max(), -array.min()) > _LARGEST[scale_dtype] / 2:  # half: a scale is rounded up
        raise ExportError(f"{name} holds values that {scale_dtype.name.lower()} cannot; name the layer in kept")
    scales = channel_scales(array, grid.maximum, scale_dtype)
    tensor = weight.const_value
    # What is chosen reads three axes or more, which a Gemm, whose weight may be [out, in], does not.
    assert tensor is not None and name is not None and not linear.transposed

    def convert() -> ir.TensorProtocol:
        scaled = tensor.numpy().astype(np.float32) / scales
        np.clip(scaled, -grid.maximum, grid.maximum, out=scaled)
        return ir.Tensor(grid.store(scaled), dtype=grid.dtype, name=name)

    stored = ir.Value(name=f"{name}.quantized", shape=weight.shape, type=ir.TensorType(grid.dtype))
    stored.const_value = ir.LazyTensor(convert, dtype=grid.dtype, shape=ir.Shape(weight.shape or ()), name=name)
    graph.initializers[f"{name}.quantized"] = stored
    scale = constant(graph, f"{name}.scale", scales)
    dequantize = ir.node("DequantizeLinear", [stored, scale], attributes={"axis": 1}, name=f"{name}.dequantize")
    output = dequantize.outputs[0]
    output.name, output.shape, output.type = f"{name}.dequantized", weight.shape, ir.TensorType(ir.DataType.FLOAT)
    _insert_before(graph, linear.node, dequantize)
    return output


def _name_weights(graph: ir.Graph, weights: Mapping[ir.Value, ir.Value]) -> None:
    """Give the stored weights their module's names, which those that they replaced have left by now.

    A weight that a kept layer reads too stays, and then so do both names.
    """
    for weight, dequantized in weights.items():
        node = dequantized.producer()
        assert node is not None and weight.name is not None
        stored = node.inputs[0]
        if weight.name in graph.initializers:
            continue
        assert stored is not None and stored.name is not None
        graph.initializers.pop(stored.name)
        stored.name = weight.name
        graph.initializers[weight.name] = stored


def _drop_unused(graph: ir.Graph, value: ir.Value | None) -> None:
    """Remove a weight that nothing reads any more, with its Cast."""
    if value is None or value.uses() or value.is_graph_output():
        return
    cast = value.producer()
    if cast is not None:
        value = cast.inputs[0]
        graph.remove(cast, safe=True)
    if value is not None and value.name is not None and value.is_initializer() and not value.uses():
        graph.initializers.pop(value.name)


def constant(graph: ir.Graph, name: str, array: np.ndarray, dtype: ir.DataType | None = None) -> ir.Value:
    """Add an initializer; ``dtype`` where numpy's own type does not say it."""
    tensor = ir.Tensor(array, dtype=dtype, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def _insert_before(graph: ir.Graph, place: ir.Node, *nodes: ir.Node) -> None:
    for node in nodes:
        node.metadata_props.update(place.metadata_props)  # the module that the node came from
        graph.insert_before(place, node)
