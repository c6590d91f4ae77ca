"""The form for CPUs: the same integers as Q/DQ, checked by ONNX Runtime with its optimisations off, and by numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dit_deploy.exporters.passes.cpu_integer import to_cpu_integer
from dit_deploy.exporters.passes.int8 import quantize_int8
from dit_deploy.exporters.passes.linear import choose_linears
from tests.exporters.passes.graphs import denoiser, feeds, parse, session


@pytest.mark.parametrize("tokens", [1, 7, 130])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_gives_what_numpy_gives(tokens: int, bias: bool) -> None:
    generator = np.random.default_rng(tokens)
    weight = generator.normal(size=(24, 40)).astype(np.float32)
    weight[:, 3] = 0.0
    offset = generator.normal(size=40).astype(np.float32)
    # The last layer is never quantised: here it passes on what the first one gives.
    weights = {"gain": np.ones(24, np.float32), "first.weight": weight, "last.weight": np.eye(40, dtype=np.float32)}
    if bias:
        weights["first.bias"] = offset
    model = parse(
        f"""layer (float[batch, tokens, 24] x) => (float[batch, tokens, 40] y) {{
            normed = LayerNormalization<axis = -1>(x, gain)
            product = MatMul(normed, first.weight)
            hidden = {"Add(product, first.bias)" if bias else "Identity(product)"}
            positive = Relu(hidden)
            y = MatMul(positive, last.weight)
        }}""",
        weights,
    )
    scale = np.float32(0.021)
    quantize_int8(model, {"first": float(scale)})
    assert to_cpu_integer(model) == 1
    assert [node.op_type for node in model.graph].count("MatMulIntegerToFloat") == 1
    assert "DequantizeLinear" not in [node.op_type for node in model.graph]

    x = generator.normal(size=(2, tokens, 24)).astype(np.float32) * 3
    normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    integers = np.clip(np.rint(normed / scale), -128, 127)
    steps = np.where(np.abs(weight).max(0) > 0, np.abs(weight).max(0) / np.float32(127), 1.0)
    expected = (integers @ np.rint(weight / steps)) * (scale * steps) + (offset if bias else 0)
    (found,) = session(model, optimized=True).run(None, {"x": x})
    # An activation that lies between two integers may round either way: one step of one product, at most.
    assert np.abs(found - np.maximum(expected, 0)).max() <= np.abs(weight).max() * scale * 1.01


def test_every_integer_is_that_of_the_explicit_form(tiny_bundle: Path) -> None:
    model = denoiser(tiny_bundle)
    chosen = choose_linears(model.graph).chosen
    quantize_int8(model, {linear.name: 0.04 for linear in chosen})
    explicit = session(model)
    assert to_cpu_integer(model) == len(chosen) == 12
    integer = session(model, optimized=True)
    for height, width in ((16, 16), (4, 20)):
        inputs = feeds(height=height, width=width)
        for one, other in zip(explicit.run(None, inputs), integer.run(None, inputs), strict=True):
            # Products of dequantised values are rounded in float32, those of integers are exact.
            assert np.abs(one - other).max() <= 1e-4 * np.abs(one).max()


def test_what_is_not_quantised_stays(tiny_bundle: Path) -> None:
    model = denoiser(tiny_bundle)
    before = [node.op_type for node in model.graph]
    assert to_cpu_integer(model) == 0
    assert [node.op_type for node in model.graph] == before
    assert "com.microsoft" not in model.graph.opset_imports
