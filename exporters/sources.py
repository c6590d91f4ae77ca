"""Open a checkpoint of any family: find what it is, and let the family's module read it.

A family is a module of :mod:`dit_deploy.exporters.families` with a function (folder) → :class:`Source` for each
diffusers pipeline that it knows. Another package adds one through the entry-point group ``dit_deploy.families``: the
entry's name is the pipeline's class, its value such a function.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Collection, Mapping
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from dit_deploy.errors import SourceError
from dit_deploy.exporters.families import PIPELINES, dit_source
from dit_deploy.exporters.source import Graph, Source
from dit_deploy.exporters.weights import read_json

__all__ = ["ENTRY_POINTS", "Graph", "Source", "known_pipelines", "open_source"]

#: The group of entry points by which other packages bring families.
ENTRY_POINTS = "dit_deploy.families"

#: Components that a pipeline may name and nothing here uses.
_UNUSED = ("feature_extractor", "image_encoder", "safety_checker")


def open_source(
    path: str | Path,
    *,
    arch: str | None = None,
    image_size: int | None = None,
    vae: str | Path | None = None,
    max_sequence_length: int | None = None,
    clip_skip: int | None = None,
) -> Source:
    """Open the checkpoint at ``path``.

    Args:
        path: a diffusers pipeline folder of any family; or of a class-conditional DiT a transformer folder, or a
            checkpoint file of facebookresearch/DiT.
        arch, image_size, vae: see :func:`~dit_deploy.exporters.families.dit_source.open_checkpoint`.
        max_sequence_length, clip_skip: as the family's pipeline has them: tokens of its longest text encoder, and how
            many more of CLIP's last layers are left out; where the family's module lets them be chosen.

    Raises:
        SourceError: nothing is there, or it is not what it was said to be, or of a family that is not known.
    """
    path = Path(path)
    chosen = {"max_sequence_length": max_sequence_length, "clip_skip": clip_skip}
    options = {name: value for name, value in chosen.items() if value is not None}
    if not (path / "model_index.json").is_file():
        _check_options(path.name, options, ())
        return dit_source.open_checkpoint(path, arch=arch, image_size=image_size, vae=vae).source()
    index = read_json(path / "model_index.json")
    name = index.get("_class_name")
    if name == "DiTPipeline":
        _check_options("DiTPipeline", options, ())
        return dit_source.open_checkpoint(path, arch=arch, image_size=image_size, vae=vae).source()
    if arch is not None or image_size is not None or vae is not None:
        raise SourceError(f"{path} is a {name}, which says everything itself; leave --arch, --image-size and --vae out")
    opener = _openers().get(str(name))
    if opener is None:
        raise SourceError(f"{path} is a {name}; this version exports {', '.join(known_pipelines())}")
    _check_whole(path, index)
    opened = opener()
    _check_options(str(name), options, inspect.signature(opened).parameters)
    return opened(path, **options)


def known_pipelines() -> list[str]:
    """Return the pipeline classes that can be exported, those of other packages last."""
    return ["DiTPipeline", *_openers()]


def _check_options(name: str, options: Mapping[str, object], accepted: Collection[str]) -> None:
    """Say which option is none of a family's."""
    if unknown := [option for option in options if option not in accepted]:
        option = f"--{unknown[0].replace('_', '-')}"
        raise SourceError(f"{option}: cannot be chosen for a {name}; leave it out")


def _check_whole(path: Path, index: Mapping[str, Any]) -> None:
    """Say which component of a pipeline is missing, before the first is read."""
    for name, entry in index.items():
        named = isinstance(entry, list) and len(entry) == 2 and entry[0] is not None
        if named and name not in _UNUSED and not (path / name).is_dir():
            raise SourceError(
                f"{path} lacks the folder {name}, which its model_index.json names; copy the whole pipeline"
            )


def _openers() -> dict[str, Callable[[], Callable[..., Source]]]:
    """Return what loads the function that opens a pipeline, by the pipeline's class; nothing is imported yet."""

    def own(module: str) -> Callable[[], Callable[..., Source]]:
        return lambda: importlib.import_module(f"dit_deploy.exporters.families.{module}").open_pipeline

    openers = {name: own(module) for name, module in PIPELINES.items()}
    for entry in entry_points(group=ENTRY_POINTS):
        openers.setdefault(entry.name, partial(_load, entry))
    return openers


def _load(entry: EntryPoint) -> Callable[..., Source]:
    try:
        return entry.load()
    except Exception as error:  # whatever another package's module raises
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SourceError(
            f"{entry.value}, which a package brings for {entry.name}, cannot be loaded: {reason}"
        ) from error
