"""Attention in the form that a backend runs fused: three forms, one meaning.

    onnx        the opset-23 ``Attention`` operator: TensorRT and TensorRT-RTX fuse it in FP16 and BF16, but for heads
                wider than 256, which are decomposed
    microsoft   ``com.microsoft.MultiHeadAttention``: ONNX Runtime's CPU provider runs it as flash attention, in memory
                that grows linearly with tokens; its ``Attention`` holds all N² scores
    decomposed  MatMul, Softmax, MatMul, as the operator's specification writes it: for FP32 on TensorRT-RTX, which has
                no FP32 kernel, and for readers older than opset 23

Lower before :func:`to_half`, which then gives Softmax the type that it needs.
"""

from __future__ import annotations

import math
from typing import Literal

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from dit_deploy.errors import ExportError
from dit_deploy.exporters.passes._attention_node import AttentionNode, Builder
from dit_deploy.exporters.passes.graph_file import infer_types

__all__ = ["Form", "lower_attention"]

Form = Literal["onnx", "microsoft", "decomposed"]

#: Width of a head above which no kernel is fused: TensorRT-RTX 1.7.1 builds 256 and refuses 384 and 512, as released
#: VAEs have them, each with a single head.
_WIDEST = 256
_HEADS_FIRST = (0, 2, 1, 3)  # [batch, tokens, heads, head] ↔ [batch, heads, tokens, head]


def lower_attention(model: ir.Model, form: Form) -> int:
    """Write every ``Attention`` of the model's graph in ``form``; return how many were rewritten.

    In ``onnx`` those alone whose heads are too wide for any fused kernel, as products and softmax.

    What the operator means is kept: its scale, mask, causality, grouped heads, and zero rows where all keys are
    masked. Node and module names stay, as does the name of each value that is still computed.

    Raises:
        ExportError: names a node that the form cannot express: past or present keys, further outputs; in
            ``microsoft`` also a soft cap, another precision of softmax, or causality over unequal lengths. The
            model is as it was then.
    """
    nodes = [node for node in model.graph if node.op_type == "Attention" and node.domain == ""]
    if form == "onnx":
        nodes = [node for node in nodes if _too_wide(node)]
        if not nodes:
            return 0
    infer_types(model)
    attentions = [AttentionNode.read(node) for node in nodes]
    if form == "microsoft":
        for attention in attentions:  # all, before anything is changed
            _check_microsoft(attention)
    for attention in attentions:
        build = Builder(model.graph, attention)
        if form == "microsoft":
            _to_microsoft(attention, build)
        else:
            _to_matmul(attention, build)
    if nodes and form == "microsoft":
        model.graph.opset_imports.setdefault("com.microsoft", 1)
    RemoveUnusedNodesPass()(model)  # reshapes and transpositions that only the operator needed
    return len(nodes)


def _too_wide(node: ir.Node) -> bool:
    """Say whether the query's heads are known to be wider than any fused kernel's."""
    query = node.inputs[0]
    if query is None or query.shape is None:
        return False
    width, heads = query.shape.dims[-1], node.attributes.get_int("q_num_heads", 1)
    return isinstance(width, int) and width // (heads if len(query.shape) == 3 else 1) > _WIDEST


def _check_microsoft(attention: AttentionNode) -> None:
    """Raise :class:`ExportError` for what MultiHeadAttention cannot express."""
    if attention.softcap:
        raise ExportError(f"{attention.node.name}: MultiHeadAttention has no soft cap; lower it to 'decomposed'")
    if attention.softmax_dtype not in (None, attention.dtype):
        raise ExportError(
            f"{attention.node.name}: MultiHeadAttention computes softmax in {attention.dtype}, "
            f"not in {attention.softmax_dtype}; lower it to 'decomposed'"
        )
    if attention.causal and attention.tokens != attention.kv_tokens:
        raise ExportError(
            f"{attention.node.name}: causal attention of {attention.tokens} queries over {attention.kv_tokens} keys is "
            "not what MultiHeadAttention calls causal; lower it to 'decomposed'"
        )


def _to_microsoft(attention: AttentionNode, build: Builder) -> None:
    inputs: list[ir.Value | None] = [_tokens_first(attention, build, which) for which in range(3)]
    bias = None
    if attention.mask is not None:
        bias = _whole(attention, build, _mask_bias(attention, build, attention.mask))
        inputs += [None, None, bias]
    batch, tokens, heads, width = attention.batch, attention.tokens, attention.heads, attention.value_width
    attributes: dict[str, int | float] = {"num_heads": heads}
    if attention.given_scale is not None:
        attributes["scale"] = attention.given_scale
    if attention.causal:
        attributes["unidirectional"] = 1
    flat = build(
        "MultiHeadAttention", inputs, [batch, tokens, heads * width], attributes=attributes, domain="com.microsoft"
    )
    if attention.rank == 3 and bias is None:
        build.replace(attention.output, flat)
        return
    if bias is None and (target := _flattened(attention)) is not None:
        build.replace(target, flat)
        return
    split = build("Reshape", [flat, build.integers(0, 0, heads, width)], [batch, tokens, heads, width])
    output = build("Transpose", [split], [batch, heads, tokens, width], attributes={"perm": _HEADS_FIRST})
    _finish(attention, build, output, bias)


