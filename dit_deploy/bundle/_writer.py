"""Write a bundle so that it is there whole or not at all."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from ..errors import BundleError
from ..files import replace_file
from ._files import file_inside, read_limited
from ._folder_writer import FolderWriter, record_files
from ._folder_writer import created_by as this_package
from ._json import read_object
from ._reader import LATER, MANIFEST, MANIFEST_DIGEST, Bundle, digest_line, load
from .manifest import (
    FORMAT,
    Component,
    Experts,
    Guidance,
    ImageConditions,
    Latents,
    Manifest,
    Prediction,
    Prompts,
    Scheduler,
    SourceRecord,
    Tiling,
)

__all__ = ["BundleWriter"]


class BundleWriter(FolderWriter):
    """Build a bundle in a hidden folder beside ``path``; :meth:`finish` puts it in place in one step.

        with BundleWriter("my-model") as writer:
            write_graph(writer.file("denoiser/model.onnx"))
            ...
            bundle = writer.finish(family="dit", source=..., ...)

    Arguments:
        path: where the bundle shall be. Its parent folder must exist.
        overwrite: replace a bundle that is there, with its engines and parity reports. Until the last
            step the older one stays as it is. What is no bundle is never replaced.
        expected_size: bytes that will be written, where known: with less free space the writer refuses
            before any work is done.

    Leaving the ``with`` block without :meth:`finish`, by any exception included, removes the hidden folder; one that
    a killed process left is removed by the next writer for the same ``path``.

    Raises :class:`BundleError` on entry where ``path`` cannot become a bundle, and in place of any error
    that a full disk causes inside the block.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, overwrite: bool = False, expected_size: int | None = None
    ) -> None:
        # A link to a folder stays a link: the folder that it leads to is replaced.
        shown, target = Path(os.path.abspath(path)), Path(os.path.realpath(path))
        super().__init__(shown, target, record=MANIFEST, what="bundle", expected_size=expected_size)
        self._overwrite = overwrite

    def finish(
        self,
        *,
        family: str,
        source: SourceRecord,
        latents: Latents,
        components: Mapping[str, Component],
        prediction: Prediction,
        guidance: Guidance | None = None,
        scheduler: Scheduler | None = None,
        prompts: Prompts | None = None,
        image_conditions: ImageConditions | None = None,
        experts: Experts | None = None,
        tiling: Tiling | None = None,
        labels: Mapping[str, str] | None = None,
        created_by: str | None = None,
    ) -> Bundle:
        """Hash every file, write the manifest last, check the whole as :meth:`Bundle.open` does, put it in place.

        The arguments are the manifest's fields (see :class:`Manifest`); ``created_by`` is this package and its
        version unless given. Files below ``calibration/``, ``engines/`` and ``parity/`` are not recorded. All bytes are
        on the disk before the bundle gets its name.

        Returns the bundle, opened. Raises :class:`BundleError` where a file has a name that a bundle cannot
        hold, a field is wrong, the target appeared meanwhile, or the system refuses.
        """
        with self._finishing() as folder:
            manifest = Manifest(
                created_by=created_by or this_package(),
                family=family,
                source=source,
                latents=latents,
                components=dict(components),
                prediction=prediction,
                guidance=guidance or Guidance(),
                scheduler=scheduler or Scheduler(),
                prompts=prompts,
                image_conditions=image_conditions,
                experts=experts,
                tiling=tiling,
                labels=dict(labels or {}),
                files=record_files(folder, "bundle", _is_not_recorded),
            )
            data = manifest.to_json().encode("utf-8")
            replace_file(folder / MANIFEST_DIGEST, digest_line(hashlib.sha256(data).hexdigest()))
            replace_file(folder / MANIFEST, data)
            checked = load(folder)
            self._put_in_place(folder)
        # Not opened anew: another writer may have replaced it by now.
        return Bundle(self._shown, checked.manifest, checked.digest)

    def _check_target(self) -> None:
        """Raise unless the target is absent, or a bundle that may be replaced."""
        kind = _kind(self._target)
        if kind == "absent":
            return
        if kind != "bundle":
            what = "a file" if kind == "file" else "not a bundle"
            raise BundleError(f"{self._shown} exists and is {what}; it stays as it is: give another path")
        if not self._overwrite:
            raise BundleError(
                f"{self._shown} exists already; give another path, or overwrite it (overwrite=True, or --overwrite)"
            )


def _is_not_recorded(path: str) -> bool:
    return path in (MANIFEST, MANIFEST_DIGEST) or path.split("/")[0] in LATER


def _kind(target: Path) -> Literal["absent", "file", "folder", "bundle"]:
    """Say what is at ``target``, while other writers may rename it aside and put theirs in its place."""
    before: tuple[int, int] | None = None
    while True:
        try:
            status = os.lstat(target)
        except FileNotFoundError:
            return "absent"
        if stat.S_ISDIR(status.st_mode) and _is_bundle(target):
            return "bundle"
        # It may have been moved between two of our looks: only the same one, seen twice, is no bundle.
        if before == (status.st_dev, status.st_ino):
            return "folder" if stat.S_ISDIR(status.st_mode) else "file"
        before = (status.st_dev, status.st_ino)


def _is_bundle(folder: Path) -> bool:
    """Say whether ``folder`` holds a manifest of any version, whatever else is wrong with it."""
    try:
        data = read_limited(file_inside(folder, MANIFEST), 16 << 20)
        return read_object(data, MANIFEST).get("format") == FORMAT
    except BundleError:
        return False
