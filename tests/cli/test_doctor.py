"""``doctor``: answers on this machine, and on machines that are pretended."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from dit_deploy import doctor, extras
from dit_deploy.bench import machine
from tests.cli.command import Command

RTX = doctor.Gpu("NVIDIA GeForce RTX 4090", "8.9", 24564, "595.10")
H100 = doctor.Gpu("NVIDIA H100", "9.0", 81559, "595.10")


def role(found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in found["roles"] if one["name"] == name)


def pretend_packages(monkeypatch: pytest.MonkeyPatch, **versions: str | None) -> None:
    """Pretend that packages (``_`` for ``-``) are installed in a version, or are not."""
    real = extras.installed
    named = {name.replace("_", "-"): version for name, version in versions.items()}
    monkeypatch.setattr(extras, "installed", lambda name: named.get(name, real(name)) if name in named else real(name))
    extras.packages.cache_clear()
    monkeypatch.setattr(doctor, "_import_fails", lambda module: "")


@pytest.fixture(autouse=True)
def _fresh() -> Any:
    yield
    extras.packages.cache_clear()


def test_here(cli: Command) -> None:
    result = cli("doctor")
    assert (result.status, result.err) == (0, "")
    for text in ("CPU features", "export", "generate on the CPU", "onnxruntime", "build TensorRT-RTX engines"):
        assert text in result.out


def test_as_json(cli: Command) -> None:
    found = json.loads(cli("doctor", "--json").out)
    assert role(found, "generate on the CPU") == {
        "name": "generate on the CPU",
        "able": True,
        "reason": "the default",
        "mend": "",
    }
    assert found["providers"]["CPUExecutionProvider"] == ""
    assert found["machine"]["cpu"]["usable_cores"] >= 1


def test_the_extras_are_those_of_the_project() -> None:
    names = {package.name: package.extra for package in extras.packages()}
    assert names["torch"] == "export"
    assert names["onnxruntime"] == "cpu"
    assert names["onnxruntime-gpu"] == "gpu"
    assert names["tensorrt-rtx"] == "tensorrt-rtx"
    assert extras.extra_of_module("onnx_ir.passes") == "export"
    assert extras.extra_of_module("numpy") is None


def test_both_wheels_of_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_packages(monkeypatch, onnxruntime="1.32.0", onnxruntime_gpu="1.31.0")
    assert "one over the other" in doctor.examine()["warnings"][0]
    pretend_packages(monkeypatch, onnxruntime="1.32.0", onnxruntime_gpu=None)
    assert doctor.examine()["warnings"] == []


def test_missing_packages_name_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_packages(monkeypatch, torch=None, tensorrt_rtx=None, av=None)
    found = doctor.examine()
    assert role(found, "video files")["able"] is False
    assert role(found, "video files")["mend"] == "pip install 'dit-deploy[video]'"
    assert role(found, "export")["able"] is False
    assert role(found, "export")["mend"] == "pip install 'dit-deploy[export]'"
    assert role(found, "build TensorRT-RTX engines")["mend"] == "pip install 'dit-deploy[tensorrt-rtx]'"
    torch = next(package for package in found["packages"] if package["name"] == "torch")
    assert torch["install"] == "pip install 'dit-deploy[export]'"


def test_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_packages(monkeypatch, tensorrt="11.0", tensorrt_rtx="1.7.1", polygraphy="0.53.6")
    for gpu, able in ((RTX, True), (H100, False)):
        monkeypatch.setattr(doctor, "nvidia_gpus", lambda gpu=gpu: ([gpu], ""))
        found = doctor.examine()
        assert role(found, "build TensorRT-RTX engines")["able"] is True
        assert role(found, "run TensorRT-RTX engines")["able"] is able
        assert role(found, "build and run TensorRT engines")["able"] is True
        assert "built without CUDA" in role(found, "generate on CUDA")["reason"]
    assert "not NVIDIA H100 (9.0)" in role(found, "run TensorRT-RTX engines")["reason"]


def test_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "nvidia_gpus", lambda: ([RTX], ""))
    for reason, able in (("", True), ("its libraries are missing", False)):
        providers = {"CUDAExecutionProvider": reason, "CPUExecutionProvider": ""}
        monkeypatch.setattr(doctor, "onnxruntime_providers", lambda providers=providers: (providers, ""))
        answer = role(doctor.examine(), "generate on CUDA")
        assert answer["able"] is able
        assert ("NVIDIA GeForce RTX 4090" if able else "its libraries are missing") in answer["reason"]


def test_running_rtx_needs_the_library_and_no_builder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "nvidia_gpus", lambda: ([RTX], ""))
    pretend_packages(monkeypatch, tensorrt_rtx="1.7.1", polygraphy=None)
    found = doctor.examine()
    assert role(found, "run TensorRT-RTX engines")["able"] is True
    assert role(found, "build TensorRT-RTX engines")["able"] is False
    monkeypatch.setattr(doctor, "_import_fails", lambda module: "it lacks a library")
    assert "it lacks a library" in role(doctor.examine(), "run TensorRT-RTX engines")["reason"]


@pytest.mark.parametrize(
    ("answer", "gpus", "note"),
    [
        ("NVIDIA GeForce RTX 4090, 8.9, 24564, 595.10\n", [RTX], ""),
        ("NVIDIA H100, 9.0, [N/A], 595.10\n", [doctor.Gpu("NVIDIA H100", "9.0", 0, "595.10")], ""),
        ("", [], "lists no GPU"),
        (FileNotFoundError(), [], "neither nvidia-smi nor /proc/driver/nvidia"),
        (subprocess.TimeoutExpired("nvidia-smi", 20), [], "does not answer"),
    ],
)
def test_nvidia_smi(
    monkeypatch: pytest.MonkeyPatch, answer: str | Exception, gpus: list[doctor.Gpu], note: str
) -> None:
    def run(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        if isinstance(answer, Exception):
            raise answer
        return subprocess.CompletedProcess([], 0, answer, "")

    monkeypatch.setattr(subprocess, "run", run)
    found, why = doctor.nvidia_gpus()
    assert found == gpus
    assert note in why


def test_a_machine_that_tells_nothing(monkeypatch: pytest.MonkeyPatch, cli: Command) -> None:
    monkeypatch.setattr(machine, "_read", lambda path: "")
    monkeypatch.setattr(doctor, "nvidia_gpus", lambda: ([], "no NVIDIA driver"))
    result = cli("doctor")
    assert result.status == 0
    assert "unknown free of unknown" in result.out


def test_fused_int8_needs_a_compiler(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.cpu_ops, "cannot_build", lambda: "the operators need g++ 11 or newer, found none")
    found = json.loads(cli("doctor", "--json").out)
    without = role(found, "fused INT8 on the CPU")
    assert not without["able"]
    assert without["reason"] == "the operators need g++ 11 or newer, found none"
    assert "--kernels onnxruntime" in without["mend"]
    monkeypatch.setattr(doctor.cpu_ops, "cannot_build", lambda: "")
    monkeypatch.setattr(doctor.cpu_ops, "why_not", lambda: "not built")
    assert "build-engine compiles" in role(json.loads(cli("doctor", "--json").out), "fused INT8 on the CPU")["reason"]