def _to_matmul(attention: AttentionNode, build: Builder) -> None:
    batch, heads, tokens, kv_tokens = attention.batch, attention.heads, attention.tokens, attention.kv_tokens
    query, key, value = (_heads_first(attention, build, which) for which in range(3))
    # The root of the scale on each side, as the specification has it: in FP16 the unscaled product may overflow.
    root = build.scalar(math.sqrt(attention.scale))
    query = build("Mul", [query, root], query.shape)
    key = build("Mul", [key, root], key.shape)
    key = build("Transpose", [key], [batch, heads, attention.width, kv_tokens], attributes={"perm": (0, 1, 3, 2)})
    shape = [batch, heads, tokens, kv_tokens]
    scores = build("MatMul", [query, key], shape)
    if attention.softcap:
        cap = build.scalar(attention.softcap)
        scores = build("Mul", [build("Tanh", [build("Div", [scores, cap], shape)], shape), cap], shape)
    bias = None if attention.mask is None else _mask_bias(attention, build, attention.mask)
    if attention.causal:
        causal = _causal_bias(attention, build)
        bias = causal if bias is None else build("Add", [bias, causal], None)
    if bias is not None:
        scores = build("Add", [scores, bias], shape)
    precise = attention.softmax_dtype
    if precise not in (None, attention.dtype):
        scores = build.cast(scores, precise)
    weights = build("Softmax", [scores], shape, dtype=scores.dtype, attributes={"axis": -1})
    if precise not in (None, attention.dtype):
        weights = build.cast(weights, attention.dtype)
    output = build("MatMul", [weights, value], [batch, heads, tokens, attention.value_width])
    _finish(attention, build, output, None if attention.mask is None else bias)


def _finish(attention: AttentionNode, build: Builder, output: ir.Value, bias: ir.Value | None) -> None:
    """Put ``output`` [batch, heads, tokens, head] in the operator's place; rows that ``bias`` masks whole become 0."""
    if bias is not None:
        # Softmax over nothing but -inf is NaN; the operator is defined to give 0.
        most = build("ReduceMax", [bias, build.integers(-1)], None, attributes={"keepdims": 1})
        some = build("Greater", [most, build.scalar(-math.inf)], None, dtype=ir.DataType.BOOL)
        output = build("Where", [some, output, build.scalar(0.0)], output.shape)
    if attention.rank == 3:
        batch, tokens, heads, width = attention.batch, attention.tokens, attention.heads, attention.value_width
        output = build("Transpose", [output], [batch, tokens, heads, width], attributes={"perm": _HEADS_FIRST})
        output = build("Reshape", [output, build.integers(0, 0, -1)], [batch, tokens, heads * width])
    build.replace(attention.output, output)


def _tokens_first(attention: AttentionNode, build: Builder, which: int) -> ir.Value:
    """Return query, key or value as [batch, tokens, hidden]: the projection itself where it only had to be split."""
    value = attention.inputs[which]
    grouped = which > 0 and attention.kv_heads != attention.heads
    if attention.rank == 3 and not grouped:
        return value
    if not grouped and (whole := _unsplit(value)) is not None:
        return whole
    value = _heads_first(attention, build, which)
    assert value.shape is not None
    batch, heads, tokens, width = value.shape.dims
    assert isinstance(heads, int) and isinstance(width, int)
    value = build("Transpose", [value], [batch, tokens, heads, width], attributes={"perm": _HEADS_FIRST})
    return build("Reshape", [value, build.integers(0, 0, -1)], [batch, tokens, heads * width])


def _heads_first(attention: AttentionNode, build: Builder, which: int) -> ir.Value:
    """Return query, key or value as [batch, heads, tokens, head]; keys and values once for each query head."""
    value = attention.inputs[which]
    batch, tokens = attention.batch, attention.kv_tokens if which else attention.tokens
    heads = attention.kv_heads if which else attention.heads
    width = attention.value_width if which == 2 else attention.width
    if attention.rank == 3:
        value = build("Reshape", [value, build.integers(0, 0, heads, width)], [batch, tokens, heads, width])
        value = build("Transpose", [value], [batch, heads, tokens, width], attributes={"perm": _HEADS_FIRST})
    if heads == attention.heads:
        return value
    times = attention.heads // heads
    value = build("Unsqueeze", [value, build.integers(2)], [batch, heads, 1, tokens, width])
    value = build("Expand", [value, build.integers(1, 1, times, 1, 1)], [batch, heads, times, tokens, width])
    value = build("Reshape", [value, build.integers(0, attention.heads, -1, width)], None)
    value.shape = ir.Shape([batch, attention.heads, tokens, width])
    return value


