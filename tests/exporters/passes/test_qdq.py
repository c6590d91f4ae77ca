"""8-bit graphs compute what numpy computes from the scales; what is not quantised stays bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from dit_deploy.errors import ExportError, InputError
from dit_deploy.exporters.passes.fp8 import quantize_fp8
from dit_deploy.exporters.passes.int8 import quantize_int8
from dit_deploy.exporters.passes.linear import Choice, find_linears
from dit_deploy.exporters.passes.qdq import round_up
from dit_deploy.exporters.passes.storage import store_weights
from tests.exporters.passes.graphs import denoiser, feeds, parse, run, session

BLOCK = ("to_q", "to_k", "to_v", "to_out", "mlp_in", "mlp_out")
IN_BLOCKS = [f"blocks.{index}.{name}" for index in range(2) for name in BLOCK]

Quantize = Callable[..., Choice]


def on_int8_grid(x: np.ndarray, scale: np.ndarray | float, lowest: int = -128) -> np.ndarray:
    """``lowest`` … 127 times the scale: the operator uses all of INT8 for activations, weights leave −128 out."""
    return np.clip(np.rint(x / np.float32(scale)), lowest, 127) * np.float32(scale)


def on_fp8_grid(x: np.ndarray, scale: np.ndarray | float, lowest: int = 0) -> np.ndarray:
    clipped = np.clip(x / np.float32(scale), -448, 448)
    return clipped.astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * np.float32(scale)


INT8 = pytest.param(quantize_int8, on_int8_grid, 127.0, onnx.TensorProto.INT8, id="int8")
FP8 = pytest.param(quantize_fp8, on_fp8_grid, 448.0, onnx.TensorProto.FLOAT8E4M3FN, id="fp8")


def scales_of(model: ir.Model, maximum: float) -> dict[str, float]:
    """Return the scale of each layer's activation on one input, a little too small so that some values are clipped."""
    linears = find_linears(model.graph)
    names = list(dict.fromkeys(str(linear.activation.name) for linear in linears))
    arrays = dict(zip(names, run(model, feeds(), *names)[-len(names) :], strict=True))
    return {linear.name: float(0.9 * np.abs(arrays[str(linear.activation.name)]).max() / maximum) for linear in linears}


@pytest.mark.parametrize(("quantize", "on_grid", "maximum", "kind"), [INT8, FP8])
def test_the_layers_of_a_bundle_compute_what_numpy_computes(
    tiny_bundle: Path, quantize: Quantize, on_grid: Callable[..., np.ndarray], maximum: float, kind: int
) -> None:
    model = denoiser(tiny_bundle)
    scales = scales_of(model, maximum)
    layers = {linear.name: linear for linear in find_linears(model.graph)}
    before = {name: (linear.array(), linear.bias.const_value.numpy()) for name, linear in layers.items()}
    plain = run(model, feeds())
    reads = {name: str(linear.activation.name) for name, linear in layers.items()}
    gives = {name: str(linear.output.name) for name, linear in layers.items()}

    choice = quantize(model, scales)

    assert sorted(linear.name for linear in choice.chosen) == sorted(IN_BLOCKS)
    assert set(choice.kept) == set(layers) - set(IN_BLOCKS)
    names = list(dict.fromkeys([*reads.values(), *gives.values()]))
    outputs = run(model, feeds(), *names)
    arrays = dict(zip(names, outputs[2:], strict=True))
    for name in IN_BLOCKS:
        weight, bias = before[name]
        step = np.abs(weight).max(axis=0) / np.float32(maximum)
        shared = max(scales[other] for other in IN_BLOCKS if reads[other] == reads[name])
        expected = on_grid(arrays[reads[name]], shared) @ on_grid(weight, step, -127) + bias
        np.testing.assert_allclose(arrays[gives[name]], expected, atol=2e-5, rtol=2e-5, err_msg=name)
    error = np.linalg.norm(outputs[0] - plain[0]) / np.linalg.norm(plain[0])
    assert 1e-4 < error < 0.1  # the rounding is there, and is small


