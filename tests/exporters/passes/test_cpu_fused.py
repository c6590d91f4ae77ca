"""The fused form: what is found in a graph, and that it computes what explicit Q/DQ computes on ONNX Runtime alone."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from dit_deploy.errors import InputError
from dit_deploy.exporters.passes.cpu_fused import DOMAIN, lower_fused
from dit_deploy.exporters.passes.graph_file import check_types, load_graph, save_graph
from dit_deploy.exporters.passes.int8 import quantize_int8
from dit_deploy.exporters.passes.linear import choose_linears
from dit_deploy.runtimes import cpu_ops
from tests.exporters.passes.graphs import denoiser, feeds, parse, run
from tests.exporters.passes.graphs import session as plain_session
from tests.runtimes.cpu_ops.operators import session

pytestmark = pytest.mark.skipif(bool(cpu_ops.cannot_build()), reason=cpu_ops.cannot_build())


def _open(model: ir.Model, path: Path) -> onnxruntime.InferenceSession:
    save_graph(model, path)
    return session(path, cpu_ops.build())


def _count(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def _steps(bundle: Path, values: dict[str, np.ndarray]) -> dict[str, float]:
    """Return a step for each layer that would be quantised: the largest value that it reads in one pass, over 127."""
    model = denoiser(bundle)
    chosen = choose_linears(model.graph).chosen
    found = run(model, values, *[linear.activation.name or "" for linear in chosen])[-len(chosen) :]
    return {linear.name: float(np.abs(one).max() / 127) for linear, one in zip(chosen, found, strict=True)}


def test_every_part_of_a_block_is_fused(tiny_bundle: Path) -> None:
    model = denoiser(tiny_bundle)
    blocks = sum(linear.name.endswith("to_q") for linear in choose_linears(model.graph).chosen)
    lower_fused(model, _steps(tiny_bundle, feeds()))
    count = _count(model)
    assert blocks == 2
    assert count["LayerNormQuantize"] == count["QuantizedLinearGated"] == 2 * blocks
    assert count["QuantizedLinearBfloat16"] == count["FlashAttentionQuantize"] == blocks  # q, k and v in one product
    assert count["QuantizedLinearQuantize"] == blocks
    assert count["WeightOnlyLinear"] == blocks + 1  # and the final layer's modulation
    assert not {"Attention", "MultiHeadAttention", "Gelu", "QuantizeLinear", "QuantizedLinear"} & set(count)
    check_types(model)


@pytest.mark.parametrize("tokens", [(4, 4), (16, 16), (20, 28), (4, 12)])
def test_computes_what_explicit_rounding_computes(tokens: tuple[int, int], tiny_bundle: Path, tmp_path: Path) -> None:
    """At several sizes of one graph, against Q/DQ run by ONNX Runtime's own kernels with nothing fused."""
    values = feeds(height=tokens[0], width=tokens[1])
    steps = _steps(tiny_bundle, feeds())
    explicit, fused = denoiser(tiny_bundle), denoiser(tiny_bundle)
    quantize_int8(explicit, steps)
    lower_fused(fused, steps)
    expected = plain_session(explicit).run(None, values)[0]
    found = _open(fused, tmp_path / "fused.onnx").run(None, values)[0]
    exact = run(denoiser(tiny_bundle), values)[0]
    # What a value near the middle of two integers rounds to differs, so the two are compared as both with float32:
    # the difference of two right answers is of the size of either's own error.
    error, difference = (float(np.sqrt(np.mean((one - expected) ** 2))) for one in (exact, found))
    assert 0 < difference < error
    assert np.sqrt(np.mean((found - exact) ** 2)) < 1.2 * error
    assert error < 0.05 * np.abs(exact).max()


def test_layers_that_are_kept_stay_float(tiny_bundle: Path, tmp_path: Path) -> None:
    values, steps = feeds(), _steps(tiny_bundle, feeds())
    model = denoiser(tiny_bundle)
    kept = ["blocks.0.*", "blocks.1.to_q", "blocks.1.mlp_out"]
    names = [linear.name for linear in choose_linears(model.graph).chosen]
    assert {"blocks.1.to_q", "blocks.1.mlp_out"} < set(names)
    lower_fused(model, {name: steps[name] for name in names}, kept)
    count = _count(model)
    # Without its query, block 1's attention is float, and so are the outputs of its key and value.
    assert count["MultiHeadAttention"] == 2 and count["QuantizedLinear"] == 3 and count["Gelu"] == 2
    assert count["QuantizedLinearGated"] == 1 and count["LayerNormQuantize"] == 2
    assert count["QuantizeLinear"] == 1  # of block 1's attention, for to_out
    check_types(model)
    found = _open(model, tmp_path / "kept.onnx").run(None, values)[0]
    exact = run(denoiser(tiny_bundle), values)[0]
    assert 0 < np.abs(found - exact).max() < 0.05 * np.abs(exact).max()


