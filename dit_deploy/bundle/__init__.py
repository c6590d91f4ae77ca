"""Bundles on disk: open and check them, write them at once or not at all, derive shapes from their manifest.

Needs numpy and pydantic only. ``manifest.schema.json`` in this folder is the JSON schema for other readers.
"""

from __future__ import annotations

from ._onnx import ExternalData, external_data
from ._reader import Bundle
from ._verify import Problem
from ._writer import BundleWriter
from .manifest import (
    Axis,
    Component,
    FileRecord,
    Guidance,
    Latents,
    Manifest,
    Prediction,
    Scheduler,
    SourceRecord,
    TensorSpec,
)
from .shapes import bind_axes, check_values, shape_of
from .summary import summarise

__all__ = [
    "Axis",
    "Bundle",
    "BundleWriter",
    "Component",
    "ExternalData",
    "FileRecord",
    "Guidance",
    "Latents",
    "Manifest",
    "Prediction",
    "Problem",
    "Scheduler",
    "SourceRecord",
    "TensorSpec",
    "bind_axes",
    "check_values",
    "external_data",
    "shape_of",
    "summarise",
]