@pytest.mark.parametrize(("quantize", "on_grid", "maximum", "kind"), [INT8, FP8])
def test_what_is_stored(
    tiny_bundle: Path, tmp_path: Path, quantize: Quantize, on_grid: object, maximum: float, kind: int
) -> None:
    """In the file: weights on the grid under their names, scales beside them, one pair for a shared activation."""
    model = denoiser(tiny_bundle)
    original = {tensor.name: tensor for tensor in onnx.load(tiny_bundle / "denoiser" / "model.onnx").graph.initializer}
    quantize(model, scales_of(model, maximum))
    ir.save(model, tmp_path / "model.onnx", external_data="model.onnx.data", size_threshold_bytes=1024)
    onnx.checker.check_model(tmp_path / "model.onnx", full_check=True)
    graph = onnx.load(tmp_path / "model.onnx").graph

    stored = {tensor.name: tensor for tensor in graph.initializer}
    weights = {f"{name}.weight" for name in IN_BLOCKS}
    assert {name for name, tensor in stored.items() if tensor.data_type == kind and tensor.dims} == weights
    assert not any(name.endswith("weight.quantized") for name in stored)
    for name, tensor in original.items():
        if name not in weights:
            assert stored[name].SerializeToString() == tensor.SerializeToString(), name
        else:
            scale = onnx.numpy_helper.to_array(stored[f"{name}.scale"])
            assert scale.dtype == np.float32 and scale.shape == (tensor.dims[1],)
            weight = onnx.numpy_helper.to_array(tensor)
            found = onnx.numpy_helper.to_array(stored[name]).astype(np.float32) * scale
            # E4M3 has three bits of mantissa, down to numbers 2 ** -9 apart.
            step = scale if kind == onnx.TensorProto.INT8 else np.maximum(np.abs(weight) / 8, 2.0**-9 * scale)
            assert (np.abs(found - weight) <= 0.5001 * step).all()
    pairs = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert len(pairs) == 2 * 4  # of a block: q, k and v share one; to_out; mlp_in; mlp_out
    zeros = {name for node in pairs for name in node.input[2:]}
    assert len(zeros) == 1 and stored[zeros.pop()].data_type == kind
    axes = [node.attribute[0].i for node in graph.node if node.op_type == "DequantizeLinear" and node.attribute]
    assert axes == [1] * len(IN_BLOCKS)


def test_onnx_runtime_computes_the_same_when_it_rewrites_the_graph(tiny_bundle: Path) -> None:
    model = denoiser(tiny_bundle)
    quantize_int8(model, scales_of(model, 127.0))
    plain, optimized = (session(model, optimized=flag).run(None, feeds())[0] for flag in (False, True))
    np.testing.assert_allclose(optimized, plain, atol=0.02 * np.abs(plain).max())


def test_a_layer_that_is_kept_stays_bit_for_bit(tiny_bundle: Path) -> None:
    model, plain = denoiser(tiny_bundle), denoiser(tiny_bundle)
    choice = quantize_int8(model, {}, kept=("*",))
    assert not choice.chosen
    assert ir.to_proto(model).SerializeToString() == ir.to_proto(plain).SerializeToString()

    scales = scales_of(model, 127.0)
    choice = quantize_int8(model, scales, kept=("blocks.0.to_q", "blocks.1.*"))
    assert [linear.name for linear in choice.chosen] == IN_BLOCKS[1:6]
    layers = {linear.name: linear for linear in find_linears(model.graph)}
    assert set(IN_BLOCKS) & set(layers) == {"blocks.0.to_q", *IN_BLOCKS[6:]}
    assert layers["blocks.0.to_q"].activation.producer().op_type == "Add"  # not the rounded one that to_k reads


