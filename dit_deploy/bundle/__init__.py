"""Bundles and their engines on disk: open and check them, write them at once or not at all, derive shapes.

Needs numpy and pydantic only. ``manifest.schema.json`` and ``engine.schema.json`` in this folder are the JSON schemas
for other readers.
"""

from __future__ import annotations

from ._engine_writer import EngineWriter, engine_lock
from ._engines import Engine
from ._onnx import ExternalData, external_data
from ._reader import Bundle
from ._verify import Problem
from ._writer import BundleWriter
from .engine import (
    BackendName,
    EngineComponent,
    EngineRecord,
    Precision,
    Profile,
    SizeRange,
    Target,
    engine_key,
    explain_key,
    graph_digest,
)
from .manifest import (
    Axis,
    Component,
    Experts,
    FileRecord,
    Guidance,
    ImageConditions,
    ImageEncoder,
    Latents,
    Manifest,
    Prediction,
    PromptEncoder,
    Prompts,
    Scheduler,
    SourceRecord,
    TensorSpec,
    Tiling,
)
from .shapes import bind_axes, check_values, shape_of
from .summary import summarise

__all__ = [
    "Axis",
    "BackendName",
    "Bundle",
    "BundleWriter",
    "Component",
    "Engine",
    "EngineComponent",
    "EngineRecord",
    "EngineWriter",
    "Experts",
    "ExternalData",
    "FileRecord",
    "Guidance",
    "ImageConditions",
    "ImageEncoder",
    "Latents",
    "Manifest",
    "Precision",
    "Prediction",
    "Problem",
    "Profile",
    "PromptEncoder",
    "Prompts",
    "Scheduler",
    "SizeRange",
    "SourceRecord",
    "Target",
    "TensorSpec",
    "Tiling",
    "bind_axes",
    "check_values",
    "engine_key",
    "engine_lock",
    "explain_key",
    "external_data",
    "graph_digest",
    "shape_of",
    "summarise",
]
