"""How many bytes a graph's values take at once, from the shapes noted in its file; read without the onnx package.

What an exporter notes of a value is its type and its axes in terms of the free sizes (``4*latent_height``), so the
bytes at any size follow without running anything. Field numbers: onnx/onnx.proto3 in onnx/onnx.
"""

from __future__ import annotations

import ast
import math
import mmap
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import BundleError
from ._onnx import MalformedError, fields, text_at

__all__ = ["Noted", "NotedGraph", "NotedNode", "axis_size", "peak_bytes", "read_graph"]

#: Nodes whose output is the memory of their input.
_VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
_ARITHMETIC: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}
#: ONNX element type → bytes of a value, where they are not floating-point ones; and those that are.
_BYTES = {2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 12: 4, 13: 8}
_FLOATS = frozenset({1, 10, 11, 16})


@dataclass(frozen=True)
class Noted:
    """What a graph notes of a value: ONNX's number of the element type, and its axes, expressions where they vary."""

    element: int
    axes: tuple[int | str, ...]

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...] | None:
        """Return the shape for free sizes; ``None`` where an axis is not told by them."""
        found = [axis if isinstance(axis, int) else axis_size(axis, sizes) for axis in self.axes]
        return None if None in found else tuple(size for size in found if size is not None)

    def bytes(self, sizes: Mapping[str, int], bytes_each: int) -> float:
        """Return how many bytes the value takes where a floating-point number takes ``bytes_each``."""
        shape = self.shape(sizes)
        each = bytes_each if self.element in _FLOATS else _BYTES.get(self.element, bytes_each)
        return 0.0 if shape is None else float(math.prod(shape) * each)


@dataclass(frozen=True)
class NotedNode:
    """One node: its operator, the names of its inputs (empty for one left out) and outputs, ``q_num_heads`` if any."""

    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    heads: int | None = None


