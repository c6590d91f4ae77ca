"""The loop: what it computes, what it refuses, and that it allocates nothing."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from dit_deploy.errors import InputError
from dit_deploy.sampling import SolverState, SolverTable, solver_table

SHAPE = (2, 3, 4, 5)
CONFIGS: dict[str, dict[str, Any]] = {
    "DDIM": {"_class_name": "DDIMScheduler"},
    "DPM-Solver++": {"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3},
    "UniPC": {"_class_name": "UniPCMultistepScheduler", "solver_order": 3},
    "Heun": {"_class_name": "HeunDiscreteScheduler", "clip_sample": True},
    "PNDM": {"_class_name": "PNDMScheduler"},
    "learned": {"_class_name": "DDPMScheduler", "variance_type": "learned_range"},
}


def inputs(table: SolverTable, row: int, shape: tuple[int, ...] = SHAPE) -> dict[str, np.ndarray | None]:
    random = np.random.RandomState(row)
    prediction, variance, noise = random.standard_normal((3, *shape)).astype(np.float32)
    return {
        "prediction": prediction,
        "variance": variance if table.needs_variance else None,
        "noise": noise if table.uses_noise[row] else None,
    }


def by_definition(table: SolverTable, sample: np.ndarray) -> np.ndarray:
    """The table's module docstring in float64, with no shortcut."""
    sample = sample.astype(np.float64)
    saved, outputs = np.zeros(SHAPE), [np.zeros(SHAPE)] * table.history
    for row in range(len(table)):
        given = {name: np.zeros(SHAPE) if array is None else array for name, array in inputs(table, row).items()}
        output = table.output[row, 0] * sample + table.output[row, 1] * given["prediction"]
        outputs = [np.clip(output, -table.clip[row], table.clip[row]), *outputs][: table.history]
        basis = np.stack([sample, saved, given["prediction"], given["noise"], *outputs])
        sample, saved = np.tensordot(table.sample[row], basis, 1), np.tensordot(table.saved[row], basis, 1)
        if not np.isnan(table.log_variance[row, 0]):
            fraction = (given["variance"] + 1.0) / 2
            logarithm = fraction * table.log_variance[row, 1] + (1 - fraction) * table.log_variance[row, 0]
            sample = sample + np.exp(0.5 * logarithm) * given["noise"]
    return sample


@pytest.mark.parametrize("name", CONFIGS)
def test_the_loop_is_the_definition(name: str) -> None:
    table = solver_table(CONFIGS[name], 12)
    first = np.random.RandomState(99).standard_normal(SHAPE)
    state = SolverState(table, SHAPE)
    for _ in range(2):  # the second run finds the arrays of the first
        state.reset(first)
        for row in range(len(table)):
            state.advance(row, **inputs(table, row))  # type: ignore[arg-type]
        expected = by_definition(table, first)
        assert np.abs(state.sample - expected).max() <= 1e-5 * np.abs(expected).max()


def test_model_input_into_a_given_array() -> None:
    table = solver_table({"_class_name": "EulerDiscreteScheduler"}, 4)
    state = SolverState(table, SHAPE)
    state.reset(np.full(SHAPE, 3.0))
    half = np.empty(SHAPE, np.float16)
    assert state.model_input(0, out=half) is half
    np.testing.assert_allclose(half, 3.0 * table.input_scale[0], rtol=1e-3)
    np.testing.assert_allclose(state.model_input(0), 3.0 * table.input_scale[0], rtol=1e-6)


def test_half_precision_predictions_are_widened() -> None:
    table = solver_table({"_class_name": "EulerDiscreteScheduler"}, 4)
    prediction = np.random.RandomState(0).standard_normal(SHAPE).astype(np.float16)
    results = []
    for array in (prediction, prediction.astype(np.float32)):
        state = SolverState(table, SHAPE)
        state.reset(np.zeros(SHAPE, np.float32))
        results.append(state.advance(0, array).copy())
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_big_is_allocated_in_a_step(name: str) -> None:
    shape = (1, 4, 64, 64)
    table = solver_table(CONFIGS[name], 20)
    state = SolverState(table, shape)
    state.reset(np.zeros(shape, np.float32))
    given = [inputs(table, row, shape) for row in range(len(table))]
    buffer = np.empty(shape, np.float32)
    for row in range(4):
        state.advance(row, **given[row])  # type: ignore[arg-type]
    tracemalloc.start()
    for row in range(4, len(table)):
        state.model_input(row, out=buffer)
        state.advance(row, **given[row])  # type: ignore[arg-type]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < buffer.nbytes / 4


def test_what_advance_refuses() -> None:
    table = solver_table(CONFIGS["learned"], 4)
    state = SolverState(table, SHAPE)
    state.reset(np.zeros(SHAPE, np.float32))
    array = np.zeros(SHAPE, np.float32)
    with pytest.raises(InputError, match="row: 1 came, 0 is next"):
        state.advance(1, array, array, array)
    with pytest.raises(InputError, match="variance: none came"):
        state.advance(0, array, None, array)
    with pytest.raises(InputError, match="noise: none came"):
        state.advance(0, array, array)
    with pytest.raises(InputError, match=r"prediction: shape \(2, 6, 4, 5\) came, \(2, 3, 4, 5\) expected"):
        state.advance(0, np.zeros((2, 6, 4, 5), np.float32), array, array)
    with pytest.raises(InputError, match="sample: shape"):
        state.reset(np.zeros((1, 3, 4, 5), np.float32))
    state.advance(0, array, array, array)
    with pytest.raises(InputError, match="row: 0 came, 1 is next"):
        state.advance(0, array, array, array)
