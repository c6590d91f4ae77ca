"""A source as the bundle that it would become, without its graphs: what it declares, its scheduler, its tokenizers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from dit_deploy.bundle import Bundle, FileRecord, Manifest, SourceRecord
from dit_deploy.exporters.source import Source

__all__ = ["described"]


def described(source: Source, folder: Path) -> Bundle:
    """Write the small files of ``source`` below ``folder``, and return a bundle of them and of what the source says.

    So the runtimes' own readers of prompts and conditions serve the reference, on the source's files and declarations,
    not on those of the bundle that is under test. Graphs have records of no bytes: they run in PyTorch.
    """
    components = {graph.name: graph.component for graph in source.graphs}
    nothing = FileRecord(size=0, sha256=hashlib.sha256().hexdigest())
    files = dict.fromkeys((one.path for one in components.values()), nothing)
    written = {path: content() for path, content in source.files.items()}
    written[source.scheduler.path] = json.dumps(dict(source.scheduler_config)).encode()
    for path, data in written.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
        files[path] = FileRecord(size=len(data), sha256=hashlib.sha256(data).hexdigest())
    manifest = Manifest(
        created_by="the source itself",
        family=source.family,
        source=SourceRecord(kind=source.kind, name=source.name, sha256=nothing.sha256),
        latents=source.latents,
        components=components,
        prediction=source.prediction,
        guidance=source.guidance,
        scheduler=source.scheduler,
        prompts=source.prompts,
        image_conditions=source.image_conditions,
        experts=source.experts,
        tiling=source.tiling,
        labels=dict(source.labels),
        files=files,
    )
    return Bundle(folder, manifest, digest="")