def test_weights_stored_in_16_bits(tiny_bundle: Path) -> None:
    """The Cast in front of a quantised weight goes with it."""
    model = denoiser(tiny_bundle)
    scales = scales_of(model, 127.0)
    store_weights(model.graph, ir.DataType.FLOAT16, 1024)
    rounded = {linear.name: linear.array() for linear in find_linears(model.graph)}
    casts = sum(node.op_type == "Cast" for node in model.graph)
    quantize_int8(model, scales)
    assert sum(node.op_type == "Cast" for node in model.graph) == casts - len(IN_BLOCKS)
    name = "blocks.1.mlp_in"
    weight = model.graph.initializers[f"{name}.weight"]
    scale = model.graph.initializers[f"{name}.weight.scale"].const_value.numpy()
    assert weight.dtype == ir.DataType.INT8
    np.testing.assert_array_equal(weight.const_value.numpy(), np.rint(rounded[name] / scale))
    assert np.isfinite(run(model, feeds())[0]).all()


@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT16, ir.DataType.BFLOAT16])
def test_scales_survive_a_cast_of_the_graph(tiny_bundle: Path, dtype: ir.DataType) -> None:
    model = denoiser(tiny_bundle)
    layers = {linear.name: linear.array() for linear in find_linears(model.graph)}
    scales = scales_of(model, 127.0)
    quantize_int8(model, scales, scale_dtype=dtype)
    kind = {ir.DataType.FLOAT16: np.float16, ir.DataType.BFLOAT16: ml_dtypes.bfloat16}[dtype]
    found = {name: value for name, value in model.graph.initializers.items() if name.endswith(".scale")}
    assert len(found) == len(IN_BLOCKS) + 2 * 4
    for name, value in found.items():
        array = value.const_value.numpy()
        np.testing.assert_array_equal(array.astype(kind).astype(np.float32), array, err_msg=name)
    for name in IN_BLOCKS:
        scale = found[f"{name}.weight.scale"].const_value.numpy()
        assert (scale * np.float32(127) >= np.abs(layers[name]).max(axis=0)).all()  # up: nothing is clipped
        weight = model.graph.initializers[f"{name}.weight"].const_value.numpy()
        np.testing.assert_array_equal(weight, np.rint(layers[name] / scale))  # by the rounded scale


def test_round_up_by_hand() -> None:
    values = np.array([1.0, 1.0001, 1e-9, 65504.0])
    np.testing.assert_array_equal(round_up(values, ir.DataType.FLOAT16), np.float32([1.0, 1 + 2**-10, 2**-24, 65504.0]))
    np.testing.assert_array_equal(round_up(values[:2], ir.DataType.BFLOAT16), np.float32([1.0, 1 + 2**-7]))
    assert round_up(np.array(0.1), ir.DataType.FLOAT) == np.float32(0.1)  # float32's 0.1 is above the true one


GATED = """
gated (float[batch, tokens, 8] x) => (float[batch, tokens, 3] y) {
    normal = LayerNormalization(x, norm.weight)
    a = MatMul(normal, a.weight)
    b = MatMul(a, b.weight)
    c = MatMul(b, a.weight)
    y = MatMul(c, head.weight)
}
"""


def gated() -> ir.Model:
    """Two layers that share a weight, and a channel of zeros."""
    generator = np.random.default_rng(0)
    weights = {name: generator.standard_normal((8, 8), np.float32) for name in ("a.weight", "b.weight")}
    weights["b.weight"][:, 3] = 0
    weights |= {"norm.weight": np.ones(8, np.float32), "head.weight": np.ones((8, 3), np.float32)}
    return parse(GATED, weights)


