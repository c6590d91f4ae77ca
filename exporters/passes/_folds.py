"""Find what can divide the channels of an activation at no cost: see :mod:`dit_deploy.exporters.passes.smoothing`.

Each pattern is recognised by its nodes. All that would change beside the activation must be read by it alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dit_deploy.exporters.passes._rescale import divide_columns, own_constant, owned, parameters
from dit_deploy.exporters.passes.linear import Linear, initializer_behind

__all__ = ["Fold", "find_fold"]


@dataclass(frozen=True)
class Fold:
    """Something that divides the channels of an activation.

    Attributes:
        into: the layer or node that takes the factors.
        divide: does it, given s [channels].
        first: to be done before other folds are measured, since it changes the weights of a layer that has its own.
    """

    into: str
    divide: Callable[[np.ndarray], None]
    first: bool = False


def find_fold(graph: ir.Graph, readers: Sequence[Linear], linears: Sequence[Linear]) -> Fold | str:
    """Return how to divide the activation that all of ``readers`` read, or why that cannot be."""
    activation = readers[0].activation
    if activation.is_graph_output() or len(activation.uses()) != len(readers):
        return f"{activation.name} is read by more than linear layers"
    for linear in readers:
        if not all(owned(value) for value in (linear.weight, linear.node.inputs[1]) if value is not None):
            return f"the weight of {linear.name} serves another node too"
    producer = activation.producer()
    if producer is None:
        return f"{activation.name} is an input of the graph"
    by_output = {linear.output: linear for linear in linears}
    for find in (_modulation, _normalisation, _attention):
        fold = find(graph, producer, readers[0].in_features, by_output)
        if fold is not None:
            return fold
    return f"the division cannot be folded into the {producer.op_type} that gives {activation.name}"


@dataclass(frozen=True)
class _Chunk:
    """Columns ``start`` … ``start + size`` of a linear layer's output, which have one reader."""

    linear: Linear
    start: int
    size: int


def _modulation(graph: ir.Graph, add: ir.Node, size: int, by_output: Mapping[ir.Value, Linear]) -> Fold | str | None:
    """Match ``x · (1 + scale) + shift``, the operands in any order, with chunks of a modulation for scale and shift."""
    for product, shift in _operands(add, "Add"):
        for factor, _ in _operands(_only(product, "Mul"), "Mul"):
            one_plus = _only(factor, "Add")
            for scale, one in _operands(one_plus, "Add"):
                constant = initializer_behind(one)
                chunks = _chunk(scale, by_output), _chunk(shift, by_output)
                if one_plus is None or constant is None or chunks[0] is None or chunks[1] is None:
                    continue
                return _modulation_fold(graph, one_plus, one, constant, (chunks[0], chunks[1]), size)
    return None


def _modulation_fold(
    graph: ir.Graph, one_plus: ir.Node, one: ir.Value, constant: ir.Value, chunks: tuple[_Chunk, _Chunk], size: int
) -> Fold | str:
    for chunk in chunks:
        if chunk.size != size:
            return f"{chunk.linear.name} modulates {chunk.size} channels of {size}"
        if not all(owned(value) for value in parameters(chunk.linear)):
            return f"the weight or bias of {chunk.linear.name} serves another node too"

    def divide(factors: np.ndarray) -> None:
        for chunk in chunks:
            columns = np.ones(chunk.linear.out_features, np.float32)
            columns[chunk.start : chunk.start + size] = factors
            divide_columns(chunk.linear, columns)
        assert constant.const_value is not None
        ones = constant.const_value.numpy().astype(np.float64) / factors
        index = next(index for index, value in enumerate(one_plus.inputs) if value is one)
        name = f"{chunks[0].linear.name}.{chunks[0].start // size}.one"
        own_constant(graph, one_plus, index, name, ones.astype(np.float32))

    return Fold(chunks[0].linear.name, divide)


def _chunk(value: ir.Value, by_output: Mapping[ir.Value, Linear]) -> _Chunk | None:
    """Follow ``value`` up through Unsqueeze and Split to the linear layer that it is a part of."""
    current = value
    while owned(current):
        if current in by_output:
            return _Chunk(by_output[current], 0, by_output[current].out_features)
        node = current.producer()
        source = node.inputs[0] if node is not None and node.inputs else None
        if node is None or source is None or source.shape is None or current.shape is None:
            return None
        if node.op_type == "Split":
            whole, axis = by_output.get(source), node.attributes.get_int("axis", 0)
            sizes = [output.shape[-1] if output.shape is not None else None for output in node.outputs]
            if whole is None or not owned(source) or axis not in (-1, len(source.shape) - 1):
                return None
            index = next(index for index, output in enumerate(node.outputs) if output is current)
            fixed = [one for one in sizes if isinstance(one, int)]
            return _Chunk(whole, sum(fixed[:index]), fixed[index]) if len(fixed) == len(sizes) else None
        # An axis put in elsewhere than at the end leaves the channels last; beside a size of 1 that can't be told.
        if node.op_type != "Unsqueeze" or source.shape[-1] != current.shape[-1] or source.shape[-1] == 1:
            return None
        current = source
    return None


