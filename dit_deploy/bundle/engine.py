"""What ``engine.json`` says, version 1: what an engine is, from what, for what, with what, how long, how good.

An engine lies in ``engines/NAME`` of a bundle and holds one artefact for some or all of the components. Its key
is the SHA-256 over everything that decided its content, so that an engine is never stale and never rebuilt
needlessly; the parts stand beside the key, so that a rebuild can say what changed. ``engine.schema.json`` beside this
file is generated from these classes (``python -m dit_deploy.bundle.schema``).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from ..text import one_line
from .manifest import FileRecord, Manifest, Name, Positive, Record, Sha256, check_relative_path

__all__ = [
    "ENGINE_FORMAT",
    "ENGINE_RECORD",
    "ENGINE_VERSION",
    "RESERVED_NAMES",
    "SOLVER",
    "BackendName",
    "EngineComponent",
    "EngineName",
    "EngineRecord",
    "Precision",
    "Profile",
    "SizeRange",
    "Target",
    "engine_key",
    "explain_key",
    "graph_digest",
]

ENGINE_FORMAT = "dit-deploy-engine"
ENGINE_VERSION = 1
ENGINE_RECORD = "engine.json"

Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
BackendName = Literal["onnxruntime", "tensorrt-rtx", "tensorrt"]
EngineName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$", max_length=100)]
ComputeCapability = Annotated[str, Field(pattern=r"^[1-9][0-9]?\.[0-9]$")]
Seconds = Annotated[float, Field(ge=0)]

#: What an engine calls the solver graph among its components; see :mod:`dit_deploy.bundle.solver`.
SOLVER = "solver"
#: Names that mean something else where an engine is asked for: the best that fits, and the plain graphs.
RESERVED_NAMES = ("auto", "onnx")


class SizeRange(Record):
    """The values of one free size that an engine takes, both ends included; fastest at ``optimum``."""

    minimum: Positive
    optimum: Positive
    maximum: Positive

    @model_validator(mode="after")
    def _ordered(self) -> SizeRange:
        if not self.minimum <= self.optimum <= self.maximum:
            raise ValueError(
                f"minimum {self.minimum}, optimum {self.optimum}, maximum {self.maximum} came, "
                "expected minimum ≤ optimum ≤ maximum"
            )
        return self


class Profile(Record):
    """One range for each free size of a component: ``{"batch": …, "patch_height": …, "patch_width": …}``."""

    sizes: dict[Name, SizeRange] = Field(min_length=1)

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Say whether every free size of the profile is given and in its range; others are not looked at."""
        return all(name in sizes and one.minimum <= sizes[name] <= one.maximum for name, one in self.sizes.items())

    def distance(self, sizes: Mapping[str, int]) -> float:
        """Return how far ``sizes`` are from the optimum: 0 there, 1 for each doubling or halving of one size.

        Among the profiles that hold ``sizes``, the one with the smallest distance is the one to run with.
        """
        return sum(abs(math.log2(sizes[name] / one.optimum)) for name, one in self.sizes.items())


class EngineComponent(Record):
    """One component of the bundle as this engine runs it.

    ``path`` is relative to the engine's folder. ``graph`` is :func:`graph_digest` of the graph it was built from.
    ``profiles`` are the sizes it takes; none means those that the manifest declares. ``kept`` names layers that stayed
    in another precision than the engine's, each with the reason. ``seconds`` is how long building took.
    """

    path: str
    kind: Literal["onnx", "tensorrt"]
    graph: Sha256
    profiles: tuple[Profile, ...] = ()
    kept: dict[str, str] = Field(default={})
    seconds: Seconds = 0.0


class Target(Record):
    """What an engine runs on: a kind of device, ONNX Runtime's provider, and the GPUs' compute capabilities (8.9).

    ``operators`` names a library of this package's own operators that the artefacts need: ``cpu_ops``, of
    :mod:`dit_deploy.runtimes.cpu_ops`, which each machine builds for itself.
    """

    device: Literal["cpu", "cuda"]
    provider: str | None = None
    compute_capabilities: tuple[ComputeCapability, ...] = ()
    operators: Literal["cpu_ops"] | None = None


