"""Find the linear layers of a graph, and choose those that a low precision is for.

A linear layer is called by its weight's name less ``.weight``, which is its module's name in the source. The
choice is by rule on the graph, so that it holds for a family that it has never seen.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dit_deploy.errors import InputError

__all__ = ["Choice", "Linear", "choose_linears", "find_linears"]

_NORMS = {
    "GroupNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "LpNormalization",
    "RMSNormalization",
    "ReduceMean",  # of a normalisation written out
    "SimplifiedLayerNormalization",
    "SkipLayerNormalization",
}
_ATTENTIONS = {"Attention", "GroupQueryAttention", "MultiHeadAttention"}


@dataclass(frozen=True, eq=False)
class Linear:
    """``output = activation @ weight + bias``: a MatMul and its Add, or a Gemm.

    Attributes:
        name: the weight's name less ``.weight``; a weight that serves a second layer calls that one ``name#2``.
        node: the MatMul or Gemm. Its input 1 is the weight, or the weight's Cast to the type of the computation.
        weight: the initializer, [in, out], or [out, in] where ``transposed``.
        bias: the initializer, [out]; None where there is none.
        bias_node: the Add of a MatMul's bias.
    """

    name: str
    node: ir.Node
    weight: ir.Value
    transposed: bool
    in_features: int
    out_features: int
    bias: ir.Value | None = None
    bias_node: ir.Node | None = None

    @property
    def activation(self) -> ir.Value:
        """What the layer reads, […, in]."""
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def output(self) -> ir.Value:
        """What the layer gives, bias included, […, out]."""
        return (self.bias_node or self.node).outputs[0]

    def array(self) -> np.ndarray:
        """Return the weight as [in, out]: a view of the mapped file where it lies there in float32, else a copy."""
        assert self.weight.const_value is not None
        weight = self.weight.const_value.numpy()
        if weight.dtype != np.float32:
            weight = weight.astype(np.float32)
        return weight.T if self.transposed else weight


@dataclass(frozen=True)
class Choice:
    """Which linear layers to quantise.

    Attributes:
        chosen: in the graph's order.
        kept: name → why it stays as it is, for all others.
    """

    chosen: tuple[Linear, ...]
    kept: dict[str, str]


def find_linears(graph: ir.Graph) -> list[Linear]:
    """Return the linear layers of ``graph`` in its order: MatMul with an initializer of two axes, and plain Gemm."""
    found: list[Linear] = []
    uses: dict[str, int] = {}
    for node in graph:
        if node.domain not in ("", "ai.onnx") or node.op_type not in ("MatMul", "Gemm") or node.inputs[0] is None:
            continue
        weight = initializer_behind(node.inputs[1])
        if weight is None or weight.shape is None or len(weight.shape) != 2:
            continue
        transposed, bias, bias_node = False, None, None
        if node.op_type == "Gemm":
            attributes = node.attributes
            plain = not attributes.get_int("transA", 0)
            plain &= attributes.get_float("alpha", 1.0) == attributes.get_float("beta", 1.0) == 1.0
            if not plain or initializer_behind(node.inputs[0]) is not None:
                continue
            transposed = bool(attributes.get_int("transB", 0))
            if len(node.inputs) > 2 and node.inputs[2] is not None:
                bias = initializer_behind(node.inputs[2])
                if bias is None:
                    continue
        rows, columns = (int(size) for size in weight.shape.numpy())
        in_features, out_features = (columns, rows) if transposed else (rows, columns)
        if node.op_type == "MatMul":
            bias, bias_node = _bias(node, out_features)
        name = (weight.name or node.outputs[0].name or "").removesuffix(".transposed").removesuffix(".weight")
        uses[name] = uses.get(name, 0) + 1
        if uses[name] > 1:
            name = f"{name}#{uses[name]}"
        found.append(Linear(name, node, weight, transposed, in_features, out_features, bias, bias_node))
    return found


def choose_linears(graph: ir.Graph, keep: Collection[str] = ()) -> Choice:
    """Choose the layers to quantise: those inside the transformer blocks that work on tokens.

    Left out, by what the graph does and not by names:

    - one row a sample (fewer than three axes): timestep and label embedders and adaLN modulations. With M = batch they
      cost next to nothing, and every token of every block depends on them.
    - embedders of tokens: no normalisation lies before them, and they are no attention's query, key or value (which in
      cross-attention may read unnormalised states).
    - the last layer: no other layer lies between it and an output, so its error is the prediction's.

    Args:
        graph: any graph; the rules need its values' shapes, as the exporter writes them.
        keep: names to leave out too, as glob patterns: ``("blocks.0.*",)``.

    Raises:
        InputError: a pattern of ``keep`` that matches no linear layer.
    """
    linears = find_linears(graph)
    patterns = matched(keep, [linear.name for linear in linears])
    nodes = {linear.node for linear in linears}
    normalised = _after_normalisation(graph)
    chosen: list[Linear] = []
    kept: dict[str, str] = {}
    for linear in linears:
        shape = linear.activation.shape
        following = _following(linear.output, nodes)
        if linear.name in patterns:
            why = f"asked for by {patterns[linear.name]}"
        elif shape is None:
            why = "the graph does not say how many axes its input has"
        elif len(shape) < 3:
            why = "one row a sample: it costs next to nothing and steers every token"
        elif "output" in following:
            why = "the last layer"
        elif linear.activation not in normalised and "attention" not in following:
            why = "an embedder: no normalisation lies before it"
        else:
            chosen.append(linear)
            continue
        kept[linear.name] = why
    return Choice(tuple(chosen), kept)


def initializer_behind(value: ir.Value | None) -> ir.Value | None:
    """Return the initializer that ``value`` is, or is a Cast of (weights stored in 16 bits); None for anything else."""
    if value is None or value.is_graph_input():
        return None
    if value.is_initializer():
        return value
    producer = value.producer()
    if producer is not None and producer.op_type == "Cast":
        source = producer.inputs[0]
        if source is not None and source.is_initializer() and not source.is_graph_input():
            return source
    return None


def matched(patterns: Collection[str], names: Sequence[str]) -> dict[str, str]:
    """Return name → the first glob pattern that it matches. A name with brackets in it matches itself.

    Raises:
        InputError: a pattern that matches nothing, as a mistyped one does.
    """
    result: dict[str, str] = {}
    for pattern in patterns:
        hits = [name for name in names if name == pattern or fnmatch.fnmatchcase(name, pattern)]
        if not hits:
            some = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
            raise InputError(f"keep: {pattern!r} matches no linear layer of the graph; it has {some or 'none'}")
        for name in hits:
            result.setdefault(name, pattern)
    return result


def _bias(matmul: ir.Node, out_features: int) -> tuple[ir.Value | None, ir.Node | None]:
    output = matmul.outputs[0]
    consumers = [usage.node for usage in output.uses()]
    if output.is_graph_output() or len(consumers) != 1 or consumers[0].op_type != "Add":
        return None, None
    for value in consumers[0].inputs:
        bias = initializer_behind(value)
        if bias is not None and bias.shape is not None and list(bias.shape) == [out_features]:
            return bias, consumers[0]
    return None, None


def _after_normalisation(graph: ir.Graph) -> set[ir.Value]:
    """Return the values that depend on a normalisation. Nodes are in topological order, as ONNX demands."""
    after: set[ir.Value] = set()
    for node in graph:
        if node.op_type in _NORMS or any(value in after for value in node.inputs if value is not None):
            after.update(node.outputs)
    return after


def _following(value: ir.Value, linears: Collection[ir.Node]) -> set[str]:
    """Return what ``value`` reaches without passing another layer: of ``output``, ``attention`` and ``layer``."""
    reached: set[str] = set()
    seen: set[ir.Node] = set()
    pending: list[ir.Value] = [value]
    while pending:
        current = pending.pop()
        if current.is_graph_output():
            reached.add("output")
        for node in (usage.node for usage in current.uses()):
            if node in seen:
                continue
            seen.add(node)
            if node.op_type in _ATTENTIONS or (node.op_type == "MatMul" and node not in linears):
                reached.add("attention")  # the scores and the average of attention written out are the other MatMuls
            elif node in linears or node.op_type in ("Conv", "ConvTranspose"):
                reached.add("layer")
            else:
                pending.extend(_values(node.outputs))
    return reached


def _values(values: Iterable[ir.Value | None]) -> list[ir.Value]:
    return [value for value in values if value is not None]
