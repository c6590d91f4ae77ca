"""Prove that a graph is dynamic: run it against its source at sizes that it was not traced at.

A grid that was baked in silently is the commonest defect of exported transformers, and an exporter
reports success on it. So no graph enters a bundle before it has matched at three other sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from dit_deploy.bundle.manifest import Axis, Component
from dit_deploy.bundle.shapes import shape_of
from dit_deploy.errors import ExportError
from dit_deploy.exporters.tracing import Feeds, call, example_inputs, free_sizes, traced_sizes

__all__ = ["Expectation", "check", "expect"]

#: Largest difference allowed between the graph and its source, relative to the source's largest value, by what the
#: weights are stored as. In float32 sums over some thousand products round differently in the two; a wrong graph is
#: off by 1e-1 and more. 16 bits add the rounding of the weights, half a unit in the last place (2⁻¹² and 2⁻⁹
#: of a weight), which some twenty layers let grow to at most ten times that.
TOLERANCES = {"float32": 1e-4, "float16": 1e-4 + 10 * 2**-12, "bfloat16": 1e-4 + 10 * 2**-9}


@dataclass(frozen=True)
class Expectation:
    """What the source gives at one size: the free sizes, the inputs, and the outputs by name."""

    sizes: dict[str, int]
    feeds: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]


def untraced_sizes(component: Component, typical: dict[str, int]) -> list[dict[str, int]]:
    """Choose three sizes, none of them the traced one: the typical, the smallest with batch 1, and an oblong one."""
    axes, traced = free_sizes(component), traced_sizes(component)

    def fit(axis: Axis, size: int) -> int:
        return max(axis.minimum, min(size, axis.maximum or size))

    def choose(pick: Callable[[int, str], int]) -> dict[str, int]:
        return {name: fit(axis, pick(index, name)) for index, (name, axis) in enumerate(axes.items())}

    candidates = [
        choose(lambda _, name: typical.get(name, 4)),
        choose(lambda _, name: 1),
        choose(lambda index, name: 3 if name == "batch" else 4 + 3 * index),
    ]
    assert all(sizes != traced for sizes in candidates)
    return candidates


def expect(
    source: Callable[..., object], component: Component, typical: dict[str, int], feeds: Feeds | None = None
) -> list[Expectation]:
    """Run ``source`` at the three sizes of :func:`untraced_sizes`; outputs come in the declared order."""
    names = [spec.name for spec in component.outputs]
    expectations = []
    for seed, sizes in enumerate(untraced_sizes(component, typical), start=1):
        arrays = example_inputs(component, sizes, seed, feeds)
        outputs = dict(zip(names, call(source, arrays), strict=True))
        if zeros := [name for name, array in outputs.items() if not array.any()]:
            raise ExportError(
                f"{component.path}: the source's {zeros[0]} is all zeros (untrained adaLN-Zero?): it proves nothing. "
                "Use trained weights, or give the zero parameters small random values"
            )
        expectations.append(Expectation(sizes, arrays, outputs))
    return expectations


def check(path: Path, component: Component, expectations: list[Expectation]) -> float:
    """Run the ONNX file at ``path`` at each size and return the largest relative difference.

    Raises:
        ExportError: the graph does not run at a size, gives another shape, or differs by more than ``TOLERANCES``.
    """
    tolerance = TOLERANCES[component.weights]
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # Packed weights would be a second copy of a large model, for three short runs.
    options.add_session_config_entry("session.disable_prepacking", "1")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    worst = 0.0
    for expectation in expectations:
        sizes = ", ".join(f"{name} {size}" for name, size in expectation.sizes.items())
        try:
            outputs = dict(
                zip(expectation.outputs, session.run(list(expectation.outputs), expectation.feeds), strict=True)
            )
        except Exception as error:
            raise ExportError(
                f"{component.path}: the graph fails at {sizes}: {str(error).splitlines()[0][:300]}"
            ) from error
        for spec in component.outputs:
            found, expected = outputs[spec.name], expectation.outputs[spec.name]
            if found.shape != expected.shape or found.shape != shape_of(spec, expectation.sizes):
                raise ExportError(
                    f"{component.path}: {spec.name} has shape {found.shape} at {sizes}; the source has {expected.shape}"
                )
            difference = float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-12))
            if not difference <= tolerance:
                raise ExportError(
                    f"{component.path}: {spec.name} differs from the source by {difference:.2g} of its largest value "
                    f"at {sizes}; at most {tolerance:.2g} is rounding"
                )
            worst = max(worst, difference)
    return worst