def test_everything_kept_is_the_graph_itself(tiny_bundle: Path, tmp_path: Path) -> None:
    model = denoiser(tiny_bundle)
    lower_fused(model, {}, ["*"])
    assert all(node.domain != DOMAIN for node in model.graph)
    for found, exact in zip(
        _open(model, tmp_path / "same.onnx").run(None, feeds()), run(denoiser(tiny_bundle), feeds()), strict=True
    ):
        np.testing.assert_allclose(found, exact, atol=2e-5)


def test_a_missing_scale_and_a_mistyped_name_are_refused(tiny_bundle: Path) -> None:
    steps = _steps(tiny_bundle, feeds())
    del steps["blocks.1.mlp_in"]
    with pytest.raises(InputError, match=r"none for blocks\.1\.mlp_in"):
        lower_fused(denoiser(tiny_bundle), steps)
    with pytest.raises(InputError, match=r"'blocks\.9\.\*' matches no linear layer"):
        lower_fused(denoiser(tiny_bundle), steps, ["blocks.9.*"])


@pytest.mark.parametrize(
    ("gelu", "gate"),
    [("Gelu(first)", "Identity(second)"), ('Gelu<approximate = "tanh">(first)', "Mul(second, gain_out)")],
)
def test_other_surroundings_stay_ordinary_nodes(gelu: str, gate: str, tmp_path: Path) -> None:
    """A learned normalisation, an activation that is read twice, a gate that is no row of a sample."""
    random = np.random.default_rng(0)
    weights = {
        "gamma": random.normal(size=24).astype(np.float32),
        "beta": random.normal(size=24).astype(np.float32),
        "gain_out": random.normal(size=36).astype(np.float32),
        "first.weight": random.normal(size=(24, 52)).astype(np.float32) / 5,
        "second.weight": random.normal(size=(52, 36)).astype(np.float32) / 7,
        "last.weight": np.eye(36, dtype=np.float32),
        "aside.weight": np.eye(52, dtype=np.float32),
    }
    text = f"""layer (float[batch, tokens, 24] x) => (float[batch, tokens, 36] y, float[batch, tokens, 52] seen) {{
        normed = LayerNormalization<axis = -1>(x, gamma, beta)
        first = MatMul(normed, first.weight)
        hidden = {gelu}
        seen = MatMul(hidden, aside.weight)
        second = MatMul(hidden, second.weight)
        gated = {gate}
        y = MatMul(gated, last.weight)
    }}"""
    steps = {"first": 0.03, "second": 0.02}
    fused, explicit = parse(text, weights), parse(text, weights)
    lower_fused(fused, steps)
    quantize_int8(explicit, steps)
    count = _count(fused)
    assert count["LayerNormQuantize"] == 1 and count["QuantizedLinear"] == 2 and count["QuantizeLinear"] == 1
    x = random.normal(size=(2, 77, 24)).astype(np.float32)
    found = _open(fused, tmp_path / "layer.onnx").run(None, {"x": x})
    for one, expected in zip(found, plain_session(explicit).run(None, {"x": x}), strict=True):
        assert np.sqrt(np.mean((one - expected) ** 2)) < 2e-3 * np.abs(expected).max()  # a few values round otherwise


def test_two_threads_at_two_sizes_share_a_session(tiny_bundle: Path, tmp_path: Path) -> None:
    model = denoiser(tiny_bundle)
    lower_fused(model, _steps(tiny_bundle, feeds()))
    opened = _open(model, tmp_path / "fused.onnx")
    inputs = [feeds(1, 2, 16, 16), feeds(2, 3, 24, 8)]
    expected = [opened.run(None, one)[0] for one in inputs]
    wrong = []

    def work(which: int) -> None:
        for _ in range(10):
            if not np.array_equal(opened.run(None, inputs[which])[0], expected[which]):
                wrong.append(which)

    threads = [threading.Thread(target=work, args=(which,)) for which in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_file_holds_bytes_instead_of_floats(tiny_bundle: Path, tmp_path: Path) -> None:
    model = denoiser(tiny_bundle)
    chosen = choose_linears(model.graph).chosen
    names = [linear.weight.name for linear in chosen]
    lower_fused(model, _steps(tiny_bundle, feeds()))
    save_graph(model, tmp_path / "fused.onnx")
    stored = load_graph(tmp_path / "fused.onnx").graph.initializers
    assert not set(names) & set(stored)
    merged = stored["blocks.0.to_q.merged.weight.int8"]
    assert merged.dtype == ir.DataType.INT8 and merged.shape is not None
    assert int(merged.shape[1]) == 3 * int(merged.shape[0])  # type: ignore[call-overload]
