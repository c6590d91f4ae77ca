"""A float32 graph → one that computes in FP16 or BF16, every type of it explicit.

TensorRT builds strongly typed networks only, so precision is what the graph says: each floating-point tensor is of
one type, each operator reads one type, and a Cast stands wherever the two differ, never two in a row. What stays in
float32 is decided in :mod:`~dit_deploy.exporters.passes.islands`.

The residual stream is half precision by rule, as is everything between linear layers: it is most of the memory
traffic, and a Cast at each of its additions would double it. Where a network's stream grows beyond FP16, the ranges
measured on real trajectories say so, and then it is float32 from there on, additions and all. What runs once a
picture, a text encoder, need not save that traffic: with ``products_only`` each product is rounded, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import ml_dtypes
import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from dit_deploy.errors import ExportError, InputError
from dit_deploy.exporters.passes._operators import FLOATS, any_type, floats, takes
from dit_deploy.exporters.passes.graph_file import check_types, infer_types, release
from dit_deploy.exporters.passes.islands import Island, find_islands

__all__ = ["to_half"]

_FLOAT = ir.DataType.FLOAT
_NUMPY: dict[ir.DataType, np.dtype] = {
    ir.DataType.FLOAT: np.dtype(np.float32),
    ir.DataType.FLOAT16: np.dtype(np.float16),
    ir.DataType.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
}


def to_half(
    model: ir.Model,
    dtype: ir.DataType,
    *,
    islands: Collection[str] = (),
    ranges: Mapping[str, float] | None = None,
    norm_casts: bool = True,
    sigmoid_casts: bool = False,
    products_only: bool = False,
) -> list[Island]:
    """Let ``model`` compute in ``dtype``, in place; its inputs and outputs keep their types.

    Runs after quantisation: a QuantizeLinear then reads, and a DequantizeLinear gives, the half type, and 8-bit
    weights stay as they are. Runs after :func:`~dit_deploy.exporters.passes.attention.lower_attention`. Values keep
    their names; a weight needed in both types keeps its name in float32. Weights are converted one at a time, when they
    are written; weights stored in 16 bits are used as they are, without the Cast that a plain graph has after them.

    Args:
        dtype: FLOAT16 or BFLOAT16.
        islands: nodes and modules that stay in float32 beside those that the rules find, by name or glob pattern.
        ranges: largest magnitude of each value, measured on the float32 graph. For FP16 only; BF16 has float32's range.
        norm_casts: put normalisations between casts, so that their statistics are float32 whatever the backend does.
            TensorRT 11 does not say in what it computes them. ONNX Runtime's kernels keep to the operators' definition,
            which has float32 statistics for most: ``False`` saves it casts that it does not fuse.
        sigmoid_casts: put Sigmoid, and SiLU, between casts. ONNX Runtime's CUDA kernels compute σ(x) of a negative x
            as 1 − σ(−x) in the tensor's own type, so that in BF16 nothing is left of a σ below 0.002.
        products_only: keep all arithmetic element by element in float32, so that only products of matrices,
            convolutions and attention are half precision, as under PyTorch's autocast. Roundings of the residual
            stream and within an activation's formula otherwise make up half of the error.

    Returns:
        what stays in float32, node by node, and why.

    Raises:
        InputError: another type, or a pattern that matches nothing.
        ExportError: the graph has branches or loops, or its types do not fit.
    """
    if dtype not in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
        raise InputError(f"dtype: {dtype} came, expected FLOAT16 or BFLOAT16")
    graph = model.graph
    for node in graph:
        if any(
            attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
            for attribute in node.attributes.values()
        ):
            raise ExportError(f"{node.name}: {node.op_type} holds a graph of its own; export without control flow")
    infer_types(model)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    _drop_casts(graph)
    reasons = find_islands(
        graph, dtype, islands, ranges, norm_casts=norm_casts, sigmoid_casts=sigmoid_casts, products_only=products_only
    )
    _Typing(graph, dtype, reasons).apply()
    check_types(model)
    return [Island(node.name or node.op_type, why) for node, why in reasons.items()]


def _drop_casts(graph: ir.Graph) -> None:
    """Remove conversions between floating-point types, such as those after 16-bit weights: types are decided anew."""
    for node in list(graph):
        source, output = (node.inputs[0] if node.inputs else None), node.outputs[0]
        if node.op_type != "Cast" or node.domain or source is None or source.dtype not in FLOATS:
            continue
        if output.dtype not in FLOATS or output.is_graph_output():
            continue
        output.replace_all_uses_with(source)
        graph.remove(node, safe=True)


class _Typing:
    """Gives every value of a graph its type, in one walk along it."""

    def __init__(self, graph: ir.Graph, dtype: ir.DataType, islands: Collection[ir.Node]) -> None:
        self.graph, self.dtype, self.islands = graph, dtype, islands
        self.cast: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def apply(self) -> None:
        declared = [(index, output, output.dtype) for index, output in enumerate(self.graph.outputs)]
        for node in list(self.graph):
            kind = _FLOAT if node in self.islands else self.dtype
            for index, value in enumerate(node.inputs):
                if value is None or value.dtype not in FLOATS or any_type(node):
                    continue
                wanted = kind if takes(node, index, kind) else _FLOAT
                node.replace_input_with(index, self.of_type(value, wanted))
            _set_outputs(node, kind)
        for index, output, given in declared:
            if given is not None and given in FLOATS and output.dtype != given:
                name = output.name
                output.name = f"{name}.{_suffix(output.dtype)}"
                result = self.of_type(output, given)
                result.name = name
                self.graph.outputs[index] = result
        self._name_constants()

    def of_type(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Return ``value`` in ``dtype``: itself, a converted constant, or the output of a Cast, made once."""
        if value.dtype == dtype:
            return value
        if (value, dtype) not in self.cast:
            constant = value.is_initializer() and not value.is_graph_input()
            self.cast[value, dtype] = self._constant(value, dtype) if constant else self._cast(value, dtype)
        return self.cast[value, dtype]

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        name = f"{value.name}.{_suffix(dtype)}"
        node = ir.node("Cast", [value], {"to": int(dtype)}, name=f"{name}.cast")
        output = node.outputs[0]
        output.name, output.shape, output.type = name, value.shape, ir.TensorType(dtype)
        producer = value.producer()
        if producer is None:
            self.graph.insert_before(self.graph[0], node)
        else:
            node.metadata_props.update(producer.metadata_props)
            self.graph.insert_after(producer, node)
        return output

    def _constant(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        tensor = value.const_value
        assert tensor is not None
        name = f"{value.name}.{_suffix(dtype)}"
        shape = ir.Shape(tensor.shape.numpy())
        new = ir.Value(name=name, shape=shape, type=ir.TensorType(dtype))
        new.const_value = ir.LazyTensor(_converted(tensor, dtype, name), dtype=dtype, shape=shape, name=name)
        self.graph.initializers[name] = new
        return new

    def _name_constants(self) -> None:
        """Give converted constants the names of those that nothing reads any more."""
        for (old, _), new in self.cast.items():
            if not (old.is_initializer() and new.is_initializer()) or old.uses() or old.is_graph_output():
                continue
            assert old.name is not None and new.name is not None
            if self.graph.initializers.get(old.name) is not old:
                continue
            self.graph.initializers.pop(old.name)
            self.graph.initializers.pop(new.name)
            new.name = old.name
            self.graph.initializers[new.name] = new


def _converted(tensor: ir.TensorProtocol, dtype: ir.DataType, name: str) -> Callable[[], ir.TensorProtocol]:
    def convert() -> ir.TensorProtocol:
        array = tensor.numpy().astype(_NUMPY[dtype])
        release(tensor)
        return ir.Tensor(array, dtype=dtype, name=name)

    return convert


def _set_outputs(node: ir.Node, dtype: ir.DataType) -> None:
    """Set the types of a node's floating-point outputs, and the attributes that say them."""
    for index, value in enumerate(node.outputs):
        if value.dtype not in FLOATS:
            continue
        if node.op_type == "LayerNormalization" and index:
            continue  # mean and deviation, in the type of the statistics
        value.type = ir.TensorType(dtype)
        if node.op_type == "Cast":
            node.attributes["to"] = ir.AttrInt64("to", int(dtype))
        for name in ("dtype", "output_dtype"):  # of random numbers, DequantizeLinear
            if node.attributes.get_int(name, 0) in {int(one) for one in FLOATS}:
                node.attributes[name] = ir.AttrInt64(name, int(dtype))
        if node.op_type == "ConstantOfShape" and not floats(node):
            filled = node.attributes.get_tensor("value", None)
            array = np.zeros(1, np.float32) if filled is None else filled.numpy()
            node.attributes["value"] = ir.AttrTensor("value", ir.Tensor(array.astype(_NUMPY[dtype]), dtype=dtype))


def _suffix(dtype: ir.DataType | None) -> str:
    return {ir.DataType.FLOAT: "float32", ir.DataType.FLOAT16: "float16"}.get(dtype or _FLOAT, "bfloat16")