def test_a_shared_weight_is_stored_once_and_stays_where_a_kept_layer_reads_it() -> None:
    scales = {"a": 0.03, "b": 0.1, "a#2": 0.3}
    x = {"x": np.random.default_rng(1).standard_normal((2, 3, 8), np.float32)}
    both = gated()
    assert [linear.name for linear in quantize_int8(both, scales).chosen] == ["a", "b", "a#2"]
    assert both.graph.initializers["a.weight"].dtype == ir.DataType.INT8 and np.isfinite(run(both, x)[0]).all()
    assert both.graph.initializers["b.weight.scale"].const_value.numpy()[3] == 1
    assert sum(node.op_type == "DequantizeLinear" for node in both.graph) == 3 + 2
    one = gated()
    quantize_int8(one, scales, kept=("a",))
    assert one.graph.initializers["a.weight"].dtype == ir.DataType.FLOAT
    assert one.graph.initializers["a.weight.quantized"].dtype == ir.DataType.INT8
    assert np.linalg.norm(run(one, x)[0] - run(gated(), x)[0]) < 0.05 * np.linalg.norm(run(gated(), x)[0])


@pytest.mark.parametrize(
    ("scales", "kept", "dtype", "message"),
    [
        ({"a": 0.03}, (), "FLOAT", "scales: none for b; calibrate the bundle, or name the layer in kept"),
        ({"a": 0.0}, ("b", "a#2"), "FLOAT", "scales: a has 0.0, expected a positive number"),
        ({"a": float("nan")}, ("b", "a#2"), "FLOAT", "scales: a has nan, expected a positive number"),
        ({"a": 600.0}, ("b", "a#2"), "FLOAT16", "a reads values up to 7.62e.04, which float16 cannot hold"),
        ({"a": 1.0}, ("b", "c"), "FLOAT", "keep: 'c' matches no linear layer"),
    ],
)
def test_bad_scales_are_named(scales: dict[str, float], kept: tuple[str, ...], dtype: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        quantize_int8(gated(), scales, kept=kept, scale_dtype=ir.DataType[dtype])


def test_graphs_that_cannot_be_quantised_are_named() -> None:
    scales = {"a": 1.0, "b": 1.0, "a#2": 1.0}
    damaged = gated()
    array = np.full((8, 8), np.inf, np.float32)
    damaged.graph.initializers["b.weight"].const_value = ir.Tensor(array, name="b.weight")
    with pytest.raises(ExportError, match=r"b\.weight holds NaN or infinite values"):
        quantize_int8(damaged, scales)
    half = gated()
    for linear in find_linears(half.graph):
        linear.activation.type = ir.TensorType(ir.DataType.FLOAT16)
    with pytest.raises(ExportError, match="a reads FLOAT16; quantise the float32 graph"):
        quantize_int8(half, scales)
    old = gated()
    old.graph.opset_imports[""] = 18
    with pytest.raises(ExportError, match="opset 18 cannot quantise to float8e4m3fn; export with opset 19 or newer"):
        quantize_fp8(old, scales)


@pytest.mark.parametrize("quantize", [quantize_int8, quantize_fp8])
def test_tensorrt_rtx_builds_it(tmp_path: Path, quantize: Quantize) -> None:
    """Strongly typed, for a GPU with both INT8 and FP8; the built network has the pairs that were put in."""
    try:
        import tensorrt_rtx as trt
    except (ImportError, OSError) as error:
        pytest.skip(f"tensorrt-rtx is not installed: {error}")
    model = gated()
    choice = quantize(model, {"a": 0.03, "b": 0.1, "a#2": 0.3})
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(ir.to_proto(model).SerializeToString()), [
        parser.get_error(i).desc() for i in range(parser.num_errors)
    ]
    kinds = [network.get_layer(index).type for index in range(network.num_layers)]
    assert kinds.count(trt.LayerType.QUANTIZE) == len(choice.chosen)
    assert kinds.count(trt.LayerType.DEQUANTIZE) == len(choice.chosen) + 2
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape("x", (1, 16, 8), (2, 16, 8), (4, 64, 8))
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    assert builder.build_serialized_network(network, config) is not None
