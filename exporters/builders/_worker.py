"""The other side of :mod:`._child`: loads a TensorRT library, builds an engine, and reports in lines of JSON.

Standard output carries the reports; what native code prints goes to standard error. The end of standard input says
that the build is no longer wanted. Only the standard library, TensorRT, Polygraphy and light modules of this package
are imported here.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

from dit_deploy.errors import DitDeployError
from dit_deploy.exporters.builders._engine import Refused, Stopped, build, inspect

__all__ = ["main"]

#: Our options → the enumeration and member that a library has where it has the option.
_MEMBERS = {
    "strip_weights": ("BuilderFlag", "STRIP_PLAN"),
    "refittable": ("BuilderFlag", "REFIT"),
    "version_compatible": ("BuilderFlag", "VERSION_COMPATIBLE"),
    "hardware_compatibility": ("HardwareCompatibilityLevel", "NONE"),
    "workspace_bytes": ("MemoryPoolType", "WORKSPACE"),
    "timing_cache": ("ITimingCache", "serialize"),
    "optimization_level": ("IBuilderConfig", "builder_optimization_level"),
    "compute_capabilities": ("ComputeCapability", "CURRENT"),
}

#: Seconds after which a build that nobody waits for ends itself, also within one step.
_PATIENCE = 4.0


def main() -> None:
    """Answer the request on standard input, then exit."""
    reports = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")  # of Polygraphy using what its library deprecates

    def report(event: str, **values: Any) -> None:
        with contextlib.suppress(BrokenPipeError):
            reports.write(json.dumps({"event": event, **values}) + "\n")
            reports.flush()

    request = json.loads(sys.stdin.readline())
    gone = threading.Event()
    threading.Thread(target=_watch, args=(gone, request.get("partial")), daemon=True).start()
    try:
        if request["task"] == "describe":
            report("library", **_describe(request["flavour"]))
        elif request["task"] == "inspect":
            report("layers", layers=inspect(request["flavour"], request["path"]))
        else:
            report("built", **build(request, lambda *step: _progress(report, *step), gone.is_set))
    except Stopped:
        report("stopped")
    except Refused as error:
        report("refused", details=error.details)
    except DitDeployError as error:
        report("error", kind=type(error).__name__, message=str(error))
    except MemoryError:
        report("error", kind="BackendError", message="memory ran out while the engine was built")
    except Exception as error:
        report("error", kind="BackendError", message=f"{type(error).__name__}: {' '.join(str(error).split())}")
    reports.close()
    if gone.is_set():  # while the engine was written
        _forget(request.get("partial"))
    # Not the usual way out: the libraries' own tidying up has nothing to tidy here, and can crash.
    sys.stderr.flush()
    os._exit(0)


def _watch(gone: threading.Event, partial: str | None) -> None:
    """Wait for the end of standard input; then let the build end at its next step, or end it."""
    with contextlib.suppress(OSError, ValueError):
        while sys.stdin.readline():
            pass
    gone.set()
    time.sleep(_PATIENCE)
    _forget(partial)
    os._exit(1)


def _forget(partial: str | None) -> None:
    if partial is not None:
        with contextlib.suppress(OSError):
            os.unlink(partial)


def _progress(report: Callable[..., None], phase: str, step: int, steps: int) -> None:
    report("progress", phase=phase, step=step, steps=steps)


def _describe(flavour: str) -> dict[str, Any]:
    gpu, note = _gpu()
    found: dict[str, Any] = {"gpu": gpu, "gpu_note": note, "error": "", "version": ""}
    try:
        trt = importlib.import_module(flavour.replace("-", "_"))
    except Exception as error:  # a broken installation fails in many ways
        return {**found, "error": f"{type(error).__name__}: {error}", "compute_capabilities": [], "options": []}
    options = [option for option, (owner, name) in _MEMBERS.items() if hasattr(getattr(trt, owner, None), name)]
    capabilities = []
    for name in getattr(getattr(trt, "ComputeCapability", None), "__members__", {}):
        if match := re.fullmatch(r"SM(\d+)(\d)", name):
            capabilities.append((int(match[1]), int(match[2])))
    return {
        **found,
        "version": str(trt.__version__),
        "options": options,
        "compute_capabilities": [f"{major}.{minor}" for major, minor in sorted(capabilities)],
    }


def _gpu() -> tuple[dict[str, str] | None, str]:
    """Ask the driver for the first GPU: (name and compute capability, why there is none)."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        cuda = ctypes.CDLL(library)
    except OSError:
        return None, f"there is no NVIDIA driver ({library} is not found)"
    count, device, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(100)
    major, minor = ctypes.c_int(), ctypes.c_int()
    if status := cuda.cuInit(0):
        return None, f"the NVIDIA driver does not start (CUDA error {status})"
    if cuda.cuDeviceGetCount(ctypes.byref(count)) or count.value == 0:
        return None, "the NVIDIA driver finds no GPU"
    cuda.cuDeviceGet(ctypes.byref(device), 0)
    cuda.cuDeviceGetName(name, len(name), device)
    # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of the driver's C interface.
    cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
    return {"name": name.value.decode(), "compute_capability": f"{major.value}.{minor.value}"}, ""
