"""What an ``Attention`` node says, and a builder for what takes its place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dit_deploy.errors import ExportError

__all__ = ["AttentionNode", "Builder"]

Dim = int | ir.SymbolicDim


@dataclass(frozen=True)
class AttentionNode:
    """One opset-23 ``Attention``, read and checked.

    Attributes:
        inputs: query, key, value; [batch, heads, tokens, head] or, with ``rank`` 3, [batch, tokens, heads · head].
        heads: of the query; ``kv_heads`` of key and value, which divide them (grouped-query attention).
        width: size of a query's and key's head; ``value_width`` of a value's.
        given_scale: the attribute; ``None`` where the operator's default, 1/√width, holds. ``scale`` is either.
        mask: Boolean, or of the query's type and added to the scores; broadcast to [batch, heads, tokens, kv tokens].
        softcap: 0 for none.
        softmax_dtype: the type that softmax is to be computed in; ``None`` for the query's own.
    """

    node: ir.Node
    inputs: tuple[ir.Value, ir.Value, ir.Value]
    rank: int
    heads: int
    kv_heads: int
    width: int
    value_width: int
    given_scale: float | None
    mask: ir.Value | None
    causal: bool
    softcap: float
    softmax_dtype: ir.DataType | None

    @classmethod
    def read(cls, node: ir.Node) -> AttentionNode:
        """Raises :class:`ExportError` for a node with past or present keys, more outputs, or unknown shapes."""
        given = [*node.inputs, *[None] * (6 - len(node.inputs))]
        if given[4] is not None or given[5] is not None:
            raise ExportError(f"{node.name}: attention over past keys has no other form here; keep form 'onnx'")
        for output in node.outputs[1:]:
            if output.name and (output.uses() or output.is_graph_output()):
                raise ExportError(f"{node.name}: output {output.name} exists in form 'onnx' only")
        query, key, value = given[:3]
        assert query is not None and key is not None and value is not None
        ranks = {None if one.shape is None else len(one.shape) for one in (query, key, value)}
        if ranks not in ({3}, {4}):
            raise ExportError(f"{node.name}: query, key and value have ranks {ranks}, expected 3 or 4 for all of them")
        (rank,) = ranks
        attributes = node.attributes
        if rank == 4:
            heads, kv_heads = _fixed(node, query, 1), _fixed(node, key, 1)
            width, value_width = _fixed(node, query, 3), _fixed(node, value, 3)
        else:
            heads, kv_heads = attributes.get_int("q_num_heads", 0), attributes.get_int("kv_num_heads", 0)
            if heads < 1 or kv_heads < 1:
                raise ExportError(f"{node.name}: q_num_heads and kv_num_heads are needed for inputs of rank 3")
            width, value_width = _fixed(node, query, 2) // heads, _fixed(node, value, 2) // kv_heads
        if heads % kv_heads:
            raise ExportError(f"{node.name}: {kv_heads} key heads do not divide {heads} query heads")
        mask = given[3]
        if mask is not None and (mask.shape is None or mask.dtype not in (ir.DataType.BOOL, query.dtype)):
            raise ExportError(f"{node.name}: mask {mask.name} is {mask.dtype}, expected bool or {query.dtype}")
        scale = attributes.get_float("scale", None)
        if scale is not None and scale <= 0:
            raise ExportError(f"{node.name}: scale is {scale}, expected a positive number")
        precision = attributes.get_int("softmax_precision", 0)
        return cls(
            node=node,
            inputs=(query, key, value),
            rank=int(rank or 0),
            heads=heads,
            kv_heads=kv_heads,
            width=width,
            value_width=value_width,
            given_scale=scale,
            mask=mask,
            causal=bool(attributes.get_int("is_causal", 0)),
            softcap=attributes.get_float("softcap", 0.0),
            softmax_dtype=ir.DataType(precision) if precision else None,
        )

    @property
    def scale(self) -> float:
        """What the scores are multiplied by."""
        return 1 / math.sqrt(self.width) if self.given_scale is None else self.given_scale

    @property
    def dtype(self) -> ir.DataType:
        """Type of query, key and output."""
        dtype = self.inputs[0].dtype
        assert dtype is not None
        return dtype

    @property
    def output(self) -> ir.Value:
        """The attended values, in the inputs' layout."""
        return self.node.outputs[0]

    @property
    def axis_of_tokens(self) -> int:
        """Of the inputs: [batch, tokens, hidden] or [batch, heads, tokens, head]."""
        return self.rank - 2

    @property
    def batch(self) -> Dim:
        """Number of samples, or its symbol."""
        return _dims(self.inputs[0])[0]

    @property
    def tokens(self) -> Dim:
        """Number of queries, or its symbol."""
        return _dims(self.inputs[0])[self.axis_of_tokens]

    @property
    def kv_tokens(self) -> Dim:
        """Number of keys, or its symbol."""
        return _dims(self.inputs[1])[self.axis_of_tokens]


