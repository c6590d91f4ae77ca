"""What :mod:`cpu_fused` looks for in a graph: the parts of a transformer block that one operator can compute."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dit_deploy.exporters.passes.linear import Linear, initializer_behind

__all__ = ["GatedSum", "HeadAttention", "ModulatedNorm", "gated_sum", "head_attention", "modulated_norm", "only_use"]

_LARGEST_HEAD = 256  # of the operator


@dataclass(frozen=True)
class ModulatedNorm:
    """``LayerNormalization(source) · (offset + scale) + shift``; source [samples, tokens, width].

    Attributes:
        scale: one row a sample, [samples, width] or [samples, 1, width]; ``None`` for no modulation, as is ``shift``.
        gamma: the normalisation's own weight; ``None`` where it is all ones.
        beta: its bias; ``None`` where it is absent or all zeros.
    """

    source: ir.Value
    scale: ir.Value | None
    shift: ir.Value | None
    gamma: ir.Value | None
    beta: ir.Value | None
    offset: float
    epsilon: float


@dataclass(frozen=True)
class GatedSum:
    """``output = residual + gate · linear``; gate as in :class:`ModulatedNorm`."""

    gate: ir.Value
    residual: ir.Value
    output: ir.Value


@dataclass(frozen=True)
class HeadAttention:
    """A ``MultiHeadAttention`` over three projections [samples, tokens, heads · width]."""

    node: ir.Node
    projections: tuple[ir.Value, ir.Value, ir.Value]
    heads: int
    width: int
    scale: float


def only_use(value: ir.Value) -> ir.Node | None:
    """Return the node that reads ``value``, where that is one only, once, and the value is no output of the graph."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def modulated_norm(value: ir.Value) -> ModulatedNorm | None:
    """Return what ``value`` is where it is a normalisation, modulated or not."""
    if (norm := _norm(value, None, None, 1.0)) is not None:
        return norm
    for product, shift in _operands(value, "Add"):
        row = _sample_row(shift)
        if row is None:
            continue
        if (norm := _norm(product, None, row, 1.0)) is not None:
            return norm
        for normalised, factor in _operands(product, "Mul"):
            for scale, one in _operands(factor, "Add"):
                constant, scale_row = _scalar(one), _sample_row(scale)
                if constant is None or scale_row is None:
                    continue
                if (norm := _norm(normalised, scale_row, row, constant)) is not None:
                    return norm
            factor_row = _sample_row(factor)
            if factor_row is not None and (norm := _norm(normalised, factor_row, row, 0.0)) is not None:
                return norm
    return None


def gated_sum(linear: Linear) -> GatedSum | None:
    """Return the sum that alone reads ``linear``'s output, gated by one row a sample."""
    output = linear.output
    product = only_use(output)
    if product is None or product.op_type != "Mul" or product.domain or not _has_axes(output, 3):
        return None
    gate = _sample_row(_other(product, output))
    total = only_use(product.outputs[0])
    if gate is None or not _is_wide(gate, linear.out_features) or total is None:
        return None
    if total.op_type != "Add" or total.domain:
        return None
    residual = _other(total, product.outputs[0])
    if residual is None or residual.shape is None or residual.shape != output.shape or residual is product.outputs[0]:
        return None
    return GatedSum(gate, residual, total.outputs[0])


def head_attention(node: ir.Node) -> HeadAttention | None:
    """Return what ``node`` attends where it is plain: three inputs of one width, no mask, not causal."""
    if node.op_type != "MultiHeadAttention" or node.domain != "com.microsoft":
        return None
    given = [value for value in node.inputs if value is not None]
    if len(given) != 3 or node.attributes.get_int("unidirectional", 0) != 0:
        return None
    query, key, value = given
    if any(not _has_axes(one, 3) or one.dtype != ir.DataType.FLOAT for one in given):
        return None
    widths = {one.shape[2] if one.shape is not None else None for one in given}
    heads = node.attributes.get_int("num_heads", 0)
    (width,) = widths if len(widths) == 1 else (None,)
    if not isinstance(width, int) or heads < 1 or width % heads or width // heads > _LARGEST_HEAD:
        return None
    scale = node.attributes.get_float("scale", 0.0) or float((width // heads) ** -0.5)
    return HeadAttention(node, (query, key, value), heads, width // heads, scale)


def _norm(value: ir.Value, scale: ir.Value | None, shift: ir.Value | None, offset: float) -> ModulatedNorm | None:
    node = value.producer()
    if node is None or node.op_type != "LayerNormalization" or node.domain:
        return None
    source = node.inputs[0]
    if source is None or not _has_axes(source, 3) or source.dtype != ir.DataType.FLOAT:
        return None
    if node.attributes.get_int("axis", -1) not in (-1, 2) or node.attributes.get_int("stash_type", 1) != 1:
        return None
    assert source.shape is not None
    width = source.shape[2]
    if any(row is not None and not _is_wide(row, width) for row in (scale, shift)):
        return None
    gamma, beta = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    gamma = None if _is_all(gamma, 1.0) else gamma
    beta = None if _is_all(beta, 0.0) else beta
    return ModulatedNorm(source, scale, shift, gamma, beta, offset, node.attributes.get_float("epsilon", 1e-5))


def _sample_row(value: ir.Value | None) -> ir.Value | None:
    """Return ``value`` as one row a sample: what an Unsqueeze of axis 1 made it from, or itself where axis 1 is 1."""
    if value is None or value.dtype != ir.DataType.FLOAT or not _has_axes(value, 3):
        return None
    node = value.producer()
    if node is not None and node.op_type == "Unsqueeze" and len(node.inputs) > 1 and node.inputs[0] is not None:
        axes = node.inputs[1].const_value if node.inputs[1] is not None else None
        if axes is not None and axes.numpy().ravel().tolist() in ([1], [-2]) and _has_axes(node.inputs[0], 2):
            return node.inputs[0]
    assert value.shape is not None
    return value if value.shape[1] == 1 else None


def _operands(value: ir.Value | None, op_type: str) -> list[tuple[ir.Value, ir.Value]]:
    """Return both orders of the operands of ``value``'s producer, nothing where it is no ``op_type``."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != op_type or node.domain:
        return []
    one, two = node.inputs
    return [] if one is None or two is None else [(one, two), (two, one)]


def _other(node: ir.Node, value: ir.Value) -> ir.Value | None:
    return node.inputs[1] if node.inputs[0] is value else node.inputs[0]


def _scalar(value: ir.Value) -> float | None:
    tensor = value.const_value
    return float(tensor.numpy().item()) if tensor is not None and tensor.size == 1 else None


def _is_all(value: ir.Value | None, number: float) -> bool:
    if value is None:
        return True
    constant = initializer_behind(value)
    return (
        constant is not None
        and constant.const_value is not None
        and bool(np.all(constant.const_value.numpy() == number))
    )


def _has_axes(value: ir.Value, count: int) -> bool:
    return value.shape is not None and len(value.shape) == count


def _is_wide(value: ir.Value, width: object) -> bool:
    return value.shape is not None and isinstance(width, int) and value.shape[-1] == width
