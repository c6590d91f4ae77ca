"""Which layer costs how much when it is quantised, and which to keep in floating point until a limit holds.

The measure of a layer is the relative error of the denoiser's prediction with that layer alone quantised, on what the
denoiser is fed while it draws pictures. One ONNX Runtime session does them all, with a switch a layer and the weights
mapped from the file, so that a large model needs its memory once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dit_deploy.errors import BackendError, InputError
from dit_deploy.exporters.calibration._session import open_session
from dit_deploy.exporters.passes.graph_file import load_graph
from dit_deploy.exporters.passes.int8 import INT8
from dit_deploy.exporters.passes.qdq import Grid
from dit_deploy.exporters.passes.switches import SWITCHES, add_switches
from dit_deploy.runtimes.finite import check_finite
from dit_deploy.runtimes.providers import first_line

__all__ = ["Group", "KeptLayers", "Sensitivity", "choose_kept", "sensitivity"]

Grouping = Literal["layer", "block"]


@dataclass(frozen=True)
class Group:
    """A layer, or all quantised layers of a block, and the error that they cause.

    Attributes:
        name: ``blocks.3.mlp_out``, or ``blocks.3``.
        layers: the names of its layers.
        error: ‖prediction − plain prediction‖₂ / ‖plain prediction‖₂ over all feeds; infinite where it is not finite.
    """

    name: str
    layers: tuple[str, ...]
    error: float


@dataclass(frozen=True)
class Sensitivity:
    """The table, worst first, and the error with all layers quantised together."""

    table: tuple[Group, ...]
    together: float


@dataclass(frozen=True)
class KeptLayers:
    """What :func:`choose_kept` found.

    Attributes:
        layers: to keep in floating point, worst first. All there are where the limit was not reached.
        quality: with these kept.
        limit: what was asked for.
        tried: how many groups were kept → the quality that gave, in the order of trying.
    """

    layers: tuple[str, ...]
    quality: float
    limit: float
    tried: tuple[tuple[int, float], ...]

    @property
    def reached(self) -> bool:
        """Whether the quality is the limit at least."""
        return self.quality >= self.limit

    def __str__(self) -> str:
        kept = f"kept {len(self.layers)} layers" + (f" ({', '.join(self.layers)})" if self.layers else "")
        if self.reached:
            return f"{kept}: quality {self.quality:.4g}, limit {self.limit:.4g}"
        return (
            f"quality {self.quality:.4g} with all {len(self.layers)} layers kept, limit {self.limit:.4g}: quantising "
            "is not what costs it; lower the limit, or look at the rest of the engine's precision"
        )


def sensitivity(
    path: Path,
    scales: Mapping[str, float],
    feeds: Sequence[Mapping[str, NDArray[Any]]],
    *,
    grid: Grid = INT8,
    kept: Collection[str] = (),
    scale_dtype: ir.DataType = ir.DataType.FLOAT,
    by: Grouping = "layer",
    output: str | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Sensitivity:
    """Measure each layer that would be quantised, or each block.

    Args:
        path: the float32 ONNX file, smoothed already where it is to be smoothed.
        scales: layer → the step of its activation's grid, as for quantising.
        feeds: input name → array. A few, from all over the schedule: each is run once a layer and twice more.
        kept: names or glob patterns of layers that are not quantised anyway, and so are not in the table.
        by: a block is all layers whose names agree up to the first number: fewer runs for a large model.
        output: which output to compare; the first by default.
        threads: threads within an operator; ``None`` is one a core.
        progress: called with the runs done and all of them.

    Raises:
        InputError: no feeds, no layers, a scale is missing or out of range, or there is no such output.
        BackendError: ONNX Runtime refuses the graph, or the plain prediction is not finite.
    """
    if by not in get_args(Grouping):
        raise InputError(f"sensitivity: by {by!r} came, expected one of {', '.join(get_args(Grouping))}")
    if not feeds:
        raise InputError("sensitivity: no feeds came, expected at least one evaluation of the denoiser")
    model = load_graph(path)
    outputs = [str(value.name) for value in model.graph.outputs]
    if output is not None and output not in outputs:
        raise InputError(f"sensitivity: output {output!r} came, expected one of {', '.join(outputs)}")
    layers = add_switches(model, grid, scales, kept=kept, scale_dtype=scale_dtype)
    # Folded, the rounded weights of all layers would lie in memory beside the mapped ones.
    session = open_session(path, threads, graph=ir.to_proto(model).SerializeToString(), fuse=False, fold=False)
    del model
    groups = _groups(layers, by)
    tries = [*groups.values(), layers]
    squares, norm, done = np.zeros(len(tries)), 0.0, 0
    name = output or outputs[0]

    def predict(one: Mapping[str, NDArray[Any]], quantized: Collection[str]) -> NDArray[np.float64]:
        nonlocal done
        switches = np.array([layer in quantized for layer in layers])
        try:
            (prediction,) = session.run([name], {**one, SWITCHES: switches})
        except Exception as error:
            raise BackendError(f"ONNX Runtime failed in {path.parent.name}/{path.name}: {first_line(error)}") from error
        done += 1
        if progress is not None:
            progress(done, len(feeds) * (len(tries) + 1))
        return np.asarray(prediction, np.float64)

    for one in feeds:
        plain = predict(one, ())
        check_finite(plain, f"sensitivity: {name} of {path.parent.name} holds")
        norm += float(np.square(plain).sum())
        for index, quantized in enumerate(tries):
            squares[index] += float(np.square(predict(one, quantized) - plain).sum())
    if norm == 0.0:
        raise InputError(
            f"sensitivity: {name} is zero throughout, so no error is relative to it; is the model trained?"
        )
    errors = [math.sqrt(one / norm) if math.isfinite(one) else math.inf for one in squares]
    table = [Group(group, tuple(groups[group]), error) for group, error in zip(groups, errors[:-1], strict=True)]
    return Sensitivity(tuple(sorted(table, key=lambda group: -group.error)), errors[-1])


def choose_kept(table: Sequence[Group], quality: Callable[[tuple[str, ...]], float], limit: float) -> KeptLayers:
    """Keep the worst layers, as few as will do, so that ``quality`` of the rest reaches ``limit``.

    Keeps the first 0, 1, 2, 4, … groups of the table until it holds, then halves the interval in which it began to.
    So a model of n groups is built and judged about 2 · log₂ n times at most, and a neighbour with one group fewer
    was seen to fail.

    Args:
        table: worst first, as :func:`sensitivity` gives it.
        quality: of the model with these layers kept, larger is better, e.g. PSNR in dB. NaN counts as failed.
        limit: the least quality that will do.
    """
    tried: dict[int, float] = {}

    def holds(count: int) -> bool:
        tried[count] = float(quality(_layers(table, count)))
        return tried[count] >= limit

    failed, count = -1, 0
    while not holds(count):
        if count == len(table):
            return KeptLayers(_layers(table, count), tried[count], limit, tuple(tried.items()))
        failed, count = count, min(max(1, 2 * count), len(table))
    while count - failed > 1:
        middle = (count + failed) // 2
        if holds(middle):
            count = middle
        else:
            failed = middle
    return KeptLayers(_layers(table, count), tried[count], limit, tuple(tried.items()))


def _layers(table: Sequence[Group], count: int) -> tuple[str, ...]:
    return tuple(layer for group in table[:count] for layer in group.layers)


def _groups(layers: Sequence[str], by: Grouping) -> dict[str, list[str]]:
    """Return name of the group → its layers. A layer outside any numbered module is a block of its own."""
    groups: dict[str, list[str]] = {}
    for layer in layers:
        block = re.match(r"(?:[^.]+\.)*?\d+(?=\.)", layer) if by == "block" else None
        groups.setdefault(block.group() if block else layer, []).append(layer)
    return groups
