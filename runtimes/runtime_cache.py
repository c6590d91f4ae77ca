"""What TensorRT-RTX compiled on this GPU, kept in the bundle, so that the next process need not compile it again.

RTX finishes its engines where they run: kernels are compiled when sizes are first met. The library checks what it
is given (its version, the GPU, the driver) and takes nothing that does not fit; the file's name says the same, so
that machines which share a bundle do not take each other's place.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

from dit_deploy.files import replace_file

__all__ = ["RuntimeCache", "cache_path"]


def cache_path(folder: Path, engine: Path, version: str, gpu: str) -> Path:
    """Return the path of an engine's cache: ``folder/rtx-1.7.1.116-NVIDIA-RTX-A5000-fp16-denoiser.cache``."""
    parts = ("rtx", version, gpu, engine.parent.name, engine.stem)
    return folder / ("-".join(re.sub(r"[^A-Za-z0-9.]+", "-", part).strip("-") for part in parts) + ".cache")


class RuntimeCache:
    """An ``IRuntimeCache`` and its file. Failing to read or write it costs time and nothing else, so it is no error.

    Args:
        native: what ``IRuntimeConfig.create_runtime_cache`` returned.
        path: its file, or ``None`` to keep nothing.
    """

    def __init__(self, native: Any, path: Path | None) -> None:
        self.native = native
        self._path = path
        self._kept: bytes | None = None
        self._lock = threading.Lock()

    def load(self) -> bool:
        """Give the library what the file holds; say whether it took it."""
        if self._path is None:
            return False
        try:
            data = self._path.read_bytes()
        except OSError:
            return False
        if not data or not self.native.deserialize(data):
            return False
        self._kept = data
        return True

    def save(self) -> bool:
        """Write the file where the library has compiled something since; say whether it was written."""
        if self._path is None:
            return False
        with self._lock:
            host_memory = self.native.serialize()
            data = b"" if host_memory is None else bytes(host_memory)
            if not data or data == self._kept:
                return False
            try:
                replace_file(self._path, data)
            except OSError:  # a folder without permission, a full disk
                return False
            self._kept = data
            return True
