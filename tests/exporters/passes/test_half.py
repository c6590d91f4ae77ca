"""Half precision: types by ONNX's own checker, numbers by ONNX's reference evaluator and ONNX Runtime.

The reference evaluator rounds after every operator, in FP16 and in BF16. ONNX Runtime's CPU provider drops casts
that it finds superfluous, and lacks most BF16 kernels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

from dit_deploy import Bundle
from dit_deploy.errors import ExportError, InputError
from dit_deploy.exporters.passes.attention import lower_attention
from dit_deploy.exporters.passes.graph_file import load_graph, save_graph
from dit_deploy.exporters.passes.half import to_half
from dit_deploy.exporters.passes.storage import store_weights
from dit_deploy.exporters.tracing import example_inputs
from tests.exporters.passes.graphs import parse

FP16, BF16, FLOAT = ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT
FLOATS = (FLOAT, FP16, BF16)
COMPONENTS = ["denoiser", "vae_encoder", "vae_decoder"]
SIZES = {"batch": 2, "patch_height": 3, "patch_width": 5, "latent_height": 6, "latent_width": 5}

Feeds = dict[str, np.ndarray]


def reference(path: Path, feeds: Feeds) -> list[np.ndarray]:
    return list(ReferenceEvaluator(onnx.load(path)).run(None, feeds))


def runtime(path: Path, feeds: Feeds) -> list[np.ndarray]:
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feeds)


def check(path: Path) -> None:
    """Let ONNX check a file and find its inner types anew: what the graph says of them is taken out before."""
    model = onnx.load(path)
    del model.graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


def casts(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == "Cast" and node.inputs[0].dtype in FLOATS]  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", [FP16, BF16])
@pytest.mark.parametrize("component", COMPONENTS)
def test_a_bundle_in_half_precision(tiny_bundle: Path, tmp_path: Path, component: str, dtype: ir.DataType) -> None:
    bundle = Bundle.open(tiny_bundle)
    path = tiny_bundle / bundle.component(component).path
    model = load_graph(path)
    names = {value.name for node in model.graph for value in node.outputs}
    weights = set(model.graph.initializers)
    islands = to_half(model, dtype)
    save_graph(model, tmp_path / "half.onnx")
    check(tmp_path / "half.onnx")

    # Outside it is what it was; within, only islands are float32.
    assert all(value.dtype in (FLOAT, ir.DataType.INT64) for value in (*model.graph.inputs, *model.graph.outputs))
    assert weights == set(model.graph.initializers)
    assert names <= {value.name for node in model.graph for value in node.outputs}
    islanded = {island.node for island in islands}
    for node in model.graph:
        if node.op_type == "Cast":
            continue
        kinds = {value.dtype for value in node.outputs if value.dtype in FLOATS}
        assert kinds <= {FLOAT if node.name in islanded else dtype}, node.name
    matmuls = [node for node in model.graph if node.op_type in ("MatMul", "Gemm", "Conv", "Attention")]
    assert len(matmuls) > 10 and not islanded & {node.name for node in matmuls}
    for node in model.graph:
        if node.op_type in ("LayerNormalization", "GroupNormalization", "Sin", "Cos"):
            assert node.name in islanded

    # Casts stand where types differ, once for each value, and none after another.
    assert all(node.inputs[0].dtype != node.outputs[0].dtype for node in casts(model))  # type: ignore[union-attr]
    assert not any(node.inputs[0].producer() in casts(model) for node in casts(model))  # type: ignore[union-attr]
    assert max(Counter((node.inputs[0], node.outputs[0].dtype) for node in casts(model)).values()) == 1

    feeds = example_inputs(bundle.component(component), SIZES)
    tolerance = 4e-3 if dtype == FP16 else 3e-2
    for found, expected in zip(reference(tmp_path / "half.onnx", feeds), runtime(path, feeds), strict=True):
        assert found.dtype == np.float32
        error = np.abs(found - expected).max() / np.abs(expected).max()
        assert tolerance / 1000 < error < tolerance
    if dtype == FP16:
        for found, expected in zip(runtime(tmp_path / "half.onnx", feeds), runtime(path, feeds), strict=True):
            assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()


def test_weights_stored_in_half_are_used_as_they_are(tiny_bundle: Path, tmp_path: Path) -> None:
    model = load_graph(tiny_bundle / "denoiser" / "model.onnx")
    store_weights(model.graph, FP16, 1024)
    save_graph(model, tmp_path / "stored.onnx")
    model = load_graph(tmp_path / "stored.onnx")
    stored = onnx.load(tmp_path / "stored.onnx").graph.initializer
    assert sum(node.op_type == "Cast" and node.inputs[0].is_initializer() for node in model.graph) > 10  # type: ignore[union-attr]
    to_half(model, FP16)
    assert not any(node.inputs[0].is_initializer() for node in casts(model))  # type: ignore[union-attr]
    save_graph(model, tmp_path / "half.onnx")
    check(tmp_path / "half.onnx")
    written = {tensor.name: tensor for tensor in onnx.load(tmp_path / "half.onnx").graph.initializer}
    kept = [tensor for tensor in stored if tensor.data_type == onnx.TensorProto.FLOAT16]
    assert len(kept) > 10
    for tensor in kept:
        assert written[tensor.name].data_type == onnx.TensorProto.FLOAT16
        np.testing.assert_array_equal(
            onnx.numpy_helper.to_array(written[tensor.name]), onnx.numpy_helper.to_array(tensor)
        )


def test_an_activation_beyond_fp16_is_infinite_without_ranges_and_finite_with_them(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    """The residual stream of block 0 grows past 65504; block 1 normalises it again."""
    bundle = Bundle.open(tiny_bundle)
    model = load_graph(tiny_bundle / "denoiser" / "model.onnx")
    weight = model.graph.initializers["blocks.0.mlp_out.bias"]
    assert weight.const_value is not None
    weight.const_value = ir.tensor(weight.const_value.numpy() + np.float32(3e4), name=weight.name)
    gates = model.graph.initializers["blocks.0.modulation.bias"]
    assert gates.const_value is not None
    array = gates.const_value.numpy().copy()
    array[5 * 72 : 6 * 72 : 2] += 4  # the gate of the MLP, for every second channel
    gates.const_value = ir.tensor(array, name=gates.name)
    save_graph(model, tmp_path / "grown.onnx")
    feeds = example_inputs(bundle.component("denoiser"), SIZES)
    expected = runtime(tmp_path / "grown.onnx", feeds)

    # What calibration would measure: every value of the plain graph.
    proto = onnx.load(tmp_path / "grown.onnx")
    floats = {value.name for node in model.graph for value in node.outputs if value.dtype == FLOAT}
    proto.graph.output.extend(
        info for info in proto.graph.value_info if info.name in floats - {output.name for output in model.graph.outputs}
    )
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    values = zip([output.name for output in session.get_outputs()], session.run(None, feeds), strict=True)
    ranges = {name: float(np.abs(value).max()) for name, value in values}
    assert max(ranges.values()) > 1e5

    for given in (None, ranges):
        model = load_graph(tmp_path / "grown.onnx")
        islands = to_half(model, FP16, ranges=given)
        save_graph(model, tmp_path / "half.onnx")
        check(tmp_path / "half.onnx")
        with np.errstate(all="ignore"):
            found = reference(tmp_path / "half.onnx", feeds)
        if given is None:
            assert not np.isfinite(found[0]).all()
        else:
            for one, other in zip(found, expected, strict=True):
                assert np.abs(one - other).max() < 1e-2 * np.abs(other).max()
            reasons = [island.why for island in islands if "reaches" in island.why]
            assert reasons and all("and FP16 ends at 65504" in why for why in reasons)
            # Nothing else: block 0's attention and MLP stay half.
            assert not any(island.node == "blocks.0.to_q" for island in islands)
            kinds = Counter(node.outputs[0].dtype for node in model.graph if node.op_type == "MatMul")
            assert kinds[FP16] >= kinds.total() - 1
    model = load_graph(tmp_path / "grown.onnx")
    assert not any("reaches" in island.why for island in to_half(model, BF16, ranges=ranges))


def test_modules_are_kept_by_name(tiny_bundle: Path) -> None:
    model = load_graph(tiny_bundle / "denoiser" / "model.onnx")
    islands = to_half(model, FP16, islands=["blocks.0.*", "blocks.1.to_q", "node_conv2d"])
    kinds = {
        node.inputs[1].name: node.outputs[0].dtype for node in model.graph if node.op_type in ("MatMul", "Gemm", "Conv")
    }  # type: ignore[union-attr]
    for name, kind in kinds.items():
        assert name is not None
        kept = name.startswith("blocks.0.") or name in ("blocks.1.to_q.weight", "patch_embed.weight")
        assert kind == (FLOAT if kept else FP16), name
        assert model.graph.initializers[name].dtype == kind
    assert [one.why for one in islands if one.node == "node_conv2d"] == ["asked for by 'node_conv2d'"]
    with pytest.raises(InputError, match=r"islands: 'block\.0' matches no node and no module"):
        to_half(load_graph(tiny_bundle / "denoiser" / "model.onnx"), FP16, islands=["block.0"])


def test_onnx_runtime_needs_no_casts_around_normalisations(tiny_bundle: Path, tmp_path: Path) -> None:
    for component in COMPONENTS:
        model = load_graph(tiny_bundle / component / "model.onnx")
        to_half(model, FP16, norm_casts=False)
        norms = [node for node in model.graph if node.op_type in ("LayerNormalization", "GroupNormalization")]
        assert norms and all(node.outputs[0].dtype == FP16 for node in norms)
        save_graph(model, tmp_path / "half.onnx")
        check(tmp_path / "half.onnx")

    def make(x: ir.Value, weight: ir.Value, scale: ir.Value) -> list[ir.Node]:
        first = linear(x, weight)
        norm = ir.node("LayerNormalization", [first.outputs[0], scale])
        return [first, norm, ir.node("Gemm", [norm.outputs[0], weight])]

    feeds = {"x": np.full((2, 8), 3000, np.float32)}  # the sum of whose squares FP16 cannot hold
    found = []
    for convert in (False, True):
        model = build(make, weight=WEIGHT, scale=np.ones(8, np.float32))
        if convert:
            assert to_half(model, FP16, norm_casts=False) == []
        save_graph(model, tmp_path / "norm.onnx")
        found += runtime(tmp_path / "norm.onnx", feeds)
    np.testing.assert_allclose(found[1], found[0], atol=2e-3 * np.abs(found[0]).max())


@pytest.mark.parametrize("component", COMPONENTS)
def test_silu_between_casts(tiny_bundle: Path, tmp_path: Path, component: str) -> None:
    """For ONNX Runtime's CUDA kernels, which lose what is small of a Sigmoid."""
    path, kinds = tiny_bundle / component / "model.onnx", {}
    for asked in (False, True):
        model = load_graph(path)
        why = {one.node: one.why for one in to_half(model, BF16, norm_casts=False, sigmoid_casts=asked)}
        sigmoids = [node for node in model.graph if node.op_type == "Sigmoid"]
        products = [reader for node in sigmoids for reader in node.outputs[0].consumers()]
        assert sigmoids and {node.op_type for node in products} == {"Mul"}
        kinds[asked] = {node.outputs[0].dtype for node in (*sigmoids, *products)}
        if asked:
            assert all("Sigmoid" in why[node.name or ""] for node in sigmoids)
            save_graph(model, tmp_path / "half.onnx")
            check(tmp_path / "half.onnx")
    assert BF16 in kinds[False] and kinds[True] == {FLOAT}


