"""Whether an engine fits a machine: machines are made up, so that every one can be tried here."""

from __future__ import annotations

from typing import Any

import pytest

from dit_deploy.bundle import EngineComponent, EngineRecord, FileRecord, Target, engine_key
from dit_deploy.runtimes import fit
from dit_deploy.runtimes.fit import Machine, unfit
from dit_deploy.runtimes.gpus import gpu_compute_capabilities

ORT = ("CPUExecutionProvider",)
LAPTOP = Machine(gpu_note="no NVIDIA driver is installed", versions={"onnxruntime": "1.32.0"}, providers=ORT)
RTX = Machine(
    compute_capabilities=("8.9", "12.0"),
    versions={"onnxruntime": "1.32.0", "tensorrt-rtx": "1.7.1.116", "tensorrt": "10.14.1.48.post1"},
    providers=(*ORT, "CUDAExecutionProvider", "NvTensorRTRTXExecutionProvider"),
)


def record(**changes: Any) -> EngineRecord:
    """An engine for TensorRT-RTX 1.7.1.116 on 8.9, with changes."""
    fields: dict[str, Any] = {
        "name": "fast",
        "created_by": "tests",
        "created": "2026-11-25T21:40:00Z",
        "backend": "tensorrt-rtx",
        "backend_version": "1.7.1.116",
        "precision": "fp16",
        "target": Target(device="cuda", compute_capabilities=("8.0", "8.9")),
        "components": {"denoiser": EngineComponent(path="d", kind="onnx", graph="0" * 64)},
        "key": engine_key({}),
        "key_parts": {},
        "seconds": 0,
        "files": {"d": FileRecord(size=0, sha256="0" * 64)},
    }
    return EngineRecord(**{**fields, **changes})


def onnx(version: str = "1.32.0", provider: str = "CPUExecutionProvider", **changes: Any) -> EngineRecord:
    device = "cpu" if provider.startswith("CPU") else "cuda"
    target = Target(device=device, provider=provider, **changes)
    return record(backend="onnxruntime", backend_version=version, target=target)


def machine(**versions: str) -> Machine:
    given = {name.replace("_", "-"): version for name, version in versions.items()}
    return Machine(RTX.compute_capabilities, versions={**RTX.versions, **given}, providers=RTX.providers)


FITS = [
    (record(), RTX),
    (record(target=Target(device="cuda")), RTX),
    (record(backend="tensorrt", backend_version="10.14.1.48"), RTX),  # the wheel's number is longer
    (record(options={"version_compatible": True}, backend_version="1.2.0"), RTX),
    (onnx(), LAPTOP),
    (onnx("1.23.5"), LAPTOP),
    (onnx("1.32.7"), LAPTOP),  # a patch release changes no operator
    (onnx(provider="CUDAExecutionProvider"), RTX),
    (onnx("1.7.1.116", "NvTensorRTRTXExecutionProvider"), RTX),
    # A provider that brings its own library says itself what it does not take.
    (onnx("1.6.0", "NvTensorRTRTXExecutionProvider"), Machine(("8.9",), "", {"onnxruntime": "1.32.0"}, RTX.providers)),
]


@pytest.mark.parametrize(("engine", "here"), FITS)
def test_what_fits(engine: EngineRecord, here: Machine) -> None:
    assert unfit(engine, here) == ""


NOT = [
    (
        record(),
        LAPTOP,
        "it is for TensorRT-RTX 1.7.1.116 on compute capability 8.0 or 8.9; this machine has no NVIDIA GPU "
        "(no NVIDIA driver is installed)",
    ),
    (
        record(target=Target(device="cuda", compute_capabilities=("12.0",))),
        RTX,
        "it is for TensorRT-RTX 1.7.1.116 on compute capability 12.0; this machine's GPU has compute capability 8.9",
    ),
    (
        record(),
        machine(tensorrt_rtx="1.7.2.1"),
        "on compute capability 8.0 or 8.9; this machine has TensorRT-RTX 1.7.2.1: "
        "build it again here, or install 1.7.1.116",
    ),
    (record(), machine(tensorrt_rtx="1.7.1.117"), "this machine has TensorRT-RTX 1.7.1.117"),
    (
        record(options={"version_compatible": True}),
        machine(tensorrt_rtx="1.7.0.2"),
        "this machine has TensorRT-RTX 1.7.0.2",
    ),
    (record(options={"version_compatible": True}), machine(tensorrt_rtx="2.0"), "this machine has TensorRT-RTX 2.0"),
    (record(), Machine(("8.9",)), "this machine has no TensorRT-RTX: pip install 'dit-deploy[tensorrt-rtx]'"),
    (
        record(backend="tensorrt", backend_version="10.13.0"),
        RTX,
        "it is for TensorRT 10.13.0 on compute capability 8.0 or 8.9; this machine has TensorRT 10.14.1.48.post1",
    ),
    (
        onnx("1.33.0"),
        LAPTOP,
        "it is for ONNX Runtime 1.33.0 with CPUExecutionProvider; this machine has ONNX Runtime 1.32.0",
    ),
    (onnx("2.0.0"), LAPTOP, "this machine has ONNX Runtime 1.32.0"),
    (onnx(), Machine(), "this machine has no ONNX Runtime: pip install 'dit-deploy[cpu]'"),
    (onnx(provider="CUDAExecutionProvider"), Machine(("8.9",)), "pip install 'dit-deploy[gpu]'"),
    (
        onnx(provider="CUDAExecutionProvider"),
        LAPTOP,
        "with CUDAExecutionProvider on an NVIDIA GPU; this machine has no NVIDIA GPU",
    ),
    (
        onnx(provider="CUDAExecutionProvider"),
        Machine(("8.9",), "", LAPTOP.versions, ORT),
        "this machine's ONNX Runtime 1.32.0 has no CUDAExecutionProvider",
    ),
    (
        onnx("1.7.0", "NvTensorRTRTXExecutionProvider"),
        RTX,
        "it is for TensorRT-RTX 1.7.0 in ONNX Runtime with NvTensorRTRTXExecutionProvider on an NVIDIA GPU; this "
        "machine has TensorRT-RTX 1.7.1.116",
    ),
    (
        onnx("1.7.1.116", "NvTensorRTRTXExecutionProvider", compute_capabilities=("9.0",)),
        RTX,
        "this machine's GPU has compute capability 8.9",
    ),
]


@pytest.mark.parametrize(("engine", "here", "message"), NOT)
def test_what_does_not_fit_and_why(engine: EngineRecord, here: Machine, message: str) -> None:
    line = unfit(engine, here)
    assert message in line and "\n" not in line


def test_this_machine_is_what_its_packages_say() -> None:
    import onnxruntime

    found = fit.this_machine()
    assert found.versions["onnxruntime"] == onnxruntime.__version__
    assert set(onnxruntime.get_available_providers()) <= set(found.providers)
    assert unfit(onnx(onnxruntime.__version__)) == ""


def test_engines_for_the_cpu_leave_the_driver_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    fit.this_machine.cache_clear()
    monkeypatch.setattr(fit, "gpu_compute_capabilities", lambda: pytest.fail("the driver was started"))
    assert unfit(onnx("1.23.0")) == ""
    fit.this_machine.cache_clear()


def test_gpus_agree_with_nvidia_smi() -> None:
    from dit_deploy.doctor import nvidia_gpus

    listed, _ = nvidia_gpus()
    capabilities, note = gpu_compute_capabilities()
    assert capabilities == tuple(gpu.compute_capability for gpu in listed)
    assert bool(note) is not bool(capabilities)
