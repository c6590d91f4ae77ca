"""Facts about this machine, for ``bench`` and ``doctor``: as Linux tells them, ``None`` or empty elsewhere."""

from __future__ import annotations

import datetime
import os
import platform
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dit_deploy.extras import installed

__all__ = ["CPU_FEATURES", "available_memory", "cpu", "describe", "free_disk", "usable_cores", "versions"]

#: CPU feature → flags of /proc/cpuinfo that tell of it, and what it is good for.
CPU_FEATURES: dict[str, tuple[tuple[str, ...], str]] = {
    "AVX2": (("avx2",), "the least for speed"),
    "AVX-512": (("avx512f", "avx512bw", "avx512vl"), "wider vectors"),
    "VNNI": (("avx512_vnni", "avx_vnni"), "fast INT8"),
    "AMX": (("amx_tile", "amx_int8"), "fast INT8 and BF16 matrices"),
}

#: Packages whose version changes a timing.
_TIMED = ("dit-deploy", "onnxruntime", "onnxruntime-gpu", "torch", "diffusers", "numpy", "tensorrt", "tensorrt-rtx")


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def cpu() -> dict[str, Any]:
    """Return ``model``, ``architecture``, ``cores`` (logical), ``usable_cores`` and ``features``."""
    info = _read("/proc/cpuinfo")
    model = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", info, re.M)
    flags = set(_first(re.findall(r"^(?:flags|Features)\s*:\s*(.+)$", info, re.M)).split())
    return {
        "model": model[1].strip() if model else platform.processor() or "unknown",
        "architecture": platform.machine(),
        "cores": os.cpu_count() or 1,
        "usable_cores": usable_cores(),
        "features": [name for name, (wanted, _) in CPU_FEATURES.items() if _has(name, wanted, flags)],
    }


def _has(name: str, wanted: Iterable[str], flags: set[str]) -> bool:
    # VNNI comes in two encodings; everything else needs all its parts.
    return any(flag in flags for flag in wanted) if name == "VNNI" else all(flag in flags for flag in wanted)


def _first(texts: list[str]) -> str:
    return texts[0] if texts else ""


def usable_cores() -> int:
    """Return how many cores this process may use: its affinity, and a container's quota, at least 1."""
    try:
        cores = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        cores = os.cpu_count() or 1
    quota = _read("/sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit() and quota[1].isdigit() and int(quota[1]):
        cores = min(cores, max(1, int(quota[0]) // int(quota[1])))
    return cores


def memory() -> dict[str, int | None]:
    """Return ``total`` and ``available`` memory in bytes, within a container's limit; ``None`` where unknown."""
    info = {
        match[1]: int(match[2]) * 1024 for match in re.finditer(r"^(\w+):\s+(\d+) kB$", _read("/proc/meminfo"), re.M)
    }
    total, available = info.get("MemTotal"), info.get("MemAvailable")
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    if limit.isdigit() and total is not None and int(limit) < total:
        used = _read("/sys/fs/cgroup/memory.current").strip()
        total = int(limit)
        if used.isdigit() and available is not None:
            available = min(available, max(0, total - int(used)))
    return {"total": total, "available": available}


def available_memory() -> int | None:
    """Return how many bytes a new process could take without swapping, ``None`` where unknown."""
    return memory()["available"]


def free_disk(folder: str | Path = ".") -> int | None:
    """Return the free bytes of the file system that holds ``folder``, ``None`` where it cannot be asked."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def versions(names: Iterable[str] = _TIMED) -> dict[str, str]:
    """Return the versions of those of ``names`` that are installed."""
    return {name: version for name in names if (version := installed(name)) is not None}


def describe() -> dict[str, Any]:
    """Return what a reader of a timing must know.

    Keys: ``cpu``, ``memory``, ``system``, ``python``, ``versions``, ``load`` and ``date``.
    ``load`` is the mean number of runnable processes over the last minute: above 0 before a
    measurement, something else was running.
    """
    try:
        load: float | None = round(os.getloadavg()[0], 2)
    except OSError:
        load = None
    return {
        "cpu": cpu(),
        "memory": memory(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions(),
        "load": load,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