def test_decomposed_attention_has_its_softmax_in_float32(tiny_bundle: Path, tmp_path: Path) -> None:
    model = load_graph(tiny_bundle / "denoiser" / "model.onnx")
    lower_attention(model, "decomposed")
    to_half(model, FP16)
    kinds = {node.op_type: node.outputs[0].dtype for node in model.graph}
    assert kinds["Softmax"] == FLOAT and kinds["MatMul"] == FP16
    save_graph(model, tmp_path / "half.onnx")
    check(tmp_path / "half.onnx")


def build(make: Callable[..., list[ir.Node]], **constants: np.ndarray) -> ir.Model:
    """Return a graph from x [2, 8] to y by what ``make(x, **constants)`` returns; its last node gives y."""
    x = ir.Value(name="x", type=ir.TensorType(FLOAT), shape=ir.Shape([2, 8]))
    values = {}
    for name, array in constants.items():
        tensor = ir.tensor(array, name=name)
        values[name] = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape))
        values[name].const_value = tensor
    nodes = make(x, **values)
    for node in nodes:
        node.name = node.op_type.lower()
        node.outputs[0].name = f"{node.name}_output"
    y = nodes[-1].outputs[0]
    y.name, y.type, y.shape = "y", ir.TensorType(FLOAT), ir.Shape([2, 8])
    graph = ir.Graph([x], [y], nodes=nodes, initializers=values.values(), opset_imports={"": 23}, name="made")
    return ir.Model(graph, ir_version=10)


