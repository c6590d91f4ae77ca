"""Facts about a bundle for people and scripts: what ``dit-deploy inspect`` prints."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from ..errors import BundleError
from ._reader import Bundle
from .manifest import Record, TensorSpec
from .shapes import range_text, shape_text

__all__ = ["summarise", "tensor_text"]


def tensor_text(spec: TensorSpec) -> str:
    """Write a declared tensor on one line: ``class_labels int64 [batch], class index, 0 … 1000``."""
    parts = [f"{spec.name} {spec.dtype} {shape_text(spec)}", spec.unit or "", range_text(spec)]
    return ", ".join(part for part in parts if part)


def summarise(bundle: Bundle) -> dict[str, Any]:
    """Return the facts of a bundle as values that JSON can hold; sizes are in bytes.

    Keys: ``path``, ``version``, ``created_by``, ``digest``, ``family``, ``source``, ``latents``, ``components``
    (each with ``path``, ``size``, ``inputs``, ``outputs`` as lines), ``prediction``, ``guidance``, ``scheduler``
    (with its ``class``), ``prompts``, ``image_conditions``, ``experts`` and ``tiling`` (``None`` where the bundle has
    none), ``labels`` (how many), ``files`` (how many), ``size``, ``engines`` (name → its record, its
    ``size`` instead of its files; or an ``error`` alone where it cannot be opened) and ``parity`` (names).

    Raises :class:`BundleError` where the scheduler config cannot be read.
    """
    manifest = bundle.manifest
    components = {}
    for name, component in manifest.components.items():
        # A graph's external data lies beside it.
        folder = PurePosixPath(component.path).parent
        beside = [record.size for path, record in manifest.files.items() if PurePosixPath(path).parent == folder]
        components[name] = {
            "path": component.path,
            "size": sum(beside),
            "inputs": [tensor_text(spec) for spec in component.inputs],
            "outputs": [tensor_text(spec) for spec in component.outputs],
        }
    parts: dict[str, Record | None] = {
        "prompts": manifest.prompts,
        "image_conditions": manifest.image_conditions,
        "experts": manifest.experts,
        "tiling": manifest.tiling,
    }
    return {
        "path": str(bundle.path),
        "version": manifest.version,
        "created_by": manifest.created_by,
        "digest": bundle.digest,
        "family": manifest.family,
        "source": manifest.source.model_dump(mode="json"),
        "latents": manifest.latents.model_dump(mode="json"),
        "components": components,
        "prediction": manifest.prediction.model_dump(mode="json"),
        "guidance": manifest.guidance.model_dump(mode="json"),
        "scheduler": {
            "class": bundle.scheduler_config()["_class_name"],
            **manifest.scheduler.model_dump(mode="json"),
        },
        **{name: record and record.model_dump(mode="json") for name, record in parts.items()},
        "labels": len(manifest.labels),
        "files": len(manifest.files),
        "size": sum(record.size for record in manifest.files.values()),
        "engines": {name: _engine(bundle, name) for name in bundle.engine_names()},
        "parity": bundle.parity_names(),
    }


def _engine(bundle: Bundle, name: str) -> dict[str, Any]:
    try:
        record = bundle.engine(name).record
    except BundleError as error:
        return {"error": str(error)}
    facts = record.model_dump(mode="json", exclude={"format", "files", "name"})
    return {**facts, "size": sum(one.size for one in record.files.values())}
