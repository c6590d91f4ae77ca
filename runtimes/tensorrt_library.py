"""Either TensorRT library as a Python module, and engines from their files, with errors that say what is wrong."""

from __future__ import annotations

import importlib
import mmap
import re
import threading
from collections import deque
from pathlib import Path
from typing import Any, Literal

from dit_deploy.errors import BackendError
from dit_deploy.extras import install_command

__all__ = ["Flavour", "Said", "deserialize", "load_library", "open_logger", "title"]

Flavour = Literal["tensorrt", "tensorrt-rtx"]

_TITLES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
_MEND = "build the engine again for this machine with `dit-deploy build-engine`"

#: What the library says → what it means. The first that matches what was said decides.
_REASONS = (
    (r"driver version is insufficient|cudaError 35|no CUDA-capable device|CUDA initialization failure|cudaError 100"
     r"|OLD_CUDA_DRIVER",
     "there is no NVIDIA driver, or it is too old: `dit-deploy doctor` says which"),
    (r"magicTag|magic tag|MALFORMED", "it is cut short, or no engine: copy it again, or build it again"),
    (r"version tag|version of TensorRT|serialization version|VERSION_MISMATCH|library version",
     f"another version of {{title}} built it, here is {{version}}: {_MEND}, or install that version"),
    (r"incompatible device|compute capab|different device|UNSUPPORTED_CC|not supported on this GPU",
     f"it was built for another GPU than {{gpu}}: {_MEND}"),
    (r"out of memory|cudaError 2\b|OutOfMemory|INSUFFICIENT_GPU_MEMORY",
     "{gpu} has not enough memory left for it: close what else uses the GPU (`nvidia-smi` lists it)"),
    (r"host code", f"it carries code of its own, which is not run: {_MEND} without version compatibility"),
    (r"stripped|refit", "its weights were left out of it and were not given"),
    (r"truncat|corrupt|size mismatch|out of range|end of (?:file|stream|buffer)",
     "it is cut short: copy it again, or build it again"),
)  # fmt: skip
#: Bits of ``EngineInvalidityDiagnostics``, by name as the library has them.
_DIAGNOSTICS = (
    "VERSION_MISMATCH", "UNSUPPORTED_CC", "OLD_CUDA_DRIVER", "INSUFFICIENT_GPU_MEMORY", "MALFORMED_ENGINE"
)  # fmt: skip


class Said:
    """What a library's logger was told last: errors only, oldest first."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=20)
        self._lock = threading.Lock()

    def add(self, line: str) -> None:
        """Keep a line."""
        with self._lock:
            self._lines.append(line)

    def take(self) -> str:
        """Return what was said since, joined, and forget it."""
        with self._lock:
            text = " ".join(self._lines)
            self._lines.clear()
        return text


def title(flavour: Flavour) -> str:
    """Return the library's name as its maker writes it."""
    return _TITLES[flavour]


def load_library(flavour: Flavour) -> Any:
    """Return the module ``tensorrt`` or ``tensorrt_rtx``.

    Raises:
        BackendError: it is not installed, or does not load.
    """
    try:
        return importlib.import_module(flavour.replace("-", "_"))
    except ModuleNotFoundError:
        raise BackendError(f"{title(flavour)} is not installed; {install_command(flavour)}") from None
    except Exception as error:  # a native library that lacks another
        raise BackendError(f"{title(flavour)} does not load: {_one_line(str(error))}") from error


def open_logger(library: Any) -> tuple[Any, Said]:
    """Return a logger for ``library`` that keeps errors instead of printing them, and what it keeps."""
    said = Said()

    class Logger(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (library.ILogger.INTERNAL_ERROR, library.ILogger.ERROR):
                said.add(message)

    return Logger(), said


def deserialize(library: Any, flavour: Flavour, runtime: Any, said: Said, path: Path, gpu: str) -> Any:
    """Return the engine in ``path``; it is read by address, not into memory.

    Args:
        gpu: the GPU's name and compute capability, for a message.

    Raises:
        BackendError: the file cannot be read, or the library does not take it: another version, another GPU, cut short.
    """
    what = f"{path.name} of {path.parent.name}"
    said.take()
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            engine = runtime.deserialize_cuda_engine(data)
            if engine is not None:
                return engine
            heard = f"{said.take()} {_diagnosis(library, runtime, data)}"
    except ValueError:  # mmap of nothing
        raise BackendError(f"{title(flavour)} refuses {what}: it is empty; copy it again, or build it again") from None
    except OSError as error:
        raise BackendError(f"{path} cannot be read: {error.strerror or error}") from error
    raise BackendError(f"{title(flavour)} refuses {what}: {_reason(heard, flavour, library.__version__, gpu)}")


def _diagnosis(library: Any, runtime: Any, data: Any) -> str:
    """Return the names of what the library finds wrong with an engine, where it has a word for it."""
    if not hasattr(runtime, "get_engine_validity"):
        return ""
    _, bits = runtime.get_engine_validity(data)
    members = library.EngineInvalidityDiagnostics
    return " ".join(name for name in _DIAGNOSTICS if int(bits) & int(getattr(members, name, 0)))


def _reason(heard: str, flavour: Flavour, version: str, gpu: str) -> str:
    for pattern, reason in _REASONS:
        if re.search(pattern, heard, re.I):
            return reason.format(title=title(flavour), version=version, gpu=gpu)
    return _one_line(heard) or "it does not say why"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
