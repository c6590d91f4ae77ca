"""Bundles made wrong on purpose: whole, with hashes that fit, but not what their source is."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from dit_deploy.bundle import Bundle, BundleWriter, Component
from dit_deploy.exporters.source import Source
from dit_deploy.runtimes import Binding, Runner
from dit_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

__all__ = ["Changed", "latents_only", "perturb", "plain_runner", "rebuild"]

Change = Callable[[Mapping[str, Any], Mapping[str, Any]], None]


class Changed:
    """A runner of which ``change`` (outputs, inputs) alters what it gives."""

    def __init__(self, inner: Runner, change: Change) -> None:
        self._inner, self._change = inner, change

    @property
    def component(self) -> Component:
        return self._inner.component

    def bind(self, sizes: Mapping[str, int]) -> Binding:
        return _ChangedBinding(self._inner.bind(sizes), self._change)


class _ChangedBinding:
    def __init__(self, inner: Binding, change: Change) -> None:
        self._inner, self._change = inner, change
        self.inputs, self.outputs = inner.inputs, inner.outputs

    def run(self) -> None:
        self._inner.run()
        self._change(self.outputs, self.inputs)


def plain_runner(bundle: Bundle, name: str) -> Runner:
    """Return a component's plain graph as ONNX Runtime runs it."""
    return OnnxRuntimeRunner(bundle.component_path(name), bundle.component(name), threads=1)


def rebuild(
    bundle: Bundle,
    out: Path,
    change: Callable[[Path], None],
    components: tuple[str, ...] = (),
    **fields: object,
) -> Bundle:
    """Write a copy of ``bundle`` whose files ``change`` has altered: whole, with hashes that fit.

    ``fields`` are of the manifest, instead of the bundle's own.
    """
    manifest = bundle.manifest.model_copy(update=fields)
    kept = {name: manifest.components[name] for name in components or manifest.components}
    folders = {component.path.split("/")[0] for component in kept.values()} | {"scheduler"}
    with BundleWriter(out) as writer:
        for path in manifest.files:
            if path.split("/")[0] in folders or path.endswith("tokenizer.json"):
                shutil.copyfile(bundle.file(path), writer.file(path))
        change(writer.folder)
        dropped = "vae_decoder" in manifest.components and "vae_decoder" not in kept
        compression = 1 if dropped else manifest.latents.spatial_compression
        return writer.finish(
            family=manifest.family,
            source=manifest.source,
            latents=manifest.latents.model_copy(update={"spatial_compression": compression}),
            components=kept,
            prediction=manifest.prediction,
            guidance=manifest.guidance,
            scheduler=manifest.scheduler,
            prompts=manifest.prompts,
            image_conditions=manifest.image_conditions,
            experts=manifest.experts,
            tiling=manifest.tiling,
            labels=manifest.labels,
        )


def latents_only(source: Source) -> Source:
    """Return a source without its VAE."""
    graphs = tuple(graph for graph in source.graphs if not graph.name.startswith("vae_"))
    return replace(source, graphs=graphs, latents=source.latents.model_copy(update={"spatial_compression": 1}))


def perturb(graph: Path, initializer: str, factor: float) -> None:
    """Multiply one tensor of a graph: of its external data, or a small one that lies in the graph itself."""
    model = onnx.load(graph, load_external_data=False)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == initializer)
    where = {entry.key: entry.value for entry in tensor.external_data}
    if not where:
        values = onnx.numpy_helper.to_array(tensor) * np.float32(factor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, initializer))
        onnx.save(model, graph)
        return
    data = np.memmap(graph.parent / where["location"], np.uint8, "r+")
    begin = int(where.get("offset", "0"))
    values = data[begin : begin + int(where["length"])].view(np.float32)
    values *= np.float32(factor)
    data.flush()