def _dims(value: ir.Value) -> Sequence[Dim]:
    assert value.shape is not None
    return value.shape.dims


def _fixed(node: ir.Node, value: ir.Value, axis: int) -> int:
    size = _dims(value)[axis]
    if not isinstance(size, int):
        raise ExportError(f"{node.name}: axis {axis} of {value.name} is {size}; heads and their size must be fixed")
    return size


class Builder:
    """Adds typed nodes before an attention node, under its name and with its notes on the module it came from."""

    def __init__(self, graph: ir.Graph, attention: AttentionNode) -> None:
        self._graph, self._node, self._dtype = graph, attention.node, attention.dtype
        self._count = 0

    def __call__(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        shape: Iterable[Dim] | None,
        *,
        dtype: ir.DataType | None = None,
        attributes: Mapping[str, int | float | Sequence[int]] | None = None,
        domain: str = "",
    ) -> ir.Value:
        """Add a node with one output, of the attention's own type unless ``dtype`` is given, and return the output."""
        self._count += 1
        name = f"{self._node.name}.{op_type.lower()}_{self._count}"
        notes = dict(self._node.metadata_props)
        node = ir.node(op_type, inputs, attributes, domain=domain, name=name, metadata_props=notes)
        output = node.outputs[0]
        output.name, output.type = f"{name}.output", ir.TensorType(dtype or self._dtype)
        output.shape = None if shape is None else ir.Shape(list(shape))
        self._graph.insert_before(self._node, node)
        return output

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Add a conversion."""
        return self("Cast", [value], value.shape, dtype=dtype, attributes={"to": int(dtype)})

    def size(self, value: ir.Value, axis: int) -> ir.Value:
        """Add the size of an axis, as a tensor of one integer."""
        limits = {"start": axis, "end": axis + 1}
        return self("Shape", [value], [1], dtype=ir.DataType.INT64, attributes=limits)

    def integers(self, *numbers: int) -> ir.Value:
        """Return a constant vector."""
        return self._constant("x".join(map(str, numbers)), np.array(numbers, np.int64))

    def integer(self, number: int) -> ir.Value:
        """Return a constant integer without axes."""
        return self._constant(f"scalar_{number}", np.array(number, np.int64))

    def scalar(self, number: float) -> ir.Value:
        """Return a constant of the attention's type."""
        return self._constant(f"{self._dtype.name.lower()}_{number!r}", np.array(number, self._dtype.numpy()))

    def _constant(self, name: str, array: np.ndarray) -> ir.Value:
        name = f"attention.constant.{name}"
        if name not in self._graph.initializers:
            tensor = ir.tensor(array, name=name)
            value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
            value.const_value = tensor
            self._graph.initializers[name] = value
        return self._graph.initializers[name]

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Let ``new`` serve for ``old``, under its name."""
        assert old.name is not None
        name, old.name = old.name, f"{old.name}.replaced"
        new.name, new.shape = name, old.shape if old.shape is not None else new.shape
        old.replace_all_uses_with(new, replace_graph_outputs=True)
