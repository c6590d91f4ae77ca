"""ONNX Runtime sessions on the execution providers that were asked for, and on no others.

ONNX Runtime takes a provider that does not load for a reason to compute on the CPU, and says so in a log line. Here it
is an error: a picture that takes a hundred times as long is not what was asked for. (Single nodes stay on the CPU on
purpose: they compute shapes.)
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dit_deploy.errors import BackendError
from dit_deploy.extras import importable

try:
    import onnxruntime as ort
except ImportError as error:
    raise BackendError(
        "ONNX Runtime is not installed; install dit-deploy[cpu], or dit-deploy[gpu] on a machine with an NVIDIA GPU"
    ) from error

__all__ = ["CPU", "CUDA", "PLUGINS", "Plugin", "Provider", "first_line", "open_session", "ort", "preload_cuda"]

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
#: A provider's name, or its name and options.
Provider = str | tuple[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Plugin:
    """A provider that a package of its own brings: the module that knows its library, and the kind of its device."""

    module: str
    device: str
    package: str


#: Providers that are no part of ONNX Runtime's own packages.
PLUGINS = {
    "NvTensorRTRTXExecutionProvider": Plugin("onnxruntime_ep_nv_tensorrt_rtx", "GPU", "onnxruntime-ep-nv-tensorrt-rtx"),
    "OpenVINOExecutionProvider": Plugin("onnxruntime_ep_openvino", "CPU", "onnxruntime-ep-openvino"),
}

_CUDA_LIBRARIES = ("CUDAExecutionProvider", "TensorrtExecutionProvider")
_lock = threading.Lock()
_registered: set[str] = set()
_preloaded = False


def open_session(
    model: Path | bytes, options: ort.SessionOptions, providers: Sequence[Provider], what: str
) -> ort.InferenceSession:
    """Open a session that runs on ``providers``, in order of preference; nodes that none takes stay on the CPU.

    Args:
        model: the ONNX file, or its bytes.
        options: of the session; a plugin's devices are added to it.
        what: what the model is called in a message: ``"model.onnx of denoiser"``.

    Raises:
        BackendError: a provider is not in this ONNX Runtime, does not load, or ONNX Runtime refuses the model.
    """
    asked = [_pair(provider) for provider in providers]
    plugins = [pair for pair in asked if pair[0] not in ort.get_available_providers()]
    try:
        if plugins:
            (name, provider_options), *more = plugins
            if more or len(asked) > 1 + (asked[-1][0] == CPU):
                raise BackendError(f"ONNX Runtime: {name} is a plugin here, and runs beside the CPU's provider only")
            options.add_provider_for_devices(
                _plugin_devices(name), {key: str(v) for key, v in provider_options.items()}
            )
            session = ort.InferenceSession(model, options)
        else:
            if any(name in _CUDA_LIBRARIES for name, _ in asked):
                preload_cuda()
            session = ort.InferenceSession(model, options, providers=asked, enable_fallback=0)
    except BackendError:
        raise
    except Exception as error:
        raise BackendError(f"ONNX Runtime refuses {what}: {first_line(error)}") from error
    running = session.get_providers()
    if missing := [name for name, _ in asked if name not in running]:
        raise BackendError(
            f"ONNX Runtime: {missing[0]} does not start on this machine, so {what} would run on the CPU; its libraries "
            "or its device are missing (`dit-deploy doctor` says which)"
        )
    return session


def _pair(provider: Provider) -> tuple[str, dict[str, Any]]:
    if isinstance(provider, str):
        return provider, {}
    name, options = provider
    return name, dict(options)


def _plugin_devices(name: str) -> list[Any]:
    """Return the devices of a plugin provider, its library registered with ONNX Runtime once a process."""
    plugin = PLUGINS.get(name)
    if plugin is None:
        hint = " (the one installed computes on the CPU; install dit-deploy[gpu] instead)" if name == CUDA else ""
        raise BackendError(
            f"ONNX Runtime {ort.__version__} has no {name}{hint}; it has {', '.join(ort.get_available_providers())}"
        )
    if not importable(plugin.module):
        raise BackendError(f"ONNX Runtime: {name} is not installed; pip install {plugin.package}")
    with _lock:
        if name not in _registered:
            try:
                library = importlib.import_module(plugin.module).get_library_path()
                ort.register_execution_provider_library(name, str(library))
            except Exception as error:
                raise BackendError(f"ONNX Runtime: {name} does not load: {first_line(error)}") from error
            _registered.add(name)
    devices = [one for one in ort.get_ep_devices() if one.ep_name == name]
    fitting = [one for one in devices if one.device.type.name == plugin.device]
    if not fitting:
        raise BackendError(f"ONNX Runtime: {name} finds no {plugin.device} that it could run on")
    return fitting[:1]


def preload_cuda() -> None:
    """Load CUDA's libraries from their wheels, where ``onnxruntime-gpu[cuda,cudnn]`` put them, once a process."""
    global _preloaded
    with _lock:
        if not _preloaded and hasattr(ort, "preload_dlls"):
            # It prints what it does not find, which the system may have; the session tells what is missing.
            with contextlib.redirect_stdout(io.StringIO()):
                ort.preload_dlls()
        _preloaded = True


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, cut to what a terminal shows; where CUDA failed, what CUDA said.

    ONNX Runtime's own first line is then a C++ signature of its checks.
    """
    if said := re.search(r"\b(?:CUDA|CUBLAS|CUDNN|CUFFT)\w* (?:failure|error)[^;\n]*", str(error)):
        return said[0].strip()[:300]
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
