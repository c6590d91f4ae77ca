"""A graph with switches: all off it is the plain one, any of them on it is the quantised one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dit_deploy.errors import InputError
from dit_deploy.exporters.passes.fp8 import FP8
from dit_deploy.exporters.passes.int8 import INT8
from dit_deploy.exporters.passes.linear import find_linears
from dit_deploy.exporters.passes.qdq import Grid, insert_qdq
from dit_deploy.exporters.passes.storage import store_weights
from dit_deploy.exporters.passes.switches import SWITCHES, add_switches
from tests.exporters.passes.graphs import denoiser, feeds, parse, run


@pytest.mark.parametrize("grid", [INT8, FP8], ids=["int8", "fp8"])
@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT, ir.DataType.FLOAT16])
@pytest.mark.parametrize("stored", [ir.DataType.FLOAT, ir.DataType.FLOAT16])
def test_any_choice_of_layers(tiny_bundle: Path, grid: Grid, dtype: ir.DataType, stored: ir.DataType) -> None:
    """For each the graph gives, bit for bit, what the pass for engines gives when it keeps the others."""

    def model() -> ir.Model:
        model = denoiser(tiny_bundle)
        if stored != ir.DataType.FLOAT:
            store_weights(model.graph, stored, 1024)
        return model

    scales = {linear.name: 5 / grid.maximum for linear in find_linears(model().graph)}
    switched = model()
    layers = add_switches(switched, grid, scales, scale_dtype=dtype, kept=("blocks.1.to_k",))
    assert len(layers) == 11 and "blocks.1.to_k" not in layers
    for on in ((), ("blocks.0.to_v", "blocks.1.mlp_in"), layers):
        expected = model()
        insert_qdq(
            expected,
            grid,
            scales,
            scale_dtype=dtype,
            kept={linear.name for linear in find_linears(expected.graph)} - set(on),
        )
        flags = np.array([layer in on for layer in layers])
        for found, wanted in zip(run(switched, {**feeds(), SWITCHES: flags}), run(expected, feeds()), strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_nothing_to_quantise_is_said_and_nothing_changed() -> None:
    model = parse(
        "g (float[2, 3, 8] x) => (float[2, 3, 4] y) { n = LayerNormalization(x, n.weight)\n y = MatMul(n, a.weight) }",
        {"n.weight": np.ones(8, np.float32), "a.weight": np.eye(8, 4, dtype=np.float32)},
    )
    with pytest.raises(InputError, match="no linear layer is left to quantise; name fewer in kept"):
        add_switches(model, INT8, {"a": 1.0})
    assert [value.name for value in model.graph.inputs] == ["x"] and "a.weight.scale" not in model.graph.initializers
