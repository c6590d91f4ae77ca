"""Which nodes of a half-precision graph compute in float32, and why: islands.

An island is a node that half precision would harm: its numbers leave FP16's range, need more than 11 or 8 bits, or
the operator has no such form. The rules look at operators and at what is known of the values, not at names, so
that they hold for a network that they have never seen.
"""

from __future__ import annotations

import ast
import fnmatch
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from dit_deploy.errors import InputError
from dit_deploy.exporters.passes._fp16_range import large_values, unfit_constants
from dit_deploy.exporters.passes._operators import (
    ELEMENTWISE,
    FLOATS,
    LAYOUT,
    any_type,
    computes,
    floats,
    gives,
    has_attribute,
    takes,
    varying,
)

__all__ = ["Island", "find_islands"]

_NORMS = {
    "GroupNormalization", "InstanceNormalization", "LayerNormalization", "LpNormalization",
    "MeanVarianceNormalization", "RMSNormalization",
}  # fmt: skip
_SUMS = {
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean", "ReduceProd", "ReduceSum",
    "ReduceSumSquare",
}  # fmt: skip

#: TensorRT-RTX 1.7's parser refuses the first three; Resize it takes, but versions of TensorRT did not.
_NOT_IN_BF16 = {"ConvTranspose", "HardSwish", "Mish", "Resize"}

_ANGLES = "angles of sine and cosine"
_INPUT, _OUTPUT = "arithmetic on an input of the graph", "arithmetic on an output of the graph"

_SCOPES = "pkg.torch.onnx.name_scopes"


@dataclass(frozen=True)
class Island:
    """A node that computes in float32 although the graph is half precision: its name, and why."""

    node: str
    why: str


def find_islands(
    graph: ir.Graph,
    dtype: ir.DataType,
    patterns: Collection[str] = (),
    ranges: Mapping[str, float] | None = None,
    *,
    norm_casts: bool = True,
    sigmoid_casts: bool = False,
    products_only: bool = False,
) -> dict[ir.Node, str]:
    """Return the nodes that are to compute in float32 where the rest does in ``dtype``, each with the reason.

    - what ``patterns`` name: a node, a module, or glob patterns of them (``"blocks.0.*"``);
    - operators without such a form, or without one in TensorRT;
    - angles: what sine and cosine are taken of, and what is computed from integers alone, positions say: neither
      2,049 nor the angle of a timestep of 999 is an FP16 number;
    - Softmax, sums and means with the powers and roots about them, and normalisations: the square of 256 is beyond
      FP16. Without ``norm_casts`` those stay half whose operator is defined to have its statistics in float32
      (``stash_type``: LayerNormalization, RMSNormalization, GroupNormalization of opset 21);
    - with ``sigmoid_casts``, Sigmoid and what multiplies it by its own argument (SiLU);
    - with ``products_only``, all arithmetic element by element: the residual stream, activations, modulations;
    - FP16 only: constants that leave its range or vanish in it, and values that ``ranges`` (value name → largest
      magnitude) says come near its end, with the nodes that make and read them;
    - arithmetic on the graph's own inputs and on its outputs, where it costs nothing: they are float32 anyway;
    - cheap nodes between two islands.

    Raises :class:`InputError` for a pattern that matches nothing.
    """
    found = _Finder(graph, dtype)
    found.named(patterns)
    found.without_form()
    found.norms(norm_casts)
    if sigmoid_casts:
        found.sigmoids()
    if products_only:
        found.arithmetic()
    found.sums()
    found.integers()
    found.angles()
    if dtype == ir.DataType.FLOAT16:
        for node, why in (*unfit_constants(graph, found.reasons), *large_values(graph, ranges or {})):
            found.add(node, why)
    found.edges()
    found.between()
    found.casts()
    return found.reasons


