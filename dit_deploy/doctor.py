"""What this machine can run, and why not the rest.

Nothing here raises because something is absent: that is an answer.
"""

from __future__ import annotations

import csv
import subprocess
import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dit_deploy import extras
from dit_deploy.bench.machine import available_memory, describe, free_disk
from dit_deploy.runtimes import cpu_ops
from dit_deploy.targets import TENSORRT_RTX_TARGETS

__all__ = ["Gpu", "Role", "examine"]

#: A graph with one Identity, as bytes of the ONNX protobuf, so that a provider can be tried without the onnx package.
_IDENTITY = (
    b'\x08\x08:\x37\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x11"
)


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU: ``Gpu("NVIDIA GeForce RTX 4090", "8.9", 24564, "570.86")``; memory in MiB."""

    name: str
    compute_capability: str
    memory_mib: int
    driver: str


@dataclass(frozen=True)
class Role:
    """Something that a user may want of this machine: whether it can, why (not), and what would mend it."""

    name: str
    able: bool
    reason: str
    mend: str = ""


def examine() -> dict[str, Any]:
    """Return what was found, as JSON values.

    Keys: ``machine`` (see :func:`dit_deploy.bench.machine.describe`), ``disk_free`` (bytes, where this process runs),
    ``packages`` (each with its extra, version and the command that installs it), ``providers`` (of ONNX Runtime:
    name → empty, or why it does not run), ``gpus``, ``gpu_note``, ``warnings``, ``roles``.
    """
    providers, provider_error = onnxruntime_providers()
    gpus, gpu_note = nvidia_gpus()
    warnings = []
    if extras.installed("onnxruntime") and extras.installed("onnxruntime-gpu"):
        warnings.append(
            "onnxruntime and onnxruntime-gpu are both installed, one over the other: uninstall both, then install one "
            "(pip uninstall -y onnxruntime onnxruntime-gpu; pip install onnxruntime-gpu)"
        )
    found: dict[str, Any] = {
        "machine": describe(),
        "disk_free": free_disk(),
        "packages": [
            {**asdict(package), "install": "" if package.version else _how_to_install(package)}
            for package in extras.packages()
        ],
        "providers": providers,
        "gpus": [asdict(gpu) for gpu in gpus],
        "gpu_note": gpu_note,
        "warnings": warnings,
    }
    roles = (
        _export(),
        _generate_cpu(providers, provider_error),
        _fused_int8(found["machine"]["cpu"]["features"], provider_error),
        _generate_cuda(providers, gpus, gpu_note),
        _video_files(),
        _build_rtx(),
        _run_rtx(gpus, gpu_note),
        _tensorrt(gpus, gpu_note),
    )
    found["roles"] = [asdict(role) for role in roles]
    return found


def _how_to_install(package: extras.Package) -> str:
    other = {"onnxruntime": "onnxruntime-gpu", "onnxruntime-gpu": "onnxruntime"}.get(package.name)
    if other is None or not extras.installed(other):
        return extras.install_command(package.extra)
    # The two have the same files, and pip does not know it.
    instead = "" if package.name == "onnxruntime-gpu" else f"not needed beside {other}; else: "
    return f"{instead}pip uninstall -y {other}; {extras.install_command(package.extra)}"


def onnxruntime_providers() -> tuple[dict[str, str], str]:
    """Try every execution provider of the installed ONNX Runtime on a tiny graph.

    Returns provider → empty where it ran, else why not; and why there are none at all.
    """
    try:
        import onnxruntime as ort

        from dit_deploy.runtimes.providers import preload_cuda

        names = [name for name in ort.get_available_providers() if name != "AzureExecutionProvider"]
        if "CUDAExecutionProvider" in names:
            preload_cuda()
        ort.set_default_logger_severity(4)
    except ModuleNotFoundError:
        return {}, "ONNX Runtime is not installed"
    except Exception as error:  # a broken installation fails in many ways
        return {}, f"ONNX Runtime does not load: {_first_line(error)}"
    return {name: _try_provider(ort, name) for name in names}, ""


def _try_provider(ort: Any, name: str) -> str:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(_IDENTITY, options, providers=[name])
    except Exception as error:
        return _first_line(error)
    return "" if name in session.get_providers() else "its libraries or its device are missing"


def nvidia_gpus() -> tuple[list[Gpu], str]:
    """Return the NVIDIA GPUs that ``nvidia-smi`` lists, and why there are none."""
    fields = "name,compute_cap,memory.total,driver_version"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except FileNotFoundError:
        if Path("/proc/driver/nvidia/version").exists():
            return [], "an NVIDIA driver is loaded, but there is no nvidia-smi to ask it"
        return [], "no NVIDIA driver: there is neither nvidia-smi nor /proc/driver/nvidia"
    except (OSError, subprocess.TimeoutExpired) as error:
        return [], f"nvidia-smi does not answer: {_first_line(error)}"
    if done.returncode:
        return [], f"nvidia-smi failed: {_first_line(done.stdout + done.stderr)}"
    gpus = []
    for row in csv.reader(done.stdout.splitlines(), skipinitialspace=True):
        if len(row) == 4:
            gpus.append(Gpu(row[0], row[1], int(row[2]) if row[2].isdigit() else 0, row[3]))
    return gpus, "" if gpus else "nvidia-smi lists no GPU"


def _export() -> Role:
    role = partial(Role, "export")
    missing = _missing("export")
    if missing:
        return role(False, f"not installed: {', '.join(missing)}", extras.install_command("export"))
    if not extras.importable("onnxruntime"):
        return role(
            False, "an export is checked with ONNX Runtime, which is not installed", extras.install_command("cpu")
        )
    memory = available_memory()
    if memory is not None and memory < 2 << 30:
        free = f"{memory / 1e9:.1f} GB of memory are free"
        return role(True, f"only {free}: models of a few hundred million parameters fit")
    return role(True, "a model needs about its weights' size in memory, beside 1 GB for the libraries")


def _generate_cpu(providers: dict[str, str], error: str) -> Role:
    role = partial(Role, "generate on the CPU")
    if error:
        return role(False, error, extras.install_command("cpu"))
    if reason := providers.get("CPUExecutionProvider", "this ONNX Runtime has no CPU provider"):
        return role(False, reason, "pip install --force-reinstall onnxruntime")
    return role(True, "the default")


def _fused_int8(features: list[str], error: str) -> Role:
    role = partial(Role, "fused INT8 on the CPU")
    if error:
        return role(False, error, extras.install_command("cpu"))
    if reason := cpu_ops.cannot_build():
        return role(False, reason, "or build engines with --kernels onnxruntime")
    slow = "" if "VNNI" in features else ", though this CPU has no VNNI, and --kernels onnxruntime may be faster"
    if cpu_ops.why_not():
        return role(True, f"build-engine compiles the operators when it first needs them{slow}")
    return role(True, f"the operators are compiled{slow}")


def _generate_cuda(providers: dict[str, str], gpus: list[Gpu], gpu_note: str) -> Role:
    role = partial(Role, "generate on CUDA")
    if not gpus:
        return role(False, gpu_note, "a machine with an NVIDIA GPU and its driver")
    if "CUDAExecutionProvider" not in providers:
        mend = "pip uninstall -y onnxruntime; " if extras.installed("onnxruntime") else ""
        return role(False, "this ONNX Runtime was built without CUDA", mend + extras.install_command("gpu"))
    if reason := providers["CUDAExecutionProvider"]:
        return role(False, f"CUDA does not start: {reason}", "pip install 'onnxruntime-gpu[cuda,cudnn]'")
    return role(True, f"with engines built for it, on {gpus[0].name}; the plain graphs run on the CPU")


def _video_files() -> Role:
    others = "videos are written as .gif, .webp and pictures without it"
    if missing := _missing("video"):
        return Role(
            "video files", False, f"not installed: {', '.join(missing)}; {others}", extras.install_command("video")
        )
    return Role("video files", True, f"by PyAV; {others}")


def _build_rtx() -> Role:
    role = partial(Role, "build TensorRT-RTX engines")
    missing = _missing("tensorrt-rtx")
    if missing:
        return role(False, f"not installed: {', '.join(missing)}", extras.install_command("tensorrt-rtx"))
    if reason := _import_fails("tensorrt_rtx"):
        return role(False, f"tensorrt_rtx does not load: {reason}", "pip install --force-reinstall tensorrt-rtx")
    return role(True, f"no GPU needed; for compute capability {', '.join(TENSORRT_RTX_TARGETS)}")


def _run_rtx(gpus: list[Gpu], gpu_note: str) -> Role:
    role = partial(Role, "run TensorRT-RTX engines")
    if not gpus:
        return role(False, gpu_note, "a machine with an NVIDIA RTX GPU and its driver")
    fitting = [gpu for gpu in gpus if gpu.compute_capability in TENSORRT_RTX_TARGETS]
    if not fitting:
        found = ", ".join(f"{gpu.name} ({gpu.compute_capability})" for gpu in gpus)
        targets = ", ".join(TENSORRT_RTX_TARGETS)
        return role(False, f"TensorRT-RTX supports compute capability {targets}, not {found}", "use TensorRT here")
    # Polygraphy, of the same extra, only builds.
    if missing := [name for name in _missing("tensorrt-rtx") if name != "polygraphy"]:
        return role(False, f"not installed: {', '.join(missing)}", extras.install_command("tensorrt-rtx"))
    if reason := _import_fails("tensorrt_rtx"):
        return role(False, f"tensorrt_rtx does not load: {reason}", "pip install --force-reinstall tensorrt-rtx")
    return role(True, f"on {fitting[0].name}")


def _tensorrt(gpus: list[Gpu], gpu_note: str) -> Role:
    role = partial(Role, "build and run TensorRT engines")
    if not gpus:
        return role(False, gpu_note, "a machine with the NVIDIA GPU that the engine is for")
    if missing := _missing("tensorrt"):
        return role(False, f"not installed: {', '.join(missing)}", extras.install_command("tensorrt"))
    if reason := _import_fails("tensorrt"):
        return role(False, f"tensorrt does not load: {reason}", "pip install --force-reinstall tensorrt")
    return role(True, f"on {gpus[0].name}")


def _missing(extra: str) -> list[str]:
    return [package.name for package in extras.packages() if package.extra == extra and package.version is None]


def _import_fails(module: str) -> str:
    """Return why a module cannot be imported, tried in a process of its own: a broken native library may end it."""
    command = [sys.executable, "-c", f"import {module}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return _first_line(error)
    if done.returncode == 0:
        return ""
    return (done.stderr.strip().splitlines() or [f"it ends with status {done.returncode}"])[-1][:200]


def _first_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