class EngineRecord(Record):
    """The whole of ``engine.json``.

    ``created`` is the time in UTC, ``2026-11-25T21:40:00Z``; ``seconds`` is how long the whole build took.
    ``parity`` is ``{"passed": bool, "psnr": decibels, …}`` where it was measured. ``files`` records every file of the
    engine's folder but this one.
    """

    format: Literal["dit-deploy-engine"] = "dit-deploy-engine"
    version: Literal[1] = 1
    name: EngineName
    created_by: str
    created: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
    backend: BackendName
    backend_version: str
    precision: Precision
    target: Target
    components: dict[Name, EngineComponent] = Field(min_length=1)
    key: Sha256
    key_parts: dict[str, str]
    options: dict[str, JsonValue] = Field(default={})
    seconds: Seconds
    parity: dict[str, JsonValue] | None = None
    files: dict[str, FileRecord]

    @field_validator("name")
    @classmethod
    def _name_is_free(cls, name: str) -> str:
        if name in RESERVED_NAMES:
            raise ValueError(f"{name!r} has a meaning of its own and names no engine; use another name")
        return name

    @field_validator("files")
    @classmethod
    def _paths_stay_inside(cls, files: dict[str, FileRecord]) -> dict[str, FileRecord]:
        for path in files:
            check_relative_path(path)
            if path == ENGINE_RECORD:
                raise ValueError(f"{path} cannot record itself")
        return files

    @model_validator(mode="after")
    def _complete(self) -> EngineRecord:
        for name, component in self.components.items():
            if component.path not in self.files:
                raise ValueError(f"{component.path} is named but has no record under files")
            if component.kind == "tensorrt" and self.backend == "onnxruntime":
                raise ValueError(f"{name} is of kind tensorrt, but the backend is onnxruntime")
        if self.key != engine_key(self.key_parts):
            raise ValueError("key is not the SHA-256 over key_parts")
        return self

    def to_json(self) -> str:
        """Return the record as indented JSON that ends in a newline, the same bytes for the same values."""
        return self.model_dump_json(indent=1) + "\n"

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON schema (draft 2020-12) of engine records of version 1."""
        return {"$schema": "https://json-schema.org/draft/2020-12/schema", **cls.model_json_schema()}


def engine_key(key_parts: Mapping[str, str]) -> str:
    """Return the key of an engine: SHA-256, in hexadecimal, over the parts as canonical JSON."""
    return _digest(dict(key_parts))


def explain_key(old: Mapping[str, str] | None, new: Mapping[str, str]) -> list[str]:
    """Return one line for each part of a key that differs: ``backend: tensorrt-rtx 1.7.0 → tensorrt-rtx 1.7.1``.

    An empty list says that both are the same engine. ``old=None`` says that there is none yet.
    """
    if old is None:
        return ["there is no engine of this name yet"]
    lines = []
    for part in sorted({*old, *new}):
        if old.get(part) != new.get(part):
            before, after = _shown(old.get(part)), _shown(new.get(part))
            lines.append(f"{part}: {_cut(before, after)} → {_cut(after, before)}")
    return lines


def graph_digest(manifest: Manifest, name: str) -> str:
    """Return the SHA-256 that names the graph of component ``name`` with its weights.

    It covers path, size and SHA-256 of every recorded file in the graph's folder or below, where its external data
    lies; so it is known without reading one byte of weights. The solver graph, which no bundle carries, is named by
    the denoiser that it is for. ``KeyError`` where there is no such component.
    """
    if name == SOLVER:
        return _digest([SOLVER, graph_digest(manifest, "denoiser")])
    folder = PurePosixPath(manifest.components[name].path).parent
    return _digest(
        [
            [path, record.size, record.sha256]
            for path, record in sorted(manifest.files.items())
            if PurePosixPath(path).is_relative_to(folder)
        ]
    )


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _shown(value: str | None) -> str:
    if value is None:
        return "not set"
    return one_line(re.sub(r"\b[0-9a-f]{64}\b", lambda match: match[0][:12], value), None) or "empty"


def _cut(text: str, other: str) -> str:
    """Return ``text`` without much of what it begins with as ``other`` does, and at most 120 characters of the rest."""
    same = next((at for at, pair in enumerate(zip(text, other, strict=False)) if pair[0] != pair[1]), 0)
    if len(text) <= 120 or same <= 40:
        return one_line(text, 120)
    return "…" + one_line(text[same - 20 :], 119)
