"""Run a graph on what it is fed, and gather what its activations hold.

The graph is the bundle's own with more outputs: the inputs of its linear layers, and for every other float tensor the
largest absolute value, which is reduced inside the graph and so costs nothing to fetch. It exists in memory only;
its weights stay in the bundle's files, which ONNX Runtime maps.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from dit_deploy.errors import BackendError
from dit_deploy.exporters.calibration._session import open_session
from dit_deploy.exporters.calibration.observers import Histogram
from dit_deploy.exporters.passes.graph_file import infer_types, load_graph
from dit_deploy.exporters.passes.linear import find_linears
from dit_deploy.runtimes.finite import check_finite
from dit_deploy.runtimes.providers import first_line

__all__ = ["Observed", "Statistics", "gather", "instrument"]

Array = NDArray[Any]
Floats = NDArray[np.float32]

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
#: What holds the same values as its first input, every one of them.
_MOVES = ("Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
#: Activations fetched by one run, in bytes; an evaluation of more samples than fit is run in parts.
_FETCHED = 256 << 20


@dataclass
class Statistics:
    """What was seen.

    Attributes:
        layers: linear layer → the value that it reads. Several may read the same.
        histograms: such a value → the histogram of its |x|.
        channels: such a value → the largest |x| of each input channel, float32 [in].
        ranges: every float value that depends on an input → its largest |x|; infinity where infinities occur.
    """

    layers: dict[str, str] = field(default_factory=dict)
    histograms: dict[str, Histogram] = field(default_factory=dict)
    channels: dict[str, Floats] = field(default_factory=dict)
    ranges: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Observed:
    """Where an instrumented graph gives what.

    Attributes:
        layers: as in :class:`Statistics`.
        activations: value → output that holds it.
        maxima: value → output that holds its largest |x|, [].
        moved: value → the value that holds the same numbers elsewhere.
        outputs: the outputs that the graph had before.
    """

    layers: dict[str, str]
    activations: dict[str, str]
    maxima: dict[str, str]
    moved: dict[str, str]
    outputs: tuple[str, ...]


def instrument(model: ir.Model) -> Observed:
    """Add the outputs to ``model``, in place. No node of it changes, so neither does what it computes."""
    graph = model.graph
    infer_types(model)
    layers = {linear.name: linear.activation for linear in find_linears(graph)}
    outputs = tuple(value.name or "" for value in graph.outputs)
    maxima: dict[str, str] = {}
    moved: dict[str, str] = {}
    varying: set[ir.Value] = set(graph.inputs)
    nodes = list(graph)  # without those that are added on the way
    for value in graph.inputs:
        if value.dtype in _FLOATS:
            maxima[_name(value)] = _absmax(graph, value)
    for node in nodes:
        if not any(value in varying for value in node.inputs if value is not None) and not _has_graph(node):
            continue  # what follows from weights alone
        for value in node.outputs:
            varying.add(value)
            if value.dtype not in _FLOATS or not value.name:
                continue
            source = node.inputs[0] if node.inputs else None
            if node.op_type in _MOVES and source in varying and source is not None and source.dtype == value.dtype:
                moved[value.name] = _name(source)
            else:
                maxima[value.name] = _absmax(graph, value, after=node)
    activations: dict[str, str] = {}
    for value in dict.fromkeys(layers.values()):
        shown = value
        if value.is_graph_input():
            identity = ir.node("Identity", [value])
            graph.append(identity)
            shown = _declare(identity.outputs[0], f"{value.name}/same", value.dtype, value.shape)
        if not shown.is_graph_output():
            graph.outputs.append(shown)
        activations[_name(value)] = _name(shown)
    return Observed({name: _name(value) for name, value in layers.items()}, activations, maxima, moved, outputs)


def gather(
    path: Path,
    feeds: Sequence[Mapping[str, Array]],
    *,
    shared: Collection[str] = (),
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Statistics:
    """Run the ONNX file ``path`` on each of ``feeds`` and return what its activations held.

    Args:
        feeds: input name → array, [samples, …] each.
        shared: inputs that all samples have in common, without such an axis.
        threads: threads within an operator; ``None`` is one a core.
        progress: called with the samples done and all of them.

    Raises:
        BackendError: ONNX Runtime refuses the graph, or an activation is not finite; the message names the layer.
        ExportError: ``path`` is no graph whose types can be told.
    """
    model = load_graph(path)
    observed = instrument(model)
    # No fusion: what is observed is what the graph says, not what an optimiser made of it.
    session = open_session(path, threads, graph=ir.to_proto(model).SerializeToString(), fuse=False)
    del model
    statistics = Statistics(layers=dict(observed.layers))
    done, total = 0, sum(_length(one) for one in feeds)
    at_once: dict[tuple[tuple[int, ...], ...], int] = {}
    for one in feeds:
        shapes = tuple(array.shape[1:] for array in one.values())
        first = 0
        while first < _length(one):
            # The first sample of each size goes alone, and says how many of them fit.
            last = first + at_once.get(shapes, 1)
            given = {name: array if name in shared else array[first:last] for name, array in one.items()}
            outputs = _run(session, given, path)
            _observe(statistics, observed, outputs, path.parent.name)
            fetched = sum(outputs[name].nbytes for name in observed.activations.values())
            at_once.setdefault(shapes, max(1, _FETCHED // max(1, fetched)))
            done += min(last, _length(one)) - first
            first = last
            if progress is not None:
                progress(done, total)
    for value, source in observed.moved.items():  # in the graph's order, so a source comes before what is moved
        statistics.ranges[value] = statistics.ranges[source]
    return statistics


def _observe(statistics: Statistics, observed: Observed, outputs: Mapping[str, Array], component: str) -> None:
    """Take what one run gave into ``statistics``."""
    for name in observed.outputs:
        if outputs[name].dtype.kind == "f":
            check_finite(outputs[name], f"calibration: {name} of the {component} holds")
    readers = {value: layer for layer, value in reversed(observed.layers.items())}
    for value, output in observed.activations.items():
        array = outputs[output].astype(np.float32, copy=False)  # […, in]
        histogram = statistics.histograms.setdefault(value, Histogram.empty())
        histogram.add(array, f"calibration: {value}, the input of {readers[value]},")
        rows = array.reshape(-1, array.shape[-1])
        maxima = np.maximum(rows.max(axis=0), -rows.min(axis=0))
        statistics.channels[value] = np.maximum(maxima, statistics.channels.get(value, maxima))
    for value, output in observed.maxima.items():
        largest = float(outputs[output])
        if np.isnan(largest):
            raise BackendError(f"calibration: {value} of the {component} holds NaN values, so it has no range")
        statistics.ranges[value] = max(largest, statistics.ranges.get(value, 0.0))


def _run(session: ort.InferenceSession, feeds: Mapping[str, Array], path: Path) -> dict[str, Array]:
    names = [output.name for output in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))
    except Exception as error:
        raise BackendError(f"ONNX Runtime failed in {path.parent.name}/{path.name}: {first_line(error)}") from error


def _absmax(graph: ir.Graph, value: ir.Value, *, after: ir.Node | None = None) -> str:
    """Add the output ``value/absmax``, float32 []; the nodes go right behind the one that makes ``value``."""
    nodes: list[ir.Node] = []
    if value.dtype != ir.DataType.FLOAT:
        nodes.append(ir.node("Cast", [value], attributes={"to": int(ir.DataType.FLOAT)}))
        value_read = _declare(nodes[-1].outputs[0], f"{value.name}/float32", ir.DataType.FLOAT, value.shape)
    else:
        value_read = value
    nodes.append(ir.node("Abs", [value_read]))
    absolute = _declare(nodes[-1].outputs[0], f"{value.name}/abs", ir.DataType.FLOAT, value.shape)
    nodes.append(ir.node("ReduceMax", [absolute], attributes={"keepdims": 0}))
    largest = _declare(nodes[-1].outputs[0], f"{value.name}/absmax", ir.DataType.FLOAT, ir.Shape([]))
    if after is None:
        graph.insert_before(graph[0], nodes)
    else:
        graph.insert_after(after, nodes)
    graph.outputs.append(largest)
    return _name(largest)


def _declare(value: ir.Value, name: str, dtype: ir.DataType | None, shape: ir.Shape | None) -> ir.Value:
    value.name, value.shape = name, shape
    value.type = None if dtype is None else ir.TensorType(dtype)
    return value


def _has_graph(node: ir.Node) -> bool:
    """Say whether the node holds a graph, which may use any value around it."""
    return any(one.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for one in node.attributes.values())


def _name(value: ir.Value) -> str:
    assert value.name
    return value.name


def _length(feeds: Mapping[str, Array]) -> int:
    """Return how many samples there are in each array."""
    return len(next(iter(feeds.values())))
