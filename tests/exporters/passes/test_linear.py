"""Linear layers are found with their weights and biases, and the right ones are chosen for a low precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dit_deploy.errors import InputError
from dit_deploy.exporters.passes.linear import choose_linears, find_linears
from dit_deploy.exporters.passes.storage import store_weights
from tests.exporters.passes.graphs import denoiser, feeds, parse, run

BLOCK = ("to_q", "to_k", "to_v", "to_out", "mlp_in", "mlp_out")

#: A family unlike DiT: text projected twice, token states embedded by a linear layer, cross-attention, a bias
#: on the left of its Add, a layer without one, and no module called a block.
OTHER = """
other (float[batch, tokens, 8] hidden_states, float[batch, words, 6] encoder_hidden_states, float[batch, 4] pooled)
    => (float[batch, tokens, 5] prediction) {
    embedded = MatMul(hidden_states, x.embed.weight)
    words_in = MatMul(encoder_hidden_states, caption.first.weight)
    words_act = Gelu(words_in)
    words_out = MatMul(words_act, caption.second.weight)
    conditioned = Gemm<transB = 1>(pooled, condition.weight, condition.bias)
    steering = Unsqueeze(conditioned, axis)
    normal = LayerNormalization(embedded, norm.weight)
    steered = Mul(normal, steering)
    query_product = MatMul(steered, cross.query.weight)
    query = Add(cross.query.bias, query_product)
    key = MatMul(words_out, cross.key.weight)
    value = MatMul(words_out, cross.value.weight)
    attended = Attention<q_num_heads = 2, kv_num_heads = 2>(query, key, value)
    product = MatMul(attended, cross.out.weight)
    states = Add(embedded, product)
    normal_2 = LayerNormalization(states, norm.weight)
    projected = MatMul(normal_2, head.weight)
    prediction = Neg(projected)
}
"""


@pytest.fixture
def other() -> ir.Model:
    generator = np.random.default_rng(0)
    shapes = {
        "x.embed.weight": (8, 12),
        "caption.first.weight": (6, 10),
        "caption.second.weight": (10, 12),
        "condition.weight": (12, 4),
        "condition.bias": (12,),
        "cross.query.weight": (12, 12),
        "cross.query.bias": (12,),
        "cross.key.weight": (12, 12),
        "cross.value.weight": (12, 12),
        "cross.out.weight": (12, 12),
        "head.weight": (12, 5),
    }
    weights = {name: generator.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    weights |= {"norm.weight": np.ones(12, np.float32), "axis": np.array([1])}
    return parse(OTHER, weights)


def test_every_layer_of_a_bundle_is_found_and_those_of_blocks_are_chosen(tiny_bundle: Path) -> None:
    graph = denoiser(tiny_bundle).graph
    linears = {linear.name: linear for linear in find_linears(graph)}
    in_blocks = [f"blocks.{index}.{name}" for index in range(2) for name in BLOCK]
    others = ["embedders.0.timestep_in", "embedders.0.timestep_out", "final_modulation", "final_linear"]
    assert sorted(linears) == sorted([*in_blocks, *others, "blocks.0.modulation", "blocks.1.modulation"])
    choice = choose_linears(graph)
    assert sorted(linear.name for linear in choice.chosen) == sorted(in_blocks)
    assert set(choice.kept) == set(linears) - set(in_blocks)
    assert choice.kept["final_linear"] == "the last layer"
    assert choice.kept["blocks.1.modulation"].startswith("one row a sample")


def test_a_layer_is_what_its_parts_say(tiny_bundle: Path) -> None:
    """activation @ weight + bias, by numpy from the layer's own parts, is its output in ONNX Runtime."""
    model = denoiser(tiny_bundle)
    linears = find_linears(model.graph)
    names = [str(value.name) for linear in linears for value in (linear.activation, linear.output)]
    arrays = dict(zip(dict.fromkeys(names), run(model, feeds(), *dict.fromkeys(names))[2:], strict=True))
    for linear in linears:
        weight = linear.array()
        assert weight.shape == (linear.in_features, linear.out_features)
        assert linear.bias is not None and linear.bias.const_value is not None
        expected = arrays[str(linear.activation.name)] @ weight + linear.bias.const_value.numpy()
        np.testing.assert_allclose(arrays[str(linear.output.name)], expected, atol=1e-4, rtol=1e-4)


def test_weights_in_16_bits_are_seen_through_their_cast(tiny_bundle: Path) -> None:
    model = denoiser(tiny_bundle)
    before = {linear.name: linear for linear in find_linears(model.graph)}
    arrays = {name: linear.array() for name, linear in before.items()}
    store_weights(model.graph, ir.DataType.FLOAT16, 1024)
    after = {linear.name: linear for linear in find_linears(model.graph)}
    assert list(after) == list(before)
    assert [linear.name for linear in choose_linears(model.graph).chosen] == [
        name for name in before if name.startswith("blocks.") and "modulation" not in name
    ]
    for name, linear in after.items():
        assert linear.weight.dtype == ir.DataType.FLOAT16 and linear.bias is not None, name
        assert linear.array().dtype == np.float32
        np.testing.assert_array_equal(linear.array(), arrays[name].astype(np.float16).astype(np.float32))


def test_the_choice_holds_for_another_family(other: ir.Model) -> None:
    choice = choose_linears(other.graph)
    assert [linear.name for linear in choice.chosen] == ["cross.query", "cross.key", "cross.value", "cross.out"]
    assert {name: why.split(":")[0] for name, why in choice.kept.items()} == {
        "x.embed": "an embedder",
        "caption.first": "an embedder",
        "caption.second": "an embedder",
        "condition": "one row a sample",
        "head": "the last layer",
    }
    bias = {linear.name: linear.bias and linear.bias.name for linear in find_linears(other.graph)}
    assert bias["cross.query"] == "cross.query.bias" and bias["cross.key"] is None
    assert bias["cross.out"] is None  # its Add is the residual


def test_patterns_keep_layers_and_a_mistyped_one_is_named(tiny_bundle: Path) -> None:
    graph = denoiser(tiny_bundle).graph
    choice = choose_linears(graph, keep=("blocks.0.*", "*.mlp_out"))
    assert [linear.name for linear in choice.chosen] == [f"blocks.1.{name}" for name in BLOCK if name != "mlp_out"]
    assert choice.kept["blocks.1.mlp_out"] == "asked for by *.mlp_out"
    with pytest.raises(InputError, match=r"keep: 'block\.0' matches no linear layer of the graph; it has "):
        choose_linears(graph, keep=("block.0",))


def test_products_of_two_activations_and_scaled_gemms_are_no_layers() -> None:
    weights = {"weight": np.ones((4, 4), np.float32), "other.weight": np.ones((4, 4), np.float32)}
    graph = parse(
        """
        products (float[2, 3, 4] x, float[2, 4, 4] y, float[3, 4] z)
            => (float[2, 3, 4] a, float[3, 4] b, float[3, 4] c) {
            a = MatMul(x, y)
            b = Gemm<alpha = 0.5>(z, weight)
            c = Gemm(z, other.weight)
        }
        """,
        weights,
    ).graph
    assert [linear.name for linear in find_linears(graph)] == ["other"]


def test_a_weight_used_twice_gives_two_names() -> None:
    graph = parse(
        "tied (float[2, 3, 4] x) => (float[2, 3, 4] b) { a = MatMul(x, tied.weight)\n b = MatMul(a, tied.weight) }",
        {"tied.weight": np.eye(4, dtype=np.float32)},
    ).graph
    assert [linear.name for linear in find_linears(graph)] == ["tied", "tied#2"]
