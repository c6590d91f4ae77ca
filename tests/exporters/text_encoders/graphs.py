"""Trace a text encoder's graph and hold the file, run by ONNX Runtime alone, against transformers at many sizes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import nn

from dit_deploy.exporters.source import Graph
from dit_deploy.exporters.tracing import call, example_inputs, trace, traced_sizes

__all__ = ["largest_difference", "randomise", "traced"]


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give norms and biases, which a new model has at 0 and 1, other values, so that leaving one out would be seen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def traced(graph: Graph, folder: Path) -> Path:
    """Trace ``graph`` and return the file."""
    trace(graph.build(), graph.component, folder, graph.feeds)
    return folder / graph.component.path


def largest_difference(graph: Graph, file: Path, sizes: Iterable[tuple[int, int]]) -> float:
    """Return the largest difference from the reference, relative to its largest value, over (batch, length) ``sizes``.

    None of the sizes is the traced one.
    """
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    assert graph.reference is not None
    reference = graph.reference()
    worst = 0.0
    for seed, (batch, length) in enumerate(sizes, start=1):
        free = {"batch": batch, "sequence_length": length}
        assert free != traced_sizes(graph.component)
        feeds = example_inputs(graph.component, free, seed, graph.feeds)
        found = session.run(None, feeds)
        for spec, one, expected in zip(graph.component.outputs, found, call(reference, feeds), strict=True):
            assert one.shape == expected.shape, (spec.name, free)
            assert expected.any()
            worst = max(worst, float(np.abs(one - expected).max() / np.abs(expected).max()))
    return worst


def operators(file: Path) -> list[str]:
    """Return the operators of a graph, in order."""
    return [node.op_type for node in onnx.load(file, load_external_data=False).graph.node]


def initializers(file: Path) -> set[str]:
    """Return the names of a graph's weights."""
    return {tensor.name for tensor in onnx.load(file, load_external_data=False).graph.initializer}