class _Finder:
    def __init__(self, graph: ir.Graph, dtype: ir.DataType) -> None:
        self.graph, self.dtype = graph, dtype
        self.name = dtype.name.lower()
        self.reasons: dict[ir.Node, str] = {}

    def add(self, node: ir.Node, why: str) -> None:
        self.reasons.setdefault(node, why)

    def whole(self, value: ir.Value) -> bool:
        """Say whether a value is float32 before any cast: an input of the graph, or made on an island."""
        producer = value.producer()
        return value.is_graph_input() or (producer is not None and producer in self.reasons)

    def named(self, patterns: Iterable[str]) -> None:
        for pattern in patterns:
            nodes = [node for node in self.graph if any(fnmatch.fnmatchcase(name, pattern) for name in _names(node))]
            if not nodes:
                raise InputError(f"islands: {pattern!r} matches no node and no module of the graph")
            for node in nodes:
                if computes(node):
                    self.add(node, f"asked for by {pattern!r}")

    def without_form(self) -> None:
        for node in self.graph:
            if not computes(node) or any_type(node):
                continue
            # Where one input of several is float32 by specification, such as Resize's scales, that one stays so.
            main = next((i for i, value in enumerate(node.inputs) if value is not None and value.dtype in FLOATS), None)
            fits = main is None or takes(node, main, self.dtype)
            if not (fits and (node.outputs[0].dtype not in FLOATS or gives(node, 0, self.dtype))):
                self.add(node, f"{node.op_type} has no {self.name} form")
            elif node.op_type in _NOT_IN_BF16 and self.dtype == ir.DataType.BFLOAT16:
                self.add(node, f"TensorRT has no bfloat16 {node.op_type}")
            elif node.op_type in ("Softmax", "LogSoftmax"):
                self.add(node, f"{node.op_type}: exponentials and their sum")

    def norms(self, casts: bool) -> None:
        for node in self.graph:
            exact = node.attributes.get_int("stash_type", 1 if has_attribute(node, "stash_type") else 0) == 1
            if node.op_type in _NORMS and (casts or not exact):
                self.add(node, "statistics of a normalisation")

    def sigmoids(self) -> None:
        for node in self.graph:
            if node.op_type == "Sigmoid" and floats(node):
                self.add(node, "Sigmoid: 1 − σ(|x|) where x is negative")
                for reader in node.outputs[0].consumers():
                    if reader.op_type == "Mul" and node.inputs[0] in reader.inputs:
                        self.add(reader, "SiLU, by the Sigmoid in it")

    def arithmetic(self) -> None:
        for node in self.graph:
            if node.op_type in ELEMENTWISE and floats(node) and not any_type(node):
                self.add(node, "arithmetic beside the products")

    def sums(self) -> None:
        for node in self.graph:
            if node.op_type not in _SUMS or not floats(node):
                continue
            why = f"{node.op_type}: a sum over many numbers"
            self.add(node, why)
            self._back(node, lambda one: one.op_type in ("Abs", "Exp", "Pow", "Sub") or _is_square(one), why)
            # The root of a variance and its epsilon, up to where it meets the tensor again.
            self._on(node, lambda one: one.op_type in ELEMENTWISE and len(varying(one)) == 1, why)

    def integers(self) -> None:
        made: set[ir.Node] = set()
        for node in self.graph:
            if not computes(node) or node.op_type == "DequantizeLinear":
                continue
            inputs = varying(node)
            counted = node.op_type == "Cast" and not inputs and not _is_boolean(node.inputs[0])
            if counted or (inputs and all(value.producer() in made for value in inputs)):
                made.add(node)
                self.add(node, "computed from integers alone")

    def angles(self) -> None:
        for node in self.graph:
            if node.op_type not in ("Sin", "Cos") or not floats(node):
                continue
            self.add(node, _ANGLES)
            self._back(node, lambda one: one.op_type in ELEMENTWISE | LAYOUT, _ANGLES)
        for node in self.graph:  # in order, so that a chain is followed to its end
            inputs = varying(node)
            if node.op_type in LAYOUT and inputs and all(self._why(value) == _ANGLES for value in inputs):
                self.add(node, _ANGLES)

    def _why(self, value: ir.Value) -> str | None:
        producer = value.producer()
        return None if producer is None else self.reasons.get(producer)

    def edges(self) -> None:
        for node in self.graph:
            given = [value.is_graph_input() or self._why(value) == _INPUT for value in varying(node)]
            if node.op_type in ELEMENTWISE and given and all(given):
                self.add(node, _INPUT)
        for output in self.graph.outputs:
            value = output
            while value.dtype in FLOATS and (producer := value.producer()) is not None:
                others = [one for one in value.consumers() if one not in self.reasons]
                if producer.op_type not in ELEMENTWISE or len(varying(producer)) != 1 or others:
                    break
                self.add(producer, _OUTPUT)
                value = varying(producer)[0]

    def between(self) -> None:
        cheap = ELEMENTWISE | LAYOUT | {"DequantizeLinear"}
        changed = True
        while changed:
            changed = False
            for node in self.graph:
                if node in self.reasons or node.op_type not in cheap or not computes(node):
                    continue
                readers = [one for value in node.outputs for one in value.consumers() if not any_type(one)]
                read = bool(readers) or any(value.is_graph_output() for value in node.outputs)
                if read and all(one in self.reasons for one in readers) and all(map(self.whole, varying(node))):
                    self.add(node, "between float32 nodes")
                    changed = True

    def casts(self) -> None:
        """Let a Cast from integers that only half-precision nodes read give their type at once."""
        for node in [node for node in self.reasons if node.op_type == "Cast" and not floats(node)]:
            output = node.outputs[0]
            if not output.is_graph_output() and not any(reader in self.reasons for reader in output.consumers()):
                del self.reasons[node]

    def _back(self, node: ir.Node, passes: Callable[[ir.Node], bool], why: str) -> None:
        todo = varying(node)
        while todo:
            producer = todo.pop().producer()
            if producer is not None and producer not in self.reasons and computes(producer) and passes(producer):
                self.add(producer, why)
                todo += varying(producer)

    def _on(self, node: ir.Node, passes: Callable[[ir.Node], bool], why: str) -> None:
        todo = [node]
        while todo:
            for reader in todo.pop().outputs[0].consumers():
                if reader not in self.reasons and computes(reader) and passes(reader):
                    self.add(reader, why)
                    todo.append(reader)


def _is_boolean(value: ir.Value | None) -> bool:
    return value is not None and value.dtype == ir.DataType.BOOL


def _is_square(node: ir.Node) -> bool:
    return node.op_type == "Mul" and node.inputs[0] is node.inputs[1]


def _names(node: ir.Node) -> list[str]:
    """Return what a pattern may call a node: its own name, each module it came from, and the operation in the last."""
    names = [node.name or ""]
    scopes = [str(scope) for scope in ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))]
    modules = [scope for scope in scopes[:-1] if scope]
    return names + modules + [f"{modules[-1]}.{scopes[-1]}"] if modules else names
