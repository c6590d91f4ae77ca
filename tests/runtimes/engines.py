"""Engines of a tiny bundle that ONNX Runtime runs: copies of the plain graphs, changed where a test wants it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from dit_deploy.bundle import Bundle, Engine, EngineComponent, EngineWriter, Target, graph_digest
from dit_deploy.bundle.engine import Precision

CPU = Target(device="cpu", provider="CPUExecutionProvider")
CUDA = Target(device="cuda", provider="CUDAExecutionProvider")


def rtx(*compute_capabilities: str) -> dict[str, Any]:
    """Return the fields of an engine for TensorRT-RTX."""
    target = Target(device="cuda", compute_capabilities=compute_capabilities)
    return {"backend": "tensorrt-rtx", "backend_version": "1.7.1.116", "target": target}


def add_engine(
    bundle: Bundle,
    name: str,
    *components: str,
    precision: Precision = "fp32",
    scale: float = 1.0,
    also: Mapping[str, bytes] | None = None,
    **changes: Any,
) -> Engine:
    """Write an engine of copies of the plain graphs, whose weights are multiplied by ``scale``.

    For a backend other than ONNX Runtime the artefacts are bytes that nothing reads; ``also`` are more files.
    """
    import onnxruntime

    fields: dict[str, Any] = {
        "backend": "onnxruntime",
        "backend_version": onnxruntime.__version__,
        "precision": precision,
        "target": CPU,
        "key_parts": {"name": name},
        "seconds": 0.0,
        **changes,
    }
    built = {}
    with EngineWriter(bundle, name) as writer:
        for component in components or ("denoiser",):
            if fields["backend"] == "onnxruntime":
                path = _copy(bundle, component, writer, scale)
            else:
                path = f"{component}.engine"
                writer.file(path).write_bytes(b"engine")
            kind = "onnx" if fields["backend"] == "onnxruntime" else "tensorrt"
            graph = graph_digest(bundle.manifest, component)
            built[component] = EngineComponent(path=path, kind=kind, graph=graph)
        for path, data in (also or {}).items():
            writer.file(path).write_bytes(data)
        return writer.finish(components=built, **fields)


def _copy(bundle: Bundle, component: str, writer: EngineWriter, scale: float) -> str:
    source = PurePosixPath(bundle.component(component).path)
    for path in bundle.manifest.files:
        if PurePosixPath(path).parent == source.parent:
            shutil.copyfile(bundle.file(path), writer.file(path))
            if path.endswith(".data") and scale != 1.0:
                weights = np.fromfile(writer.file(path), np.float32)
                (weights * np.float32(scale)).tofile(writer.file(path))
    return str(source)


def alter(path: Path) -> Path:
    """Change one byte of a file and keep its size: in the middle, or of a graph a letter of who made it.

    A graph's other bytes may be ones that its reader stops at.
    """
    data = bytearray(path.read_bytes())
    maker = data.find(b"dit-deploy")
    data[len(data) // 2 if maker < 0 else maker] ^= 1
    path.write_bytes(data)
    return path
