"""What of a graph does not fit FP16's range: constants, by looking at them, and values, by what was measured."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import onnx_ir as ir

from dit_deploy.exporters.passes._operators import ELEMENTWISE, FLOATS, LAYOUT, any_type, computes, takes, varying
from dit_deploy.exporters.passes.graph_file import release

__all__ = ["MAXIMUM", "SAFE_MAXIMUM", "large_values", "unfit_constants"]

MAXIMUM = 65504.0

#: Larger values, as measured, stay in float32. What was measured is a sample: other seeds, labels, sizes and guidance
#: reach further. Two bits of the exponent are kept for them; a bound much lower would take in tensors that never grow.
SAFE_MAXIMUM = MAXIMUM / 4

_LEAST = 2.0**-25  # FP16 rounds it, and what is smaller, to 0
_SMALL = 1024  # bytes: up to here a constant is a number of a formula, beyond it is a weight


def unfit_constants(graph: ir.Graph, known: Collection[ir.Node]) -> Iterator[tuple[ir.Node, str]]:
    """Yield the nodes not ``known`` already that read a constant which FP16 cannot hold, and why. Reads each once."""
    for name, value in graph.initializers.items():
        if value.dtype not in FLOATS or value.const_value is None:
            continue
        uses = [use for use in value.uses() if use.node not in known and not any_type(use.node)]
        readers = [use.node for use in uses if takes(use.node, use.idx, ir.DataType.FLOAT16)]
        why = _misfit(name, value.const_value) if readers else None
        release(value.const_value)
        if why is not None:
            for node in readers:
                yield node, why


def _misfit(name: str, tensor: ir.TensorProtocol) -> str | None:
    """Say what of a constant FP16 cannot hold; ``None`` where it holds it. Infinity is a number of FP16's."""
    array = tensor.numpy()
    if not array.size:
        return None
    largest = float(max(array.max(), -array.min()))
    if largest == np.inf:
        finite = array[np.isfinite(array)]
        largest = float(np.abs(finite).max()) if finite.size else 0.0
    if largest > MAXIMUM:
        return f"{name} holds {largest:.4g}, and FP16 ends at {MAXIMUM:.0f}"
    if tensor.nbytes <= _SMALL and 0 < largest <= _LEAST:
        return f"{name} holds {largest:.4g}, which FP16 rounds to 0"
    return None


def large_values(graph: ir.Graph, ranges: Mapping[str, float]) -> Iterator[tuple[ir.Node, str]]:
    """Yield the nodes that make or read a value above :data:`SAFE_MAXIMUM`, and why.

    Of a value that was not measured, between such a node and its neighbours, the worst is assumed where the node
    is cheap: that it is as large. Products of matrices end that: theirs is another scale.
    """
    measured = {value: ranges[value.name] for value in _values(graph) if value.name and value.name in ranges}
    todo = [(value, size) for value, size in measured.items() if not size <= SAFE_MAXIMUM]  # NaN is not
    seen = set(measured)
    while todo:
        value, size = todo.pop()
        producer = value.producer()
        for node in (producer, *value.consumers()):
            if node is None or not computes(node) or any_type(node):
                continue
            yield node, f"{value.name} reaches {size:.4g}, and FP16 ends at {MAXIMUM:.0f}"
            if node.op_type in ELEMENTWISE | LAYOUT:
                for other in varying(node) if node is producer else node.outputs:
                    if other.dtype in FLOATS and other not in seen:
                        seen.add(other)
                        todo.append((other, size))


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    for node in graph:
        yield from (value for value in node.outputs if value.dtype in FLOATS)