@dataclass(frozen=True)
class NotedGraph:
    """The nodes in their order, names of inputs, outputs and weights, and what is noted of values by name."""

    nodes: tuple[NotedNode, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: frozenset[str]
    values: Mapping[str, Noted]


def axis_size(expression: str, sizes: Mapping[str, int]) -> int | None:
    """Return an axis noted as an expression of free sizes, such as ``2*patch_height + 1``; ``None`` for another."""
    try:
        return _evaluated(ast.parse(expression, mode="eval").body, sizes)
    except (SyntaxError, KeyError, TypeError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def peak_bytes(
    nodes: Sequence[NotedNode],
    inputs: Iterable[str],
    outputs: Iterable[str],
    weights: Iterable[str],
    size: Callable[[str], float],
    workspace: Callable[[NotedNode], float] = lambda node: 0.0,
) -> float:
    """Return the most bytes that values take at once when nodes run in their order; a view costs nothing.

    Args:
        weights: names of values that are no activations.
        size: the bytes of a value.
        workspace: what a node needs besides while it runs.
    """
    constant = set(weights) | {""}
    owner: dict[str, str] = {}

    def root(value: str) -> str:
        while value in owner:
            value = owner[value]
        return value

    for node in nodes:
        if node.op_type in _VIEWS and node.inputs and node.outputs and node.inputs[0] not in constant:
            held = root(node.inputs[0])
            if held != node.outputs[0]:  # in a circle, as in a file that is no valid graph
                owner[node.outputs[0]] = held
    last: dict[str, int] = {}
    for index, node in enumerate(nodes):
        last |= {root(value): index for value in node.inputs if value not in constant}
    last |= dict.fromkeys((root(value) for value in outputs), len(nodes))
    last |= dict.fromkeys(inputs, len(nodes))
    live = {value: size(value) for value in inputs if value not in constant}
    total = peak = sum(live.values())
    for index, node in enumerate(nodes):
        for value in node.outputs:
            if value and value not in owner and value not in live:
                live[value] = size(value)
                total += live[value]
        peak = max(peak, total + workspace(node))
        for value in (*node.inputs, *node.outputs):
            held = root(value)
            if held in live and last.get(held, index) <= index:
                total -= live.pop(held)
    return peak


def read_graph(path: Path) -> NotedGraph:
    """Read the nodes and noted shapes of the ONNX file at ``path``; weights are stepped over.

    Raises :class:`BundleError` where the file cannot be read or is no well-formed ONNX protobuf.
    """
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for number, wire, start, end in fields(data, 0, len(data)):
                if number == 7 and wire == 2:
                    return _graph(data, start, end)
    except MalformedError as error:
        raise BundleError(f"{path} is no well-formed ONNX file: {error}") from error
    except ValueError as error:  # mmap refuses an empty file
        raise BundleError(f"{path} is no ONNX file: it is empty") from error
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}") from error
    raise BundleError(f"{path} is no ONNX file: it holds no graph")


def _graph(data: mmap.mmap, start: int, end: int) -> NotedGraph:
    nodes: list[NotedNode] = []
    names: dict[int, list[str]] = {11: [], 12: []}  # inputs, outputs
    weights: set[str] = set()
    values: dict[str, Noted] = {}
    for number, wire, first, last in fields(data, start, end):
        if wire != 2:
            continue
        if number == 1:
            nodes.append(_node(data, first, last))
        elif number == 5:
            weights.add(_string(data, first, last, 8))
        elif number in (11, 12, 13):
            name = _string(data, first, last, 1)
            values[name] = _noted(data, first, last)
            if number in names:
                names[number].append(name)
    return NotedGraph(tuple(nodes), tuple(names[11]), tuple(names[12]), frozenset(weights), values)


def _node(data: mmap.mmap, start: int, end: int) -> NotedNode:
    op_type, inputs, outputs = "", [], []
    heads = None
    for number, wire, first, last in fields(data, start, end):
        if wire != 2:
            continue
        if number == 1:
            inputs.append(text_at(data, first, last))
        elif number == 2:
            outputs.append(text_at(data, first, last))
        elif number == 4:
            op_type = text_at(data, first, last)
        elif number == 5 and _string(data, first, last, 1) == "q_num_heads":
            heads = next((value for n, w, value, _ in fields(data, first, last) if n == 3 and w == 0), None)
    return NotedNode(op_type, tuple(inputs), tuple(outputs), heads)


def _noted(data: mmap.mmap, start: int, end: int) -> Noted:
    """Read a ValueInfoProto: type.tensor_type has elem_type and shape, which has a dim for each axis."""
    element, axes = 0, []
    for tensor in _inside(data, _inside(data, [(start, end)], 2), 1):
        for number, wire, first, last in fields(data, *tensor):
            if number == 1 and wire == 0:
                element = first
            elif number == 2 and wire == 2:
                axes = [_axis(data, *span) for span in _inside(data, [(first, last)], 1)]
    return Noted(element, tuple(axes))


def _axis(data: mmap.mmap, start: int, end: int) -> int | str:
    """Read a Dimension: a number, or an expression; one that says neither is an expression that nothing solves."""
    for number, wire, first, last in fields(data, start, end):
        if number == 1 and wire == 0:
            return first
        if number == 2 and wire == 2:
            return text_at(data, first, last)
    return ""


def _inside(data: mmap.mmap, spans: Iterable[tuple[int, int]], field: int) -> list[tuple[int, int]]:
    return [
        (first, last)
        for span in spans
        for number, wire, first, last in fields(data, *span)
        if number == field and wire == 2
    ]


def _string(data: mmap.mmap, start: int, end: int, field: int) -> str:
    return "".join(text_at(data, *span) for span in _inside(data, [(start, end)], field))


def _evaluated(node: ast.expr, sizes: Mapping[str, int]) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.Name):
        return sizes[node.id]
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        return _ARITHMETIC[type(node.op)](_evaluated(node.left, sizes), _evaluated(node.right, sizes))
    raise TypeError(ast.dump(node))