def linear(x: ir.Value, weight: ir.Value) -> ir.Node:
    return ir.node("MatMul", [x, weight])


WEIGHT = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)


def test_a_normalisation_written_out_is_float32_from_its_powers_to_its_root() -> None:
    def make(x: ir.Value, weight: ir.Value, axes: ir.Value, two: ir.Value, epsilon: ir.Value) -> list[ir.Node]:
        hidden = linear(x, weight)
        power = ir.node("Pow", [hidden.outputs[0], two])
        mean = ir.node("ReduceMean", [power.outputs[0], axes])
        shifted = ir.node("Add", [mean.outputs[0], epsilon])
        root = ir.node("Sqrt", [shifted.outputs[0]])
        divided = ir.node("Div", [hidden.outputs[0], root.outputs[0]])
        again = ir.node("Gemm", [divided.outputs[0], weight])
        return [hidden, power, mean, shifted, root, divided, again]

    epsilon = np.array(1e-12, np.float32)
    model = build(make, weight=WEIGHT, axes=np.array([-1]), two=np.array(2, np.float32), epsilon=epsilon)
    found = {island.node for island in to_half(model, FP16)}
    assert found == {"pow", "reducemean", "add", "sqrt"}
    assert len(casts(model)) == 4  # x, what is squared, the root, y
    assert model.graph.initializers["epsilon"].dtype == FLOAT


