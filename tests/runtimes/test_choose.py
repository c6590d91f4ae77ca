"""Which engine runs: the one that was named, or the best that fits, with the reason."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from dit_deploy import Bundle
from dit_deploy.errors import BundleError, InputError, IntegrityError
from dit_deploy.runtimes.choose import choose_engine
from dit_deploy.runtimes.fit import Machine

from .engines import CUDA, add_engine, rtx

CPU_ONLY = Machine(versions={"onnxruntime": "1.99.0"}, providers=("CPUExecutionProvider",))
GPU = Machine(
    ("8.9",),
    versions={"onnxruntime": "1.99.0", "tensorrt-rtx": "1.7.1.116", "tensorrt": "11.0"},
    providers=("CUDAExecutionProvider", "NvTensorRTRTXExecutionProvider", "CPUExecutionProvider"),
)


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Bundle:
    return Bundle.open(shutil.copytree(tiny_bundle, tmp_path / "copied"))


def test_without_engines_the_plain_graphs_run(bundle: Bundle) -> None:
    choice = choose_engine(bundle, "auto")
    assert (choice.name, choice.engine) == ("onnx", None)
    assert choice.reason == "onnx: the plain graphs, as this bundle has no engines"


def test_the_order_of_the_best(bundle: Bundle) -> None:
    """Each is removed in turn, so that the next shows."""
    tensorrt = {**rtx("8.9"), "backend": "tensorrt", "backend_version": "11.0"}
    context = CUDA.model_copy(update={"provider": "NvTensorRTRTXExecutionProvider"})
    order: list[tuple[str, dict[str, Any]]] = [
        ("a-tensorrt-fp8", {**tensorrt, "precision": "fp8"}),
        ("tensorrt-fp16", {**tensorrt, "precision": "fp16"}),
        ("rtx-int8", {**rtx("8.9"), "precision": "int8"}),
        ("a-rtx-fp32", {**rtx("8.9"), "precision": "fp32"}),
        ("context-fp16", {"target": context, "backend_version": "1.7.1.116", "precision": "fp16"}),
        ("cuda-fp16", {"target": CUDA, "precision": "fp16"}),
        ("a-cuda-bf16", {"target": CUDA, "precision": "bf16"}),
        ("cpu-int8", {"precision": "int8"}),
        ("a-cpu-fp32", {"precision": "fp32"}),
    ]
    for name, fields in reversed(order):
        add_engine(bundle, name, **fields)
    for name, _ in order:
        assert choose_engine(bundle, "auto", GPU).name == name
        shutil.rmtree(bundle.path / "engines" / name)
    assert choose_engine(bundle, "auto", GPU).name == "onnx"


def test_the_reason_counts_and_names_what_does_not_fit(bundle: Bundle) -> None:
    add_engine(bundle, "onnxruntime-int8", precision="int8")
    add_engine(bundle, "onnxruntime-fp32")
    add_engine(bundle, "tensorrt-rtx-fp16", precision="fp16", **rtx("8.9"))
    choice = choose_engine(bundle, "auto", CPU_ONLY)
    assert choice.engine is not None and choice.engine.name == "onnxruntime-int8"
    assert choice.reason == (
        "onnxruntime-int8: the best of 2 that fit; tensorrt-rtx-fp16 does not fit: this machine has no NVIDIA GPU"
    )
    assert choose_engine(bundle, "auto", GPU).name == "tensorrt-rtx-fp16"


def test_an_engine_without_the_denoiser_is_the_last(bundle: Bundle) -> None:
    add_engine(bundle, "decoder", "vae_decoder", precision="int8", **rtx("8.9"))
    assert choose_engine(bundle, "auto", GPU).name == "decoder"
    add_engine(bundle, "cpu")
    assert choose_engine(bundle, "auto", GPU).name == "cpu"


def test_half_precision_on_a_cpu_is_passed_over(bundle: Bundle) -> None:
    add_engine(bundle, "fp16", precision="fp16")
    choice = choose_engine(bundle, "auto", CPU_ONLY)
    assert choice.name == "onnx"
    assert choice.reason == "onnx: the plain graphs; fp16: slower than the plain graphs on a CPU"
    assert choose_engine(bundle, "fp16", CPU_ONLY).name == "fp16"


def test_failed_parity_is_never_chosen_but_may_be_named(bundle: Bundle) -> None:
    add_engine(bundle, "bad", precision="int8", parity={"passed": False, "psnr": 12.0})
    choice = choose_engine(bundle, "auto", CPU_ONLY)
    assert (choice.name, choice.reason) == ("onnx", "onnx: the plain graphs; bad failed its parity check")
    choice = choose_engine(bundle, "bad", CPU_ONLY)
    assert (choice.name, choice.reason) == ("bad", "bad: as asked, though its parity check failed")
    add_engine(bundle, "good", parity={"passed": True, "psnr": 50.0})
    assert choose_engine(bundle, "auto", CPU_ONLY).reason == "good: the one that fits; bad failed its parity check"


def test_a_damaged_engine_is_passed_over_and_said(bundle: Bundle) -> None:
    damaged = add_engine(bundle, "damaged", precision="int8")
    add_engine(bundle, "whole")
    (damaged.path / "denoiser/model.onnx.data").write_bytes(b"short")
    choice = choose_engine(bundle, "auto", CPU_ONLY)
    assert choice.name == "whole"
    assert "damaged cannot be used: " in choice.reason and "has 5 bytes" in choice.reason
    with pytest.raises(IntegrityError, match=r"has 5 bytes, but engine\.json says"):
        choose_engine(bundle, "damaged", CPU_ONLY)
    (damaged.path / "engine.json").write_text("{}")
    assert choose_engine(bundle, "auto", CPU_ONLY).name == "whole"
    with pytest.raises(BundleError, match="is no record of an engine"):
        choose_engine(bundle, "damaged", CPU_ONLY)


def test_names(bundle: Bundle) -> None:
    add_engine(bundle, "rtx", **rtx("12.0"))
    assert choose_engine(bundle, "onnx", CPU_ONLY).reason == "onnx: the plain graphs, as asked"
    with pytest.raises(InputError, match="engine: 'fast' came; this bundle has onnx, the plain graphs, and rtx"):
        choose_engine(bundle, "fast", CPU_ONLY)
    for machine, why in (
        (CPU_ONLY, "this machine has no NVIDIA GPU"),
        (GPU, "this machine's GPU has compute capability 8.9"),
    ):
        with pytest.raises(InputError) as caught:
            choose_engine(bundle, "rtx", machine)
        assert str(caught.value) == (
            "engine: rtx does not fit this machine: it is for TensorRT-RTX 1.7.1.116 on compute capability 12.0; "
            f'{why}; use another, or engine="auto"'
        )


def test_many_that_do_not_fit_stay_on_one_line(bundle: Bundle) -> None:
    for number in range(6):
        add_engine(bundle, f"rtx{number}", **rtx("8.9"))
    reason = choose_engine(bundle, "auto", CPU_ONLY).reason
    assert reason.count("does not fit") == 3 and reason.endswith("; and 3 more do not")
