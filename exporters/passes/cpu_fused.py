"""INT8 for a CPU with the project's own operators: what a transformer block does between two products is fused to them.

Each operator is described in ``runtimes/cpu_ops/README.md``. What the pass finds, and what becomes of it:

    LayerNormalization · (1 + scale) + shift, read by a quantised layer     LayerNormQuantize
    a quantised layer read by Gelu, read by quantised layers                QuantizedLinearQuantize
    quantised query, key and value layers of attention                      QuantizedLinearBfloat16, merged by input
    MultiHeadAttention over those                                           FlashAttention, FlashAttentionQuantize
    residual + gate · quantised layer                                       QuantizedLinearGated
    any other quantised layer                                               QuantizeLinear, QuantizedLinear
    a modulation, one row a sample                                          WeightOnlyLinear

Everything else stays an ordinary node, so any graph works; only the speed depends on what is found.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from dit_deploy.errors import ExportError
from dit_deploy.exporters.passes._cpu_fused_patterns import (
    HeadAttention,
    gated_sum,
    head_attention,
    modulated_norm,
    only_use,
)
from dit_deploy.exporters.passes.attention import lower_attention
from dit_deploy.exporters.passes.int8 import INT8
from dit_deploy.exporters.passes.linear import Linear, choose_linears, find_linears, matched
from dit_deploy.exporters.passes.qdq import activation_steps, channel_scales

__all__ = ["DOMAIN", "lower_fused"]

DOMAIN = "dit_deploy"

_ACTIVATIONS = {"none": 1, "tanh": 2}  # Gelu's attribute → the operator's


def lower_fused(model: ir.Model, scales: Mapping[str, float], kept: Collection[str] = ()) -> None:
    """Quantise the linear layers of a float32 ``model`` and fuse what lies around them, in place.

    The layers are those that :func:`~dit_deploy.exporters.passes.linear.choose_linears` chooses, less ``kept``.
    Modulations get INT8 weights, one scale a column, and stay float otherwise.

    Args:
        scales: layer → the step of its activation's grid; layers that read one activation share the largest.
        kept: names or glob patterns of layers that stay float, modulations included.

    Raises:
        InputError: a scale is missing or not positive, or a pattern of ``kept`` matches nothing.
        ExportError: a weight is not finite, or the graph is not float32.
    """
    with contextlib.suppress(ExportError):  # what MultiHeadAttention cannot say stays as it is
        lower_attention(model, "microsoft")
    choice = choose_linears(model.graph, kept)
    chosen = [linear for linear in choice.chosen if linear.in_features % 4 == 0]
    steps = activation_steps(choice, INT8, scales, ir.DataType.FLOAT)
    fusion = _Fusion(model.graph, chosen, steps)
    fusion.rows_of_samples(kept)
    fusion.attention()
    fusion.gelu()
    fusion.layers()
    model.graph.opset_imports.setdefault(DOMAIN, 1)
    RemoveUnusedNodesPass()(model)
    model.graph.sort()


class _Fusion:
    """One graph that is being rewritten: which layers are still to do, and which activations are quantised already."""

    def __init__(self, graph: ir.Graph, chosen: Sequence[Linear], steps: Mapping[ir.Value, float]) -> None:
        self._graph = graph
        self._left = {linear.output: linear for linear in chosen}
        self._readers = {linear.node for linear in chosen}
        self._steps = steps
        self._quantized: dict[ir.Value, ir.Value] = {}
        self._zero_point: ir.Value | None = None

    def rows_of_samples(self, kept: Collection[str]) -> None:
        """Modulations: their weights are all that they cost, and a quarter of the bytes is a quarter of the time."""
        linears = find_linears(self._graph)
        patterns = matched(kept, [linear.name for linear in linears])
        for linear in linears:
            shape = linear.activation.shape
            modulates = shape is not None and len(shape) == 2 and linear.out_features >= 2 * linear.in_features
            if modulates and linear.in_features % 4 == 0 and linear.name not in patterns:
                self._replace(linear.output, "WeightOnlyLinear", [linear.activation, *self._weight([linear], 1.0)])

    def attention(self) -> None:
        """Attention whose three projections are quantised, and nothing else reads them."""
        for node in list(self._graph):
            attention = head_attention(node)
            if attention is None or not all(
                value in self._left and only_use(value) is node for value in set(attention.projections)
            ):
                continue
            if len(set(attention.projections)) == 3:
                self._attend(attention)

    def gelu(self) -> None:
        """A layer and its activation, whose result only quantised layers read."""
        for node in list(self._graph):
            if node.op_type != "Gelu" or node.domain or node.inputs[0] is None:
                continue
            linear, output = self._left.get(node.inputs[0]), node.outputs[0]
            kind = _ACTIVATIONS.get(node.attributes.get_string("approximate", "none"))
            if linear is None or kind is None or only_use(linear.output) is None or not self._only_quantized(output):
                continue
            inputs = [self._activation(linear), *self._weight([linear], self._steps[linear.activation])]
            attributes = {"activation": kind, "output_scale": self._steps[output]}
            self._quantized[output] = self._add(
                "QuantizedLinearQuantize", inputs, output, ir.DataType.UINT8, attributes, node
            )
            del self._left[linear.output]

    def layers(self) -> None:
        """All other quantised layers."""
        for linear in list(self._left.values()):
            inputs = [self._activation(linear), *self._weight([linear], self._steps[linear.activation])]
            total = gated_sum(linear)
            if total is None:
                self._replace(linear.output, "QuantizedLinear", inputs)
            else:
                self._replace(total.output, "QuantizedLinearGated", [*inputs, total.gate, total.residual])
        self._left.clear()

    def _attend(self, attention: HeadAttention) -> None:
        linears = [self._left[value] for value in attention.projections]
        groups: dict[ir.Value, list[Linear]] = {}
        for linear in linears:
            groups.setdefault(linear.activation, []).append(linear)
        place: dict[ir.Value, tuple[ir.Value, int]] = {}  # projection → the merged one, and its first column there
        for activation, group in groups.items():
            inputs = [self._activation(group[0]), *self._weight(group, self._steps[activation])]
            columns = [0, *np.cumsum([linear.out_features for linear in group]).tolist()]
            first = group[0].output
            assert first.shape is not None
            merged = self._add("QuantizedLinearBfloat16", inputs, first, ir.DataType.BFLOAT16, {}, group[0].node)
            merged.shape = ir.Shape([*first.shape.dims[:-1], columns[-1]])
            for linear, column in zip(group, columns, strict=False):
                place[linear.output] = (merged, column)
                del self._left[linear.output]
        attributes: dict[str, int | float] = {
            "num_heads": attention.heads,
            "head_size": attention.width,
            "scale": attention.scale,
        }
        for name, value in zip(("query", "key", "value"), attention.projections, strict=True):
            attributes[f"{name}_offset"] = place[value][1]
        inputs = [place[value][0] for value in attention.projections]
        output = attention.node.outputs[0]
        if self._only_quantized(output):
            attributes["output_scale"] = self._steps[output]
            self._quantized[output] = self._add(
                "FlashAttentionQuantize", inputs, output, ir.DataType.UINT8, attributes, attention.node
            )
        else:
            self._replace(output, "FlashAttention", inputs, attributes)

    def _only_quantized(self, value: ir.Value) -> bool:
        """Say whether all that reads ``value`` are layers that are being quantised."""
        uses = list(value.uses())
        inner = bool(uses) and not value.is_graph_output()
        return inner and all(use.node in self._readers and use.idx == 0 for use in uses)

    def _activation(self, linear: Linear) -> ir.Value:
        """Return what ``linear`` reads as uint8 around a zero point of 128."""
        value = linear.activation
        if value in self._quantized:
            return self._quantized[value]
        step, norm = self._steps[value], modulated_norm(value)
        if norm is not None:
            rows = [norm.scale, norm.shift, norm.gamma, norm.beta]
            while rows and rows[-1] is None:
                rows.pop()
            attributes = {"epsilon": norm.epsilon, "offset": norm.offset, "output_scale": step}
            result = self._add(
                "LayerNormQuantize", [norm.source, *rows], value, ir.DataType.UINT8, attributes, linear.node
            )
        else:
            if self._zero_point is None:
                self._zero_point = self._initializer("uint8.zero_point", np.array(128, np.uint8))
            scale = self._initializer(f"{value.name}.scale", np.array(step, np.float32))
            inputs = [value, scale, self._zero_point]
            result = self._add("QuantizeLinear", inputs, value, ir.DataType.UINT8, {}, linear.node, domain="")
        self._quantized[value] = result
        return result

    def _weight(self, linears: Sequence[Linear], step: float) -> list[ir.Value]:
        """Store the layers side by side; return int8 [in, out], the scale of each column times ``step``, and biases."""
        name = linears[0].name if len(linears) == 1 else f"{linears[0].name}.merged"
        columns, biases = [], []
        for linear in linears:
            array = linear.array()
            if not np.isfinite([array.min(), array.max()]).all():
                raise ExportError(f"{linear.name}.weight holds NaN or infinite values; the checkpoint is damaged")
            columns.append(channel_scales(array, INT8.maximum, ir.DataType.FLOAT))
            bias = linear.bias.const_value if linear.bias is not None else None
            biases.append(np.zeros(linear.out_features) if bias is None else bias.numpy().astype(np.float32))

        def convert() -> ir.TensorProtocol:
            parts = [INT8.store(one.array() / scale) for one, scale in zip(linears, columns, strict=True)]
            return ir.Tensor(np.concatenate(parts, axis=1), name=f"{name}.weight.int8")

        shape = ir.Shape([linears[0].in_features, sum(linear.out_features for linear in linears)])
        stored = ir.Value(name=f"{name}.weight.int8", shape=shape, type=ir.TensorType(ir.DataType.INT8))
        stored.const_value = ir.LazyTensor(convert, dtype=ir.DataType.INT8, shape=shape, name=stored.name)
        self._graph.register_initializer(stored)
        vectors = {
            f"{name}.scale": np.concatenate(columns) * np.float32(step),
            f"{name}.bias.float": np.concatenate(biases),
        }
        return [stored, *(self._initializer(key, one.astype(np.float32)) for key, one in vectors.items())]

    def _replace(
        self,
        output: ir.Value,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, int | float] | None = None,
    ) -> None:
        """Let an operator compute ``output`` in place of the node that does; its name stays."""
        producer = output.producer()
        assert producer is not None
        name = output.name
        result = self._add(op_type, inputs, output, ir.DataType.FLOAT, attributes or {}, producer)
        if output in self._steps:
            self._steps = {**self._steps, result: self._steps[output]}
        ir.convenience.replace_all_uses_with(output, result, replace_graph_outputs=True)
        output.name = f"{name}.replaced"
        result.name = name

    def _add(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        like: ir.Value,
        dtype: ir.DataType,
        attributes: Mapping[str, int | float],
        place: ir.Node,
        domain: str = DOMAIN,
    ) -> ir.Value:
        """Add a node before ``place`` whose output has the shape of ``like``."""
        notes = dict(place.metadata_props)
        name = f"{like.name}.{op_type}"
        node = ir.node(op_type, inputs, attributes, domain=domain, name=name, metadata_props=notes)
        output = node.outputs[0]
        output.name, output.shape, output.type = name, like.shape, ir.TensorType(dtype)
        self._graph.insert_before(place, node)
        return output

    def _initializer(self, name: str, array: np.ndarray) -> ir.Value:
        tensor = ir.Tensor(array, name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self._graph.register_initializer(value)
        return value