def _unsplit(value: ir.Value) -> ir.Value | None:
    """Return x where ``value`` is Transpose(Reshape(x: [batch, tokens, heads · head])), else ``None``."""
    transpose = value.producer()
    if transpose is None or not _swaps_heads(transpose) or transpose.inputs[0] is None:
        return None
    reshape = transpose.inputs[0].producer()
    if reshape is None or reshape.op_type != "Reshape" or reshape.inputs[0] is None:
        return None
    whole = reshape.inputs[0]
    return whole if _only_splits(whole.shape, reshape.outputs[0].shape) else None


def _flattened(attention: AttentionNode) -> ir.Value | None:
    """Return y where the operator's output serves for y = Reshape(Transpose(output)): [batch, tokens, hidden] only."""
    value = attention.output
    for op_type in ("Transpose", "Reshape"):
        uses = list(value.uses())
        if len(uses) != 1 or value.is_graph_output():
            return None
        node = uses[0].node
        if node.op_type != op_type or (op_type == "Transpose" and not _swaps_heads(node)):
            return None
        before, value = value, node.outputs[0]
    return value if _only_splits(value.shape, before.shape) else None


def _swaps_heads(node: ir.Node) -> bool:
    return node.op_type == "Transpose" and tuple(node.attributes.get_ints("perm", ())) == _HEADS_FIRST


def _only_splits(whole: ir.Shape | None, split: ir.Shape | None) -> bool:
    """Say whether [a, b, heads · head] and [a, b, heads, head] differ in the last axis alone.

    Sizes are symbols. Where the first is the same and so is the product of the rest, the second is the same.
    """
    if whole is None or split is None or len(whole) != 3 or len(split) != 4:
        return False
    hidden, heads, width = whole.dims[2], split.dims[2], split.dims[3]
    if not (isinstance(hidden, int) and isinstance(heads, int) and isinstance(width, int)):
        return False
    return hidden == heads * width and (_known(whole, split, 0) or _known(whole, split, 1))


def _known(left: ir.Shape, right: ir.Shape, axis: int) -> bool:
    """Say whether two shapes have the same size, or the same symbol, on an axis."""
    one, other = left.dims[axis], right.dims[axis]
    return one == other and (isinstance(one, int) or one.value is not None)


def _mask_bias(attention: AttentionNode, build: Builder, mask: ir.Value) -> ir.Value:
    """Return a mask as what is added to the scores: 0 where a Boolean one is true, -inf elsewhere."""
    if mask.dtype != ir.DataType.BOOL:
        return mask
    return build("Where", [mask, build.scalar(0.0), build.scalar(-math.inf)], mask.shape)


def _causal_bias(attention: AttentionNode, build: Builder) -> ir.Value:
    """Return [tokens, kv tokens]: query i sees keys 0 … i."""
    rows, columns = (_positions(build, attention.inputs[which], attention.axis_of_tokens) for which in (0, 1))
    rows = build("Unsqueeze", [rows, build.integers(-1)], [attention.tokens, 1], dtype=ir.DataType.INT64)
    shape = [attention.tokens, attention.kv_tokens]
    seen = build("GreaterOrEqual", [rows, columns], shape, dtype=ir.DataType.BOOL)
    return build("Where", [seen, build.scalar(0.0), build.scalar(-math.inf)], shape)


def _positions(build: Builder, value: ir.Value, axis: int) -> ir.Value:
    """Return 0, 1, … over an axis of ``value``."""
    assert value.shape is not None
    size = build("Squeeze", [build.size(value, axis)], [], dtype=ir.DataType.INT64)
    return build("Range", [build.integer(0), size, build.integer(1)], [value.shape.dims[axis]], dtype=ir.DataType.INT64)


def _whole(attention: AttentionNode, build: Builder, bias: ir.Value) -> ir.Value:
    """Return a bias as [batch or 1, heads or 1, tokens, kv tokens], which MultiHeadAttention wants spelled out."""
    assert bias.shape is not None
    dims = [*[1] * (4 - len(bias.shape)), *bias.shape.dims]
    if len(dims) > len(bias.shape):
        bias = build("Unsqueeze", [bias, build.integers(*range(4 - len(bias.shape)))], dims)
    want = ir.Shape([*dims[:2], attention.tokens, attention.kv_tokens])
    if _known(ir.Shape(dims), want, 2) and _known(ir.Shape(dims), want, 3):
        return bias
    sizes = [build.size(attention.inputs[which], attention.axis_of_tokens) for which in (0, 1)]
    shape = build("Concat", [build.integers(1, 1), *sizes], [4], dtype=ir.DataType.INT64, attributes={"axis": 0})
    return build("Expand", [bias, shape], want)
