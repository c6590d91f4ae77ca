"""BF16 on a CPU without it: every value as numpy rounds it with ml_dtypes."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir

from dit_deploy.exporters.passes.emulate import emulate_bfloat16
from dit_deploy.exporters.passes.half import to_half
from tests.exporters.passes.graphs import denoiser, feeds, parse, run


def bfloat16(array: np.ndarray) -> np.ndarray:
    return array.astype(ml_dtypes.bfloat16).astype(np.float32)


def test_each_value_is_rounded_as_numpy_rounds_it() -> None:
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
    to_half(model, ir.DataType.BFLOAT16)
    assert emulate_bfloat16(model) > 0
    kept = {node.op_type for node in model.graph if any(value.dtype == ir.DataType.BFLOAT16 for value in node.outputs)}
    assert kept == {"Cast"}  # BF16 only in passing

    x = generator.normal(size=(3, 5, 16)).astype(np.float32)
    product = bfloat16(bfloat16(x) @ bfloat16(weights["first.weight"]))
    total = bfloat16(product + bfloat16(weights["first.bias"]))
    expected = bfloat16(np.maximum(total, 0) @ bfloat16(weights["last.weight"]))
    (found,) = run(model, {"x": x})
    # A product's sum may be taken in another order and then round the other way; unrounded, nearly all would differ.
    assert (found == expected).mean() > 0.95
    assert np.abs(found - expected).max() <= np.abs(expected).max() * 2**-7


def test_a_denoiser_runs_and_differs_from_float32(tiny_bundle: Path) -> None:
    model = denoiser(tiny_bundle)
    inputs = feeds()
    plain = run(model, inputs)[0]
    to_half(model, ir.DataType.BFLOAT16)
    emulate_bfloat16(model)
    found = run(model, inputs)[0]
    difference = float(np.abs(found - plain).max() / np.abs(plain).max())
    assert 2**-10 < difference < 2**-4  # BF16 has eight bits: it is not float32, and not far off
