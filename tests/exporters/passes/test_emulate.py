"""Half precision on a CPU without it: every value as numpy rounds it."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from dit_deploy.exporters.passes.emulate import emulate_half
from dit_deploy.exporters.passes.half import to_half
from tests.exporters.passes.graphs import denoiser, feeds, parse, run, session

NUMPY = {ir.DataType.FLOAT16: np.dtype(np.float16), ir.DataType.BFLOAT16: np.dtype(ml_dtypes.bfloat16)}
BITS = {ir.DataType.FLOAT16: 11, ir.DataType.BFLOAT16: 8}


@pytest.mark.parametrize("dtype", list(NUMPY), ids=["fp16", "bf16"])
@pytest.mark.parametrize("optimized", [False, True])
def test_each_value_is_rounded_as_numpy_rounds_it(dtype: ir.DataType, optimized: bool) -> None:
    def half(array: np.ndarray) -> np.ndarray:
        return array.astype(NUMPY[dtype]).astype(np.float32)

    generator = np.random.default_rng(0)
    weights = {
        "first.weight": generator.normal(size=(16, 24)).astype(np.float32),
        "first.bias": generator.normal(size=24).astype(np.float32),
        "last.weight": generator.normal(size=(24, 8)).astype(np.float32),
    }
    model = parse(
        """layer (float[batch, 5, 16] x) => (float[batch, 5, 8] y) {
            product = MatMul(x, first.weight)
            sum = Add(product, first.bias)
            positive = Relu(sum)
            y = MatMul(positive, last.weight)
        }""",
        weights,
    )
    to_half(model, dtype)
    assert emulate_half(model, dtype) > 0
    kept = {node.op_type for node in model.graph if any(value.dtype == dtype for value in node.outputs)}
    assert kept == {"Cast"}  # only in passing

    x = generator.normal(size=(3, 5, 16)).astype(np.float32)
    product = half(half(x) @ half(weights["first.weight"]))
    total = half(product + half(weights["first.bias"]))
    expected = half(np.maximum(total, 0) @ half(weights["last.weight"]))
    # With ONNX Runtime's own rewriting too: it must not take a rounding for a detour.
    (found,) = session(model, optimized=optimized).run(None, {"x": x})
    # A product's sum may be taken in another order and then round the other way; unrounded, nearly all would differ.
    assert (found == expected).mean() > 0.95
    assert np.abs(found - expected).max() <= np.abs(expected).max() * 2.0 ** (1 - BITS[dtype])


@pytest.mark.parametrize("dtype", list(NUMPY), ids=["fp16", "bf16"])
def test_a_denoiser_runs_and_differs_from_float32(tiny_bundle: Path, dtype: ir.DataType) -> None:
    model = denoiser(tiny_bundle)
    inputs = feeds()
    plain = run(model, inputs)[0]
    to_half(model, dtype)
    emulate_half(model, dtype)
    (found, *_) = session(model, optimized=True).run(None, inputs)
    difference = float(np.abs(found - plain).max() / np.abs(plain).max())
    bits = BITS[dtype]
    assert 2.0 ** -(bits + 2) < difference < 2.0 ** -(bits - 4)  # not float32, and not far off
