"""Open a checkpoint of any family: find what it is, and let the family's module read it.

A family is a module of :mod:`dit_deploy.exporters.families` with a function (folder) → :class:`Source` for each
diffusers pipeline that it knows. Another package adds one through the entry-point group ``dit_deploy.families``: the
entry's name is the pipeline's class, its value such a function.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

from dit_deploy.errors import SourceError
from dit_deploy.exporters.families import PIPELINES, dit_source
from dit_deploy.exporters.source import Graph, Source
from dit_deploy.exporters.weights import read_json

__all__ = ["ENTRY_POINTS", "Graph", "Source", "known_pipelines", "open_source"]

#: The group of entry points by which other packages bring families.
ENTRY_POINTS = "dit_deploy.families"


def open_source(
    path: str | Path, *, arch: str | None = None, image_size: int | None = None, vae: str | Path | None = None
) -> Source:
    """Open the checkpoint at ``path``.

    Args:
        path: a diffusers pipeline folder of any family; or of a class-conditional DiT a transformer folder, or a
            checkpoint file of facebookresearch/DiT.
        arch, image_size, vae: see :func:`~dit_deploy.exporters.families.dit_source.open_checkpoint`.

    Raises:
        SourceError: nothing is there, or it is not what it was said to be, or of a family that is not known.
    """
    path = Path(path)
    if not (path / "model_index.json").is_file():
        return dit_source.open_checkpoint(path, arch=arch, image_size=image_size, vae=vae).source()
    name = read_json(path / "model_index.json").get("_class_name")
    if name == "DiTPipeline":
        return dit_source.open_checkpoint(path, arch=arch, image_size=image_size, vae=vae).source()
    if arch is not None or image_size is not None or vae is not None:
        raise SourceError(f"{path} is a {name}, which says everything itself; leave --arch, --image-size and --vae out")
    opener = _openers().get(str(name))
    if opener is None:
        raise SourceError(f"{path} is a {name}; this version exports {', '.join(known_pipelines())}")
    return opener()(path)


def known_pipelines() -> list[str]:
    """Return the pipeline classes that can be exported, those of other packages last."""
    return ["DiTPipeline", *_openers()]


def _openers() -> dict[str, Callable[[], Callable[[Path], Source]]]:
    """Return what loads the function that opens a pipeline, by the pipeline's class; nothing is imported yet."""

    def own(module: str) -> Callable[[], Callable[[Path], Source]]:
        return lambda: importlib.import_module(f"dit_deploy.exporters.families.{module}").open_pipeline

    openers = {name: own(module) for name, module in PIPELINES.items()}
    for entry in entry_points(group=ENTRY_POINTS):
        openers.setdefault(entry.name, entry.load)
    return openers