def _normalisation(graph: ir.Graph, node: ir.Node, size: int, _: Mapping[ir.Value, Linear]) -> Fold | str | None:
    """Match a normalisation, whose weight and bias get copies of their own: a weight of ones serves many."""
    if node.op_type not in ("LayerNormalization", "RMSNormalization"):
        return None
    arrays: dict[int, ir.TensorProtocol] = {}
    for index, value in enumerate(node.inputs[1:], 1):
        constant = initializer_behind(value)
        if value is None:
            continue
        if constant is None or constant.const_value is None or list(constant.shape or ()) != [size]:
            return f"{node.name} has no weight of {size} channels"
        arrays[index] = constant.const_value

    def divide(factors: np.ndarray) -> None:
        for index, tensor in arrays.items():
            array = (tensor.numpy().astype(np.float64) / factors).astype(np.float32)
            own_constant(graph, node, index, f"{node.outputs[0].name}.{'weight' if index == 1 else 'bias'}", array)

    return Fold(str(node.name), divide)


def _attention(
    graph: ir.Graph, producer: ir.Node, size: int, by_output: Mapping[ir.Value, Linear]
) -> Fold | str | None:
    """Match softmax · V, channel for channel that of ``to_v``: both have heads outside and a head's channels inside."""
    attended, heads = _merged_heads(producer)
    node = attended.producer() if attended is not None else None
    if node is None:
        return None
    if node.op_type in ("Attention", "MultiHeadAttention"):
        first = 4 if node.op_type == "Attention" else 3  # behind a mask, or biases of query, key and value
        grouped = node.attributes.get_int("q_num_heads", 0) != node.attributes.get_int("kv_num_heads", 0)
        more = any(value is not None for value in node.inputs[first:])
        if grouped or more or any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
            return f"{node.name} has grouped heads, biases, or past or present values"
        value = node.inputs[2]
    elif node.op_type == "MatMul" and _is_softmax(node.inputs[0]):
        value = node.inputs[1]
    else:
        return None
    projected, value_heads = _split_heads(value) if value is not None else (None, None)
    linear = by_output.get(projected) if projected is not None else None
    if linear is None or projected is None or not owned(projected):
        return "the values of attention are not the output of one linear layer, for attention alone"
    if value_heads != heads or linear.out_features != size:
        return f"{linear.name} has heads of another number or size than the attended values"
    if not all(owned(one) for one in parameters(linear)):
        return f"the weight or bias of {linear.name} serves another node too"
    return Fold(linear.name, lambda factors: divide_columns(linear, factors), first=True)


def _merged_heads(node: ir.Node) -> tuple[ir.Value | None, tuple[int, int] | None]:
    """Return attention's output, and (heads, width) where ``node`` merges the heads of it."""
    if node.op_type != "Reshape":
        return node.outputs[0], None
    transpose = _swaps_tokens_and_heads(node.inputs[0])
    heads = _heads(transpose.outputs[0]) if transpose is not None else None
    merged = node.outputs[0].shape
    if transpose is None or heads is None or merged is None or len(merged) != 3 or merged[2] != heads[0] * heads[1]:
        return None, None
    attended = transpose.inputs[0]
    return (attended, heads) if attended is not None and owned(attended) else (None, None)


def _split_heads(value: ir.Value) -> tuple[ir.Value | None, tuple[int, int] | None]:
    """Return what is split into ``value`` [batch, heads, tokens, width], and (heads, width); itself with three axes."""
    if value.shape is not None and len(value.shape) == 3:
        return value, None
    transpose = _swaps_tokens_and_heads(value)
    reshape = _only(transpose.inputs[0], "Reshape") if transpose is not None else None
    heads = _heads(reshape.outputs[0]) if reshape is not None else None
    source = reshape.inputs[0] if reshape is not None else None
    if heads is None or source is None or source.shape is None or len(source.shape) != 3:
        return None, None
    return (source, heads) if source.shape[2] == heads[0] * heads[1] else (None, None)


def _swaps_tokens_and_heads(value: ir.Value | None) -> ir.Node | None:
    node = _only(value, "Transpose")
    return node if node is not None and tuple(node.attributes.get_ints("perm", ())) == (0, 2, 1, 3) else None


def _heads(value: ir.Value) -> tuple[int, int] | None:
    """Return (heads, width) of [batch, tokens, heads, width]."""
    if value.shape is None or len(value.shape) != 4:
        return None
    heads, width = value.shape[2], value.shape[3]
    return (heads, width) if isinstance(heads, int) and isinstance(width, int) else None


def _is_softmax(value: ir.Value | None) -> bool:
    node = value.producer() if value is not None else None
    while node is not None and node.op_type == "Cast" and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and node.op_type == "Softmax"


def _only(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """Return the ``op_type`` that gives ``value`` to a single reader."""
    node = value.producer() if value is not None and owned(value) else None
    return node if node is not None and node.op_type == op_type else None


def _operands(node: ir.Node | None, op_type: str) -> list[tuple[ir.Value, ir.Value]]:
    """Return the two inputs of an Add or Mul in either order; nothing for another node."""
    if node is None or node.op_type != op_type:
        return []
    left, right = node.inputs
    return [(left, right), (right, left)] if left is not None and right is not None else []
