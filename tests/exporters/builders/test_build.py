"""build_engine end to end on a tiny bundle: what is built, what is found again, what is kept wider, what is refused."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from dit_deploy import Pipeline
from dit_deploy.bundle import Bundle
from dit_deploy.errors import BundleError, Cancelled, InputError
from dit_deploy.exporters.builders import CalibrationOptions, build, build_engine, explain_engine
from dit_deploy.exporters.builders.planning import make_plan
from dit_deploy.runtimes import cpu_ops

FEW = CalibrationOptions(samples=4, evaluations=2, steps=4)
#: INT8 for any CPU; what is fastest on this one is tested apart.
INT8 = {"precision": "int8", "kernels": "onnxruntime", "calibration": FEW, "threads": 1}
EXPLAINED = {name: value for name, value in INT8.items() if name != "threads"}
RTX = importlib.util.find_spec("tensorrt_rtx") is not None
needs_rtx = pytest.mark.skipif(not RTX, reason="tensorrt-rtx is not installed: pip install 'dit-deploy[tensorrt-rtx]'")


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("engines") / "tiny"))


def draw(bundle: Bundle, engine: str) -> np.ndarray:
    output = Pipeline(bundle, engine, threads=1)(
        class_labels=[3, 5], num_inference_steps=3, seed=1, height=48, width=80, output_type="latent"
    )
    return output.latents


def test_int8_for_the_cpu_is_built_runs_and_is_found_again(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = build_engine(bundle, check=False, **INT8)
    record = engine.record
    assert (record.name, record.backend, record.precision) == ("onnxruntime-int8", "onnxruntime", "int8")
    assert set(record.components) == {"denoiser", "vae_encoder", "vae_decoder"}
    assert record.parity is None
    operators = [node.op_type for node in onnx.load(engine.file("denoiser"), load_external_data=False).graph.node]
    assert operators.count("MatMulIntegerToFloat") == 12
    assert operators.count("MultiHeadAttention") == 2
    plain, quantised = draw(bundle, "onnx"), draw(bundle, "onnxruntime-int8")
    difference = float(np.abs(quantised - plain).max() / np.abs(plain).max())
    assert 1e-6 < difference < 0.2  # another arithmetic, and the same picture

    monkeypatch.setattr(build, "settle", lambda *_, **__: pytest.fail("it was built again"))
    assert build_engine(bundle, check=False, **INT8).record.key == record.key
    assert explain_engine(bundle, **EXPLAINED) == []


def test_explain_names_what_changed(bundle: Bundle) -> None:
    build_engine(bundle, check=False, **INT8)
    lines = explain_engine(bundle, **EXPLAINED, keep=("blocks.0.*",), method="max")
    assert lines == ["denoiser.keep: none → blocks.0.*", "denoiser.method: mse → max"]
    assert explain_engine(bundle, **EXPLAINED, name="another") == ["there is no engine of this name yet"]


def test_layers_named_by_keep_stay(bundle: Bundle) -> None:
    engine = build_engine(bundle, name="kept", keep=("blocks.0.*",), check=False, **INT8)
    kept = engine.record.components["denoiser"].kept
    # Its modulation is inside the block too, and never quantised.
    names = ("mlp_in", "mlp_out", "modulation", "to_k", "to_out", "to_q", "to_v")
    assert sorted(kept) == [f"blocks.0.{name}" for name in names]
    operators = [node.op_type for node in onnx.load(engine.file("denoiser"), load_external_data=False).graph.node]
    assert operators.count("MatMulIntegerToFloat") == 6


def test_layers_are_kept_until_the_limit_holds(bundle: Bundle) -> None:
    loose = build_engine(bundle, name="loose", limit=-50.0, **INT8)
    assert loose.record.parity is not None and loose.record.parity["passed"]
    reached = loose.record.parity["psnr"]
    tight = build_engine(bundle, name="tight", limit=reached + 5.0, **INT8)
    kept = tight.record.components["denoiser"].kept
    assert 0 < len(kept) <= 12
    assert all("parity limit" in why for why in kept.values())
    assert tight.record.parity is not None and tight.record.parity["psnr"] >= reached + 5.0
    costs = tight.record.options["sensitivity"]
    assert isinstance(costs, list) and len(costs) == 12
    assert set(kept) == {name for name, _ in costs[: len(kept)]}  # the worst go first


def test_without_leave_to_adjust_a_bad_engine_says_so(bundle: Bundle) -> None:
    engine = build_engine(bundle, name="bad", limit=200.0, adjust=False, **INT8)
    assert engine.record.parity is not None and not engine.record.parity["passed"]
    assert engine.record.components["denoiser"].kept == {}


def test_only_the_usual_limit_gives_way_to_what_sampling_makes_of_errors(bundle: Bundle) -> None:
    usual, own = make_plan(bundle, precision="int8"), make_plan(bundle, precision="int8", limit=30.0)
    assert (usual.limit, usual.allowed) == (30.0, 4e-2) and (own.limit, own.allowed) == (30.0, None)
    # Which layers are kept follows from it, so it is part of the key.
    assert usual.key_parts["limit"] == "30 dB, or predictions off by 0.04" and own.key_parts["limit"] == "30 dB"


@pytest.mark.skipif(bool(cpu_ops.cannot_build()), reason=cpu_ops.cannot_build())
def test_int8_with_the_fused_operators_runs(bundle: Bundle) -> None:
    engine = build_engine(bundle, name="fused", check=False, **(INT8 | {"kernels": "fused"}))
    assert engine.record.target.operators == "cpu_ops"
    graph = onnx.load(engine.file("denoiser"), load_external_data=False).graph
    assert "dit_deploy" in {node.domain for node in graph.node}
    plain, fused = draw(bundle, "onnx"), draw(bundle, "fused")
    difference = float(np.abs(fused - plain).max() / np.abs(plain).max())
    assert 1e-6 < difference < 0.2


def test_without_a_limit_nothing_fails_and_nothing_is_kept(bundle: Bundle) -> None:
    engine = build_engine(bundle, name="free", limit=None, **INT8)
    assert engine.record.parity is not None
    assert (engine.record.parity["passed"], engine.record.parity["limit"]) == (True, None)
    assert engine.record.components["denoiser"].kept == {}


def test_fp16_graphs_for_cuda_come_with_the_solver(bundle: Bundle) -> None:
    engine = build_engine(bundle, precision="fp16", calibration=FEW, check=False, threads=1)
    assert engine.name == "onnxruntime-cuda-fp16"
    assert engine.record.target.provider == "CUDAExecutionProvider"
    assert "solver" in engine.record.components
    graph = onnx.load(engine.file("denoiser")).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert types["blocks.0.to_q.weight"] == onnx.TensorProto.FLOAT16
    assert {value.type.tensor_type.elem_type for value in (*graph.input[:2], *graph.output)} == {onnx.TensorProto.FLOAT}


@pytest.mark.slow
@needs_rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tensorrt_rtx_builds_every_component_without_a_gpu(bundle: Bundle, precision: str) -> None:
    engine = build_engine(
        bundle,
        backend="tensorrt-rtx",
        precision=precision,
        compute_capabilities=("8.9", "12.0"),
        minimum="1x32x32",
        maximum="2x64x96",
        calibration=FEW,
        check=False,
        threads=1,
    )
    record = engine.record
    assert set(record.components) == {"denoiser", "vae_encoder", "vae_decoder", "solver"}
    assert record.target.compute_capabilities == ("8.9", "12.0")
    assert all(record.components[name].path == f"{name}.engine" for name in record.components)
    sizes = record.components["denoiser"].profiles[0].sizes
    assert (sizes["patch_width"].minimum, sizes["patch_width"].maximum, sizes["batch"].maximum) == (2, 6, 4)
    with pytest.raises(InputError, match="does not fit this machine"):
        Pipeline(bundle, engine.name)


@pytest.mark.slow
@needs_rtx
def test_an_ep_context_model_stands_for_its_engine(bundle: Bundle) -> None:
    engine = build_engine(
        bundle, provider="tensorrt-rtx", precision="fp16", components=["vae_decoder"], calibration=FEW, check=False
    )
    model = onnx.load(engine.file("vae_decoder"))
    (node,) = model.graph.node
    attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    assert (node.op_type, node.domain) == ("EPContext", "com.microsoft")
    assert attributes["ep_cache_context"] == b"vae_decoder.engine"
    assert attributes["embed_mode"] == 0
    assert attributes["source"] == b"NvTensorRTRTXExecutionProvider"
    assert (engine.path / "vae_decoder.engine").stat().st_size > 0
    assert [value.name for value in model.graph.input] == ["latents"]
    # ONNX Runtime knows the operator, and says that this machine has no provider for it.
    ort = pytest.importorskip("onnxruntime")
    with pytest.raises(Exception, match="EPContext"):
        ort.InferenceSession(engine.file("vae_decoder"), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "openvino"}, "backend: 'openvino' came, expected one of onnxruntime"),
        ({"precision": "int4"}, "precision: 'int4' came"),
        ({"precision": "bf16", "provider": "cpu"}, "no bf16 kernels"),
        ({"precision": "int8", "provider": "cuda"}, "CUDA provider"),
        ({"precision": "fp32", "kernels": "fused"}, "fused operators are for"),
        ({"precision": "int8", "compute": "fp16"}, "computes in fp32 beside int8"),
        ({"precision": "fp16", "keep": ("blocks.0.*",)}, "quantises nothing"),
        ({"precision": "int8", "smoothing": 2.0}, "smoothing: 2.0 came"),
        ({"precision": "int8", "minimum": "1x64x64"}, "every size from one graph"),
        ({"precision": "fp16", "components": ["unet"]}, "no component 'unet'"),
        ({"precision": "fp32", "compute": "fp16"}, "it is for int8 and fp8"),
        ({"precision": "int8", "name": "auto"}, "meaning of its own"),
        ({"precision": "int8", "keep": ("no.such",), "check": False, "calibration": FEW}, "matches no linear layer"),
    ],
)
def test_options_that_do_not_go_together(bundle: Bundle, options: dict, message: str) -> None:
    with pytest.raises((InputError, BundleError), match=message) as caught:
        build_engine(bundle, **options)
    assert "\n" not in str(caught.value)


@needs_rtx
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"minimum": "2x64x64", "maximum": "1x64x64"}, "batch"),
        ({"minimum": "1x64x64", "maximum": "1x32x64"}, "height: minimum 64"),
        ({"resolutions": ("64x60",)}, "multiple of 16 pixels; the nearest is 64"),
        ({"resolutions": ("large",)}, "expected BxHxW or HxW"),
        ({"compute_capabilities": ("9.9",)}, "'9.9' came, TensorRT-RTX"),
    ],
)
def test_sizes_and_targets_that_cannot_be(bundle: Bundle, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        build_engine(bundle, backend="tensorrt-rtx", precision="fp16", **options)
    assert "\n" not in str(caught.value)


def test_a_stopped_build_leaves_nothing(bundle: Bundle) -> None:
    with pytest.raises(Cancelled):
        build_engine(bundle, precision="fp32", name="stopped", stop=lambda: True)
    assert "stopped" not in bundle.engine_names()
    assert not [
        path for path in (bundle.path / "engines").iterdir() if path.is_dir() and path.name.startswith(".stopped")
    ]


def test_a_folder_that_cannot_be_written_is_one_line(tiny_bundle: Path, tmp_path: Path) -> None:
    copy = Bundle.open(shutil.copytree(tiny_bundle, tmp_path / "tiny"))
    (copy.path / "engines").write_text("no folder")
    with pytest.raises(BundleError, match="engines") as caught:
        build_engine(copy, precision="fp32", check=False)
    assert "\n" not in str(caught.value)
