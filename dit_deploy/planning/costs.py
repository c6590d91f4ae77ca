"""Operations and bytes of one ONNX graph at given sizes, found from its shapes; nothing is computed.

Sizes go into the graph's inputs and into the names that its own notes of shapes hold, so that everything it computes of
them folds to constants and every shape is known.
Counted are products (matrices, convolutions, attention), which are nearly all of a transformer's work; a multiplication
with its addition is two operations. Memory is what lives at once when nodes run in the graph's order and views cost
nothing: the least that any runtime needs, to which its own workspace and rounding come.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dit_deploy.bundle import Component, shape_of
from dit_deploy.bundle.activations import NotedNode, axis_size, peak_bytes
from dit_deploy.errors import BackendError

__all__ = ["GraphCosts", "graph_costs"]

#: Constants up to this many bytes take part in folding: shapes do, weights do not.
_FOLD_BYTES = 4096
#: The name of a block in that of a weight: everything up to the first number.
_BLOCK = re.compile(r"(?:[^.]+\.)*?\d+(?=\.)")


@dataclass(frozen=True)
class GraphCosts:
    """What one run of a graph costs.

    Attributes:
        operations: of all products.
        attention: operations of attention's two products alone, which grow with the square of the tokens.
        weights: how many numbers the weights are.
        activations: bytes that live at once at most, with activations of ``bytes_each`` bytes, inputs and outputs
            included.
        bytes_each: of a floating-point activation.
        block: how many of the weights are the largest block's.
    """

    operations: float
    attention: float
    weights: int
    activations: float
    bytes_each: int
    block: int = 0


def graph_costs(
    path: Path, component: Component, sizes: Mapping[str, int], bytes_each: int = 4, window: int | None = None
) -> GraphCosts:
    """Return the costs of the graph at ``path`` for the free sizes ``sizes`` of its declaration.

    Args:
        window: keys that a query of self-attention sees at most, were the model made so; ``None``: as the graph says.

    Raises:
        BackendError: the packages that read graphs are not installed.
        InputError: a size is missing or out of the declared range.
    """
    try:
        import onnx_ir as ir
    except ImportError as error:
        raise BackendError(f"planning reads graphs ({error}); install dit-deploy[export]") from error
    model = ir.load(path)
    for value, spec in zip(model.graph.inputs, component.inputs, strict=True):
        value.shape = ir.Shape(shape_of(spec, sizes))
    _fill_in(model.graph, sizes)
    _fold(model)
    graph = model.graph
    operations = attention = 0.0
    for node in graph:
        count = _operations(node, window)
        operations += count
        if node.op_type in ("Attention", "MultiHeadAttention"):
            attention += count
    blocks: dict[str, int] = {}
    for name, value in graph.initializers.items():
        if value.shape is not None:
            found = _BLOCK.match(name)
            block = found.group() if found else ""
            blocks[block] = blocks.get(block, 0) + math.prod(int(size) for size in value.shape.numpy())
    largest = max((count for block, count in blocks.items() if block), default=sum(blocks.values()))
    peak = _peak(graph, bytes_each)
    return GraphCosts(operations, attention, sum(blocks.values()), peak, bytes_each, largest)


def _fill_in(graph: Any, sizes: Mapping[str, int]) -> None:
    """Put sizes into the shapes noted in the graph: ``2*patch_height`` becomes a number, what is unknown stays open."""
    import onnx_ir as ir

    for node in graph.all_nodes():
        for value in node.outputs:
            if value.shape is not None:
                value.shape = ir.Shape([_size(axis, sizes) for axis in value.shape])


def _size(axis: Any, sizes: Mapping[str, int]) -> int | None:
    return axis if isinstance(axis, int) else axis_size(str(axis.value), sizes)


def _fold(model: Any) -> None:
    """Infer every shape: what the graph computes of its sizes becomes constants on the way."""
    from onnxscript import optimizer

    optimizer.optimize_ir(
        model,
        num_iterations=3,
        onnx_shape_inference=True,
        input_size_limit=_FOLD_BYTES,
        output_size_limit=_FOLD_BYTES,
    )


def _shape(value: Any) -> tuple[int, ...] | None:
    if value is None or value.shape is None or not all(isinstance(size, int) for size in value.shape):
        return None
    return tuple(int(size) for size in value.shape)


def _operations(node: Any, window: int | None) -> float:
    shapes = [_shape(value) for value in node.inputs]
    made = _shape(node.outputs[0]) if node.outputs else None
    if node.op_type in ("MatMul", "Gemm", "MatMulInteger", "QLinearMatMul") and made is not None and shapes[0]:
        inner = shapes[0][-1]
        if node.op_type == "Gemm" and node.attributes.get_int("transA", 0):
            inner = shapes[0][0]
        return 2.0 * math.prod(made) * inner
    if node.op_type == "Conv" and made is not None and shapes[1]:
        return 2.0 * math.prod(made) * math.prod(shapes[1][1:])
    if node.op_type == "ConvTranspose" and shapes[0] and shapes[1]:
        return 2.0 * math.prod(shapes[0]) * math.prod(shapes[1][1:])
    if node.op_type in ("Attention", "MultiHeadAttention") and shapes[0] and shapes[1] and shapes[2]:
        return _attention(shapes[0], shapes[1], shapes[2], window)
    return 0.0


def _attention(query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...], window: int | None) -> float:
    """Return the operations of both products: query · key, and weights · value."""
    heads_apart = len(query) == 4  # [batch, heads, tokens, head], else [batch, tokens, heads · head]
    tokens, keys = query[-2], key[-2]
    if window is not None and tokens == keys:
        keys = min(keys, window)
    queries = math.prod(query[:3]) if heads_apart else math.prod(query[:2])
    return 2.0 * queries * keys * (query[-1] + value[-1])


def _peak(graph: Any, bytes_each: int) -> float:
    """Return the most bytes that values of the graph take at once."""
    known = {value.name: value for node in graph for value in (*node.inputs, *node.outputs) if value is not None}
    known |= {value.name: value for value in graph.inputs}
    nodes = [
        NotedNode(
            node.op_type,
            tuple("" if value is None else value.name for value in node.inputs),
            tuple(value.name for value in node.outputs),
        )
        for node in graph
    ]
    inputs, outputs = ([value.name for value in values] for values in (graph.inputs, graph.outputs))
    return peak_bytes(nodes, inputs, outputs, graph.initializers, lambda name: _bytes(known[name], bytes_each))


def _bytes(value: Any, bytes_each: int) -> float:
    shape = _shape(value)
    if shape is None:
        return 0.0
    floating = value.dtype is None or value.dtype.is_floating_point()
    return float(math.prod(shape) * (bytes_each if floating else value.dtype.itemsize))
