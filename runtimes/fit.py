"""Whether an engine fits this machine, and in one line why not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from dit_deploy.bundle import EngineRecord
from dit_deploy.errors import BackendError
from dit_deploy.extras import importable, install_command, installed
from dit_deploy.runtimes import cpu_ops
from dit_deploy.runtimes.gpus import gpu_compute_capabilities

__all__ = ["Machine", "lacks", "made_for", "this_machine", "unfit"]

_TITLES = {"onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
_CPU = "CPUExecutionProvider"
#: Providers whose graphs hold an engine, which the library named here built: another version of it does not take it.
_COMPILED = {"TensorrtExecutionProvider": "tensorrt", "NvTensorRTRTXExecutionProvider": "tensorrt-rtx"}
#: backend → the distributions that bring it, any of them
_DISTRIBUTIONS = {
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime"),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt-rtx": ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
}


@dataclass(frozen=True)
class Machine:
    """What engines need of a machine.

    Attributes:
        compute_capabilities: of its NVIDIA GPUs, ``("8.9",)``, in CUDA's order; the first is the one that is used.
        gpu_note: why there are none.
        versions: backend → the version installed; a backend that is missing here is not installed.
        providers: those that ONNX Runtime can use here.
        cpu_ops_note: why this package's own operators for CPUs are not here, and how to get them; empty where they are.
    """

    compute_capabilities: tuple[str, ...] = ()
    gpu_note: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    providers: tuple[str, ...] = ()
    cpu_ops_note: str = ""


@cache
def this_machine(gpus: bool = True) -> Machine:
    """Return the machine that this process runs on; without ``gpus`` the NVIDIA driver is not started."""
    versions = {
        backend: found
        for backend, names in _DISTRIBUTIONS.items()
        if (found := next(filter(None, map(installed, names)), None))
    }
    capabilities, note = gpu_compute_capabilities() if gpus else ((), "")
    return Machine(capabilities, note, versions, _providers(), cpu_ops.why_not())


def _providers() -> tuple[str, ...]:
    try:
        from dit_deploy.runtimes.providers import PLUGINS
    except BackendError:
        return ()
    import onnxruntime as ort

    plugins = [name for name, plugin in PLUGINS.items() if importable(plugin.module)]
    return tuple(dict.fromkeys([*ort.get_available_providers(), *plugins]))


def unfit(record: EngineRecord, machine: Machine | None = None) -> str:
    """Say in one line what an engine was made for and what of it this machine lacks; empty where the engine fits.

    ``it is for TensorRT-RTX 1.7.1 on compute capability 8.9 or 12.0; this machine has no NVIDIA GPU (…)``
    """
    lacking = lacks(record, machine)
    return f"it is for {made_for(record)}; {lacking}" if lacking else ""


def made_for(record: EngineRecord) -> str:
    """Write what an engine was made for: ``ONNX Runtime 1.32.0 with CUDAExecutionProvider``."""
    text = f"{_TITLES[_library(record)]} {record.backend_version}"
    if record.target.provider is not None:
        inside = " in ONNX Runtime" if record.target.provider in _COMPILED else ""
        text += f"{inside} with {record.target.provider}"
    if record.target.operators is not None:
        text += " and the fused INT8 operators"
    if record.target.device == "cuda":
        capabilities = " or ".join(record.target.compute_capabilities)
        text += f" on compute capability {capabilities}" if capabilities else " on an NVIDIA GPU"
    return text


def lacks(record: EngineRecord, machine: Machine | None = None) -> str:
    """Say what this machine lacks for an engine, what cannot be mended first; empty where the engine fits."""
    on_gpu = record.target.device == "cuda"
    if machine is None:
        machine = this_machine(gpus=on_gpu)
    if on_gpu and (lacking := _gpu(record, machine)):
        return lacking
    return _backend(record, machine) or _provider(record, machine) or _operators(record, machine)


def _gpu(record: EngineRecord, machine: Machine) -> str:
    if not machine.compute_capabilities:
        return "this machine has no NVIDIA GPU" + (f" ({machine.gpu_note})" if machine.gpu_note else "")
    wanted, first = record.target.compute_capabilities, machine.compute_capabilities[0]
    if wanted and first not in wanted:
        return f"this machine's GPU has compute capability {first}"
    return ""


def _library(record: EngineRecord) -> str:
    """Return what ``backend_version`` is the version of: what built the engine, if ONNX Runtime loads it or not."""
    return _COMPILED.get(record.target.provider or "", record.backend)


def _backend(record: EngineRecord, machine: Machine) -> str:
    if record.backend not in machine.versions:
        return f"this machine has no {_TITLES[record.backend]}: {install_command(_extra(record))}"
    library, built = _library(record), record.backend_version
    title, here = _TITLES[library], machine.versions.get(library)
    if here is None:
        return ""  # the provider has one of its own
    if library == "onnxruntime":
        fits = _numbers(here)[:2] >= _numbers(built)[:2]
    elif record.options.get("version_compatible") is True:
        fits = _numbers(here)[:1] == _numbers(built)[:1] and _numbers(here) >= _numbers(built)
    else:
        fits = all(one == other for one, other in zip(_numbers(here), _numbers(built), strict=False))
    return "" if fits else f"this machine has {title} {here}: build it again here, or install {built}"


def _provider(record: EngineRecord, machine: Machine) -> str:
    wanted = record.target.provider
    if record.backend != "onnxruntime" or wanted is None or wanted in machine.providers:
        return ""
    return f"this machine's ONNX Runtime {machine.versions.get('onnxruntime')} has no {wanted}"


def _operators(record: EngineRecord, machine: Machine) -> str:
    return "" if record.target.operators is None else machine.cpu_ops_note


def _extra(record: EngineRecord) -> str:
    if record.backend != "onnxruntime":
        return record.backend
    return "gpu" if record.target.device == "cuda" else "cpu"


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version; a wheel's may have one more than the library's own."""
    return tuple(int(part) for part in re.findall(r"\d+", re.match(r"[\d.]*", version.strip())[0]))  # type: ignore[index]
