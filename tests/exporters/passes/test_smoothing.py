"""Smoothing changes nothing but where the outliers are, and what an 8-bit grid then costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dit_deploy.errors import InputError
from dit_deploy.exporters.passes.int8 import quantize_int8
from dit_deploy.exporters.passes.linear import find_linears
from dit_deploy.exporters.passes.smoothing import smooth
from dit_deploy.exporters.passes.storage import store_weights
from tests.exporters.passes.graphs import denoiser, feeds, parse, run

HIDDEN = 72  # of the tiny bundle
PLANTED = 5  # channel of the outliers


def set_weight(model: ir.Model, name: str, array: np.ndarray) -> None:
    model.graph.initializers[name].const_value = ir.Tensor(array, name=name)


@pytest.fixture
def planted(tiny_bundle: Path) -> ir.Model:
    """The tiny denoiser with one channel far above the rest in what q, k, v, mlp_in and to_out read."""
    model = denoiser(tiny_bundle)
    arrays = {name: value.const_value.numpy().copy() for name, value in model.graph.initializers.items()}
    for block in ("blocks.0", "blocks.1"):
        bias = arrays[f"{block}.modulation.bias"].copy()
        bias[[HIDDEN + PLANTED, 4 * HIDDEN + PLANTED]] = 60.0  # the scales of attention and of the MLP
        bias[[PLANTED, 3 * HIDDEN + PLANTED]] = -15.0  # and the shifts
        set_weight(model, f"{block}.modulation.bias", bias)
        for name, axis in (("to_q", 0), ("to_k", 0), ("to_v", 0), ("mlp_in", 0), ("to_out", 0)):
            weight = arrays[f"{block}.{name}.weight"].copy()
            weight[(slice(None),) * axis + (PLANTED,)] /= 50.0  # so that the network stays as tame as it was
            if name == "to_v":
                weight[:, PLANTED] *= 50.0
            set_weight(model, f"{block}.{name}.weight", weight)
    return model


def channel_maxima(model: ir.Model, inputs: dict[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    linears = [linear for linear in find_linears(model.graph) if not linear.activation.is_graph_input()]
    names = list(dict.fromkeys(str(linear.activation.name) for linear in linears))
    outputs = run(model, feeds() if inputs is None else inputs, *names)[-len(names) :]
    rows = {name: array.reshape(-1, array.shape[-1]) for name, array in zip(names, outputs, strict=True)}
    maxima = {name: np.abs(array).max(axis=0) for name, array in rows.items()}
    return {linear.name: maxima[str(linear.activation.name)] for linear in linears}


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def int8_error(model: ir.Model, expected: np.ndarray) -> float:
    """Quantise ``model`` with the scales of the largest values, and say how far its prediction then is."""
    quantize_int8(model, {name: float(array.max()) / 127 for name, array in channel_maxima(model).items()})
    return distance(run(model, feeds())[0], expected)


def test_the_graph_computes_the_same_and_its_outliers_shrink(planted: ir.Model) -> None:
    before, maxima = run(planted, feeds()), channel_maxima(planted)
    nodes = [node.op_type for node in planted.graph]

    smoothing = smooth(planted, maxima)

    assert [node.op_type for node in planted.graph] == nodes  # it costs nothing
    for found, expected in zip(run(planted, feeds()), before, strict=True):
        assert distance(found, expected) < 1e-5
    assert [(one.layers, one.into) for one in smoothing.folded] == [
        (tuple(f"blocks.{index}.{name}" for name in layers), f"blocks.{index}.{into}")
        for index in range(2)
        for layers, into in (
            (("to_q", "to_k", "to_v"), "modulation"),
            (("to_out",), "to_v"),
            (("mlp_in",), "modulation"),
        )
    ]
    assert list(smoothing.left) == ["blocks.0.mlp_out", "blocks.1.mlp_out"]
    assert "cannot be folded into the Gelu" in smoothing.left["blocks.0.mlp_out"]
    after = channel_maxima(planted)
    for one in smoothing.folded:
        for name in one.layers:
            np.testing.assert_allclose(after[name], maxima[name] / one.factors, rtol=1e-3, atol=1e-5)
            spread, smoothed = (array[name].max() / np.median(array[name]) for array in (maxima, after))
            assert spread > 10 and smoothed < spread / 3, name
    np.testing.assert_array_equal(after["final_linear"].shape, maxima["final_linear"].shape)
    np.testing.assert_allclose(after["final_linear"], maxima["final_linear"], rtol=1e-3)


@pytest.mark.parametrize("alpha", [0.3, 0.5, 1.0])
def test_factors_are_the_papers(planted: ir.Model, alpha: float) -> None:
    weights = {linear.name: linear.array().copy() for linear in find_linears(planted.graph)}
    maxima = channel_maxima(planted)
    (qkv, to_out, mlp_in), _ = np.array_split(np.array(smooth(planted, maxima, alpha).folded, object), 2)
    np.testing.assert_allclose(
        mlp_in.factors,
        maxima["blocks.0.mlp_in"] ** alpha / np.abs(weights["blocks.0.mlp_in"]).max(axis=1) ** (1 - alpha),
        rtol=1e-5,
    )
    assert to_out.layers == ("blocks.0.to_out",)
    # One for q, k and v, from the largest of their rows; to_v's are those after the fold of to_out.
    rows = [weights["blocks.0.to_q"], weights["blocks.0.to_k"], weights["blocks.0.to_v"] / to_out.factors]
    largest = np.max([np.abs(array).max(axis=1) for array in rows], axis=0)
    np.testing.assert_allclose(qkv.factors, maxima["blocks.0.to_q"] ** alpha / largest ** (1 - alpha), rtol=1e-5)


def test_int8_is_nearer_after_smoothing(tiny_bundle: Path, planted: ir.Model) -> None:
    expected = run(planted, feeds())[0]
    plain = int8_error(planted.clone(), expected)
    smooth(planted, channel_maxima(planted))
    assert int8_error(planted, expected) < plain / 2


def test_weights_in_16_bits_are_not_rounded_again(planted: ir.Model) -> None:
    store_weights(planted.graph, ir.DataType.FLOAT16, 1024)
    before, maxima = run(planted, feeds())[0], channel_maxima(planted)
    assert len(smooth(planted, maxima).folded) == 6
    assert distance(run(planted, feeds())[0], before) < 1e-5
    kinds = {name: value.dtype for name, value in planted.graph.initializers.items()}
    assert kinds["blocks.0.modulation.weight"] == kinds["blocks.0.to_q.weight"] == ir.DataType.FLOAT
    assert kinds["blocks.0.mlp_out.weight"] == kinds["final_linear.weight"] == ir.DataType.FLOAT16


def test_a_layer_that_stays_in_float_changes_only_with_one_that_does_not(planted: ir.Model) -> None:
    before, maxima = run(planted, feeds())[0], channel_maxima(planted)
    weights = {linear.name: linear.array().copy() for linear in find_linears(planted.graph)}
    smoothing = smooth(planted, maxima, kept=("blocks.0.to_q", "blocks.0.mlp_in", "blocks.1.*"))
    assert [one.layers for one in smoothing.folded] == [
        ("blocks.0.to_q", "blocks.0.to_k", "blocks.0.to_v"),
        ("blocks.0.to_out",),
    ]
    assert distance(run(planted, feeds())[0], before) < 1e-5
    for linear in find_linears(planted.graph):
        changed = linear.name.startswith("blocks.0.") and not linear.name.startswith("blocks.0.mlp")
        assert np.array_equal(linear.array(), weights[linear.name]) != changed, linear.name


BLOCKS = {
    # Operands the other way round, a scale that comes first, a modulation with three axes.
    "adaLN": """
        steer = MatMul(condition, steer.weight)
        modulation = Add(steer.bias, steer)
        scale, shift, gate = Split<axis = 2, num_outputs = 3>(modulation)
        one_plus = Add(one, scale)
        normal = LayerNormalization(x, ones)
        scaled = Mul(one_plus, normal)
        states = Add(shift, scaled)
        gated = Mul(gate, states_out)
        """,
    "LayerNormalization": "states = LayerNormalization(x, norm.weight, norm.bias)\n gated = Identity(states_out)",
    "RMSNormalization": "states = RMSNormalization(x, norm.weight)\n gated = Identity(states_out)",
}
ATTENTION = """
    q = MatMul(states, q.weight)
    k = MatMul(states, k.weight)
    v = MatMul(states, v.weight)
    keys = Transpose<perm = [0, 2, 1]>(k)
    scores = MatMul(q, keys)
    weights = Softmax<axis = 2>(scores)
    attended = MatMul(weights, v)
    states_out = MatMul(attended, out.weight)
    """


def block(
    kind: str, tail: str = "residual = Add(x, gated)\n y = MatMul(residual, head.weight)", **more: object
) -> ir.Model:
    generator = np.random.default_rng(0)
    shapes = {
        "steer.weight": (4, 24),
        "steer.bias": (24,),
        "norm.weight": (8,),
        "norm.bias": (8,),
        "head.weight": (8, 3),
    }
    shapes |= {f"{name}.weight": (8, 8) for name in "qkv"} | {"out.weight": (8, 8)}
    text = BLOCKS[kind].replace("gated =", ATTENTION + "gated =")
    weights = {
        name: generator.standard_normal(shape, np.float32) for name, shape in shapes.items() if name in text + tail
    }
    weights |= {"one": np.float32(1), "ones": np.ones(8, np.float32)} if kind == "adaLN" else {}
    inputs = "float[batch, tokens, 8] x" + (", float[batch, 1, 4] condition" if kind == "adaLN" else "")
    return parse(f"block ({inputs}) => (float[batch, tokens, 3] y) {{ {text}\n{tail} }}", weights)


def block_inputs(kind: str) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    inputs = {"x": generator.standard_normal((2, 6, 8), np.float32) * np.float32([1, 1, 30, 1, 1, 1, 1, 1])}
    return inputs | ({"condition": generator.standard_normal((2, 1, 4), np.float32)} if kind == "adaLN" else {})


@pytest.mark.parametrize("kind", list(BLOCKS))
def test_other_forms_of_the_patterns(kind: str) -> None:
    model, inputs = block(kind), block_inputs(kind)
    (before,) = run(model, inputs)
    maxima = channel_maxima(model, inputs)
    smoothing = smooth(model, maxima)
    assert [one.layers for one in smoothing.folded] == [("q", "k", "v"), ("out",)]
    assert smoothing.folded[1].into == "v" and not smoothing.left
    assert distance(run(model, inputs)[0], before) < 1e-5
    after = channel_maxima(model, inputs)
    for one in smoothing.folded:
        np.testing.assert_allclose(after[one.layers[0]], maxima[one.layers[0]] / one.factors, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "tail", "why"),
    [
        ("adaLN", "extra = MatMul(condition, steer.weight)", "the weight or bias of steer serves another node too"),
        ("adaLN", "extra = Neg(scale)", "the division cannot be folded into the Add that gives states"),
        ("adaLN", "extra = Neg(modulation)", "the division cannot be folded into the Add that gives states"),
        ("adaLN", "extra = Neg(states)", "states is read by more than linear layers"),
        ("RMSNormalization", "extra = Transpose(k.weight)", "the weight of k serves another node too"),
    ],
)
def test_what_others_read_is_left_alone(kind: str, tail: str, why: str) -> None:
    """And the rest of the graph gets the same values as before."""
    tail += "\n sum = ReduceSum<keepdims = 0>(extra)\n s = Add(x, sum)\n r = Add(s, gated)\n y = MatMul(r, head.weight)"
    model, inputs = block(kind, tail), block_inputs(kind)
    (before,) = run(model, inputs)
    smoothing = smooth(model, channel_maxima(model, inputs))
    assert smoothing.left == dict.fromkeys("qkv", why)
    assert distance(run(model, inputs)[0], before) < 1e-5


def test_values_of_attention_that_others_read_are_left_alone() -> None:
    tail = "sum = Add(v, gated)\n residual = Add(x, sum)\n y = MatMul(residual, head.weight)"
    model, inputs = block("RMSNormalization", tail), block_inputs("RMSNormalization")
    (before,) = run(model, inputs)
    smoothing = smooth(model, channel_maxima(model, inputs))
    assert smoothing.left == {
        "out": "the values of attention are not the output of one linear layer, for attention alone"
    }
    assert distance(run(model, inputs)[0], before) < 1e-5


def test_dead_channels_stay() -> None:
    """The factor of a channel that was always zero is 1, and that of one that was nearly so is not extreme."""
    model, inputs = block("LayerNormalization"), block_inputs("LayerNormalization")
    maxima = channel_maxima(model, inputs)
    maxima["q"][0], maxima["q"][3] = 0.0, 1e-30
    factors = smooth(model, dict.fromkeys("qkv", maxima["q"])).folded[0].factors
    assert factors[0] == 1.0 and np.isfinite(factors).all() and factors[3] > 1e-3
    assert np.isfinite(run(model, inputs)[0]).all()


@pytest.mark.parametrize(
    ("maxima", "alpha", "kept", "message"),
    [
        ({}, 1.5, (), "alpha: 1.5 came, expected a number from 0 to 1"),
        ({"q": np.ones(7)}, 0.5, (), r"channel_maxima: q has an array of shape \(7,\), expected 8 finite numbers"),
        ({"q": np.full(8, np.nan)}, 0.5, (), "channel_maxima: q has an array of shape"),
        ({}, 0.5, ("blocks",), "keep: 'blocks' matches no linear layer"),
    ],
)
def test_bad_arguments_are_named(
    maxima: dict[str, np.ndarray], alpha: float, kept: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        smooth(block("LayerNormalization"), maxima, alpha, kept=kept)


def test_layers_without_maxima_are_left() -> None:
    smoothing = smooth(block("LayerNormalization"), {})
    assert not smoothing.folded
    assert smoothing.left == dict.fromkeys(["q", "k", "v", "out"], "no channel maxima were given")
