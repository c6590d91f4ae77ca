"""From a checkpoint to a bundle: trace, prove, and only then write."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dit_deploy.bundle import Bundle, BundleWriter, Component, SourceRecord
from dit_deploy.errors import InputError
from dit_deploy.exporters import proof
from dit_deploy.exporters.source import Graph, Source
from dit_deploy.exporters.sources import open_source
from dit_deploy.exporters.tracing import trace
from dit_deploy.sampling import solver_table

__all__ = ["export"]

Progress = Callable[[str], None]

_WEIGHTS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def export(
    source: str | Path | Source,
    out: str | Path,
    *,
    arch: str | None = None,
    image_size: int | None = None,
    vae: str | Path | None = None,
    max_sequence_length: int | None = None,
    clip_skip: int | None = None,
    dtype: str = "fp32",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Bundle:
    """Export the checkpoint ``source`` as the bundle ``out``.

    Every graph is run against the source at three sizes that it was not traced at, before it is written.

    Args:
        source: a diffusers pipeline folder of a family that is known, a ``DiTTransformer2DModel`` folder, a
            facebookresearch/DiT checkpoint; or a :class:`Source` that declares a network of your own.
        out: the bundle's folder; its parent exists.
        arch, image_size, vae, max_sequence_length, clip_skip: see
            :func:`~dit_deploy.exporters.sources.open_source`.
        dtype: what weights are stored as: ``"fp32"``, or ``"fp16"`` or ``"bf16"`` for half the size. Computation
            stays in float32; how an engine computes is chosen when it is built.
        overwrite: replace a bundle that is there. Anything else that is there is left alone, and is an error.
        progress: called with one line before each step.

    Raises:
        InputError: ``dtype`` is none of the three, or an option of the source's scheduler is not supported.
        SourceError: the checkpoint cannot be opened, or its parts do not fit each other.
        ExportError: a graph could not be traced, or differs from its source.
        BundleError: ``out`` cannot be written.
    """
    say = progress or (lambda line: None)
    if dtype not in _WEIGHTS:
        raise InputError(f"dtype: {dtype!r} came, expected one of {', '.join(_WEIGHTS)}")
    if isinstance(source, Source):
        opened = source
    else:
        say(f"opening {source}")
        opened = open_source(
            source,
            arch=arch,
            image_size=image_size,
            vae=vae,
            max_sequence_length=max_sequence_length,
            clip_skip=clip_skip,
        )
    _check_scheduler(opened)
    for note in opened.notes:
        say(note)
    expected = opened.float32_bytes // (1 if dtype == "fp32" else 2)
    with BundleWriter(out, overwrite=overwrite, expected_size=expected) as writer:
        components = {graph.name: _export_graph(graph, _WEIGHTS[dtype], writer.folder, say) for graph in opened.graphs}
        writer.file(opened.scheduler.path).write_text(
            json.dumps(dict(opened.scheduler_config), indent=2) + "\n", encoding="utf-8"
        )
        for path, content in opened.files.items():
            writer.file(path).write_bytes(content())
        say("hashing")
        return writer.finish(
            family=opened.family,
            source=SourceRecord(kind=opened.kind, name=opened.name, sha256=opened.sha256()),
            latents=opened.latents,
            components=components,
            prediction=opened.prediction,
            guidance=opened.guidance,
            scheduler=opened.scheduler,
            prompts=opened.prompts,
            image_conditions=opened.image_conditions,
            experts=opened.experts,
            tiling=opened.tiling,
            labels=dict(opened.labels),
        )


def _check_scheduler(source: Source) -> None:
    """Say now if an option of the source's scheduler is not supported."""
    config = source.scheduler_config
    mu = 1.0 if config.get("use_dynamic_shifting") else None
    solver_table(config, source.scheduler.num_inference_steps, mu=mu)


def _export_graph(graph: Graph, weights: str, folder: Path, say: Progress) -> Component:
    """Trace a graph's network, prove it against its reference, and return its declaration.

    Networks live only while they are needed: the check runs the ONNX file alone, so a large model is in
    memory once at any time.
    """
    what = graph.name
    component = graph.component.model_copy(update={"weights": weights})
    expectations = proof.expect((graph.reference or graph.build)(), component, dict(graph.typical), graph.feeds)
    with _timed(say, f"tracing {what}"):
        trace(graph.build(), component, folder, graph.feeds)
    gc.collect()  # torch's traced programs refer to themselves, and hold the weights
    with _timed(say, f"proving {what} at three untraced sizes"):
        worst = proof.check(folder / component.path, component, expectations)
    say(f"{what}: largest relative difference {worst:.1e}")
    return component


@contextmanager
def _timed(say: Progress, what: str) -> Iterator[None]:
    say(what)
    start = time.perf_counter()
    yield
    say(f"{what}: {time.perf_counter() - start:.1f} s")