@pytest.mark.parametrize(
    ("number", "reason"),
    [(1e5, "holds 1e+05, and FP16 ends at 65504"), (1e-9, "holds 1e-09, which FP16 rounds to 0"), (-np.inf, None)],
)
def test_constants_that_fp16_cannot_hold(number: float, reason: str | None) -> None:
    def make(x: ir.Value, weight: ir.Value, constant: ir.Value) -> list[ir.Node]:
        first = linear(x, weight)
        most = ir.node("Max", [first.outputs[0], constant])
        return [first, most, ir.node("Gemm", [most.outputs[0], weight])]

    for dtype in (FP16, BF16):
        model = build(make, weight=WEIGHT, constant=np.array(number, np.float32))
        reasons = {island.node: island.why for island in to_half(model, dtype)}
        if reason is None or dtype == BF16:
            assert reasons == {}
        else:
            assert reasons == {"max": f"constant {reason}"}


def test_arithmetic_beside_products_in_float32_halves_the_error() -> None:
    """A residual stream of twelve branches with GELU written out, as T5 has it, against numpy in float64."""
    draw, depth, width = np.random.default_rng(3), 12, 64
    # Branches a quarter of the stream, as in a trained network.
    weights: Feeds = {f"w{i}": draw.standard_normal((width, width)) / 8 / (1, 4)[i % 2] for i in range(2 * depth)}
    numbers = {"half": 0.5, "one": 1.0, "cubic": 0.044715, "root": np.sqrt(2 / np.pi), "three": 3.0}
    lines, stream = [], "x"
    for i in range(depth):
        lines += [
            f"a{i} = MatMul({stream}, w{2 * i})",
            f"p{i} = Pow(a{i}, three)",
            f"c{i} = Mul(p{i}, cubic)",
            f"s{i} = Add(a{i}, c{i})",
            f"r{i} = Mul(s{i}, root)",
            f"t{i} = Tanh(r{i})",
            f"o{i} = Add(t{i}, one)",
            f"h{i} = Mul(a{i}, half)",
            f"g{i} = Mul(h{i}, o{i})",
            f"b{i} = MatMul(g{i}, w{2 * i + 1})",
            f"x{i} = Add({stream}, b{i})",
        ]
        stream = f"x{i}"
    text = f"made (float[8, {width}] x) => (float[8, {width}] {stream}) {{ {' '.join(lines)} }}"
    # Inputs and weights that FP16 holds, so that what differs is the arithmetic.
    weights = {name: array.astype(np.float16) for name, array in weights.items()}
    x = draw.standard_normal((8, width)).astype(np.float16)
    expected = x.astype(np.float64)
    for i in range(depth):
        a = expected @ weights[f"w{2 * i}"].astype(np.float64)
        g = a / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (a + 0.044715 * a**3)))
        expected = expected + g @ weights[f"w{2 * i + 1}"].astype(np.float64)

    constants = weights | {name: np.array(number) for name, number in numbers.items()}
    errors = {}
    for only in (False, True):
        model = parse(text, {name: array.astype(np.float32) for name, array in constants.items()})
        islands = to_half(model, FP16, products_only=only)
        kinds = {node.name or node.op_type: node.outputs[0].dtype for node in model.graph if node.op_type != "Cast"}
        products = [node for node in model.graph if node.op_type == "MatMul"]
        assert len(products) == 2 * depth and all(node.outputs[0].dtype == FP16 for node in products)
        if only:
            assert {one.why for one in islands} == {"arithmetic beside the products"}
            assert FP16 not in {kind for name, kind in kinds.items() if "MatMul" not in name}
        (found,) = ReferenceEvaluator(ir.to_proto(model)).run(None, {"x": x.astype(np.float32)})
        errors[only] = float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))
    assert 0 < errors[True] < 0.5 * errors[False]


def test_a_weight_that_two_types_need_is_there_twice(tmp_path: Path) -> None:
    def make(x: ir.Value, weight: ir.Value, large: ir.Value) -> list[ir.Node]:
        first = linear(x, weight)
        scaled = ir.node("Mul", [weight, large])
        return [first, scaled, ir.node("Gemm", [first.outputs[0], scaled.outputs[0]])]

    model = build(make, weight=WEIGHT, large=np.full((8, 8), 1e5, np.float32))
    to_half(model, FP16)
    assert {name: value.dtype for name, value in model.graph.initializers.items()} == {
        "weight": FLOAT,
        "large": FLOAT,
        "weight.float16": FP16,
    }
    save_graph(model, tmp_path / "half.onnx")
    check(tmp_path / "half.onnx")


def test_quantised_layers_keep_their_8_bits(tmp_path: Path) -> None:
    def make(
        x: ir.Value, weight: ir.Value, stored: ir.Value, step: ir.Value, steps: ir.Value, zero: ir.Value
    ) -> list[ir.Node]:
        first = linear(x, weight)
        quantized = ir.node("QuantizeLinear", [first.outputs[0], step, zero])
        activation = ir.node("DequantizeLinear", [quantized.outputs[0], step, zero])
        matrix = ir.node("DequantizeLinear", [stored, steps], {"axis": 1})
        product = ir.node("Gemm", [activation.outputs[0], matrix.outputs[0]])
        return [first, quantized, activation, matrix, product]

    stored = np.random.default_rng(1).integers(-127, 128, (8, 8)).astype(np.int8)
    scales = {"step": np.array(0.0625, np.float32), "steps": np.full(8, 2**-7, np.float32)}
    plain = build(make, weight=WEIGHT, stored=stored, zero=np.array(0, np.int8), **scales)
    for index, node in enumerate(plain.graph):
        node.name = f"{node.name}_{index}"
        if not node.outputs[0].is_graph_output():
            node.outputs[0].name = f"{node.name}_output"
    save_graph(plain, tmp_path / "plain.onnx")
    for dtype, islands in ((FP16, ()), (BF16, ()), (FP16, ("gemm*",))):
        model = load_graph(tmp_path / "plain.onnx")
        to_half(model, dtype, islands=islands)
        save_graph(model, tmp_path / "half.onnx")
        check(tmp_path / "half.onnx")
        assert model.graph.initializers["stored"].dtype == ir.DataType.INT8
        kinds = {node.op_type: node.outputs[0].dtype for node in model.graph if node.op_type != "Cast"}
        assert kinds["QuantizeLinear"] == ir.DataType.INT8
        assert kinds["DequantizeLinear"] == kinds["Gemm"] == (FLOAT if islands else dtype)
        # Never a Cast between the 8 bits and the product that reads them.
        assert len(casts(model)) == (1 if islands else 2)
        feeds = {"x": np.random.default_rng(2).standard_normal((2, 8), np.float32)}
        (found,), (expected,) = reference(tmp_path / "half.onnx", feeds), reference(tmp_path / "plain.onnx", feeds)
        assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_what_cannot_be_converted_is_refused(tiny_bundle: Path) -> None:
    model = load_graph(tiny_bundle / "denoiser" / "model.onnx")
    with pytest.raises(InputError, match="dtype: INT8 came, expected FLOAT16 or BFLOAT16"):
        to_half(model, ir.DataType.INT8)
    condition = ir.Value(name="condition", type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([]))
    branch = ir.Graph([], [], nodes=[], name="branch")
    node = ir.Node("", "If", [condition], [ir.AttrGraph("then_branch", branch), ir.AttrGraph("else_branch", branch)])
    node.name = "choose"
    branching = ir.Model(ir.Graph([condition], [], nodes=[node], opset_imports={"": 23}), ir_version=10)
    with pytest.raises(ExportError, match="choose: If holds a graph of its own"):
        to_half(branching, FP16)
