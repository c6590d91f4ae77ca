"""Write a bundle so that it is there whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Mapping
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from pydantic import ValidationError

from ..errors import BundleError, InputError
from ..files import replace_file, sync_folder
from ..text import one_line
from ._files import (
    file_inside,
    read_limited,
    sha256_of,
    sync_file,
    walk,
)
from ._json import read_object
from ._parse import explain
from ._reader import ENGINES, MANIFEST, MANIFEST_DIGEST, PARITY, Bundle, digest_line, load
from ._replace import beside, exchange, lock, place, recover
from ._space import require_space, space_error
from .manifest import (
    FORMAT,
    Component,
    FileRecord,
    Guidance,
    Latents,
    Manifest,
    Prediction,
    Scheduler,
    SourceRecord,
    check_relative_path,
)

__all__ = ["BundleWriter"]


class BundleWriter:
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
        self._shown = Path(os.path.abspath(path))
        # A link to a folder stays a link: the folder that it leads to is replaced.
        self._target = Path(os.path.realpath(path))
        self._overwrite = overwrite
        self._expected = expected_size
        self._temporary: Path | None = None
        self._finished = False
        self._held = ExitStack()

    @property
    def folder(self) -> Path:
        """The hidden folder to write into; only inside the ``with`` block."""
        if self._temporary is None:
            raise RuntimeError("BundleWriter.folder exists inside the with block only")
        return self._temporary

    def file(self, relative: str) -> Path:
        """Return the path to write the file ``relative`` to, its folders made.

        Raises :class:`InputError` where ``relative`` is no plain path that stays inside the bundle.
        """
        try:
            path = self.folder / check_relative_path(relative)
        except ValueError as error:
            raise InputError(str(error)) from None
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def __enter__(self) -> Self:
        parent = self._target.parent
        try:
            if not parent.is_dir():
                raise BundleError(f"{self._shown} cannot be written: there is no folder {parent}; make it first")
            recover(self._target)
            self._check_target()
            require_space(self._target, self._expected)
            self._temporary = beside(self._target, "tmp")
            self._temporary.mkdir()
            self._held.enter_context(lock(self._temporary))
        except OSError as error:
            self._discard()
            raise self._refusal(error) from error
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        full = self._space_error(error) if isinstance(error, Exception) else None
        self._discard()
        if full is not None:
            raise full from error
        if error is None and not self._finished:
            raise BundleError(f"{self._shown} was not written: BundleWriter.finish was not called")

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
        labels: Mapping[str, str] | None = None,
        created_by: str | None = None,
    ) -> Bundle:
        """Hash every file, write the manifest last, check the whole as :meth:`Bundle.open` does, put it in place.

        The arguments are the manifest's fields (see :class:`Manifest`); ``created_by`` is this package and its
        version unless given. Files below ``engines/`` and ``parity/`` are not recorded. All bytes are on the
        disk before the bundle gets its name.

        Returns the bundle, opened. Raises :class:`BundleError` where a file has a name that a bundle cannot
        hold, a field is wrong, the target appeared meanwhile, or the system refuses.
        """
        folder = self.folder
        try:
            manifest = Manifest(
                created_by=created_by or _created_by(),
                family=family,
                source=source,
                latents=latents,
                components=dict(components),
                prediction=prediction,
                guidance=guidance or Guidance(),
                scheduler=scheduler or Scheduler(),
                labels=dict(labels or {}),
                files=_records(folder),
            )
            data = manifest.to_json().encode("utf-8")
            replace_file(folder / MANIFEST_DIGEST, digest_line(hashlib.sha256(data).hexdigest()))
            replace_file(folder / MANIFEST, data)
            for parent, _, _ in os.walk(folder):
                sync_folder(Path(parent))
            checked = load(folder)
            self._put_in_place(folder)
        except ValidationError as error:
            raise BundleError(f"{self._shown} was not written: {explain(error)}") from error
        except OSError as error:
            raise self._refusal(error) from error
        except BundleError as error:
            # The hidden folder will be gone by the time this is read.
            raise type(error)(str(error).replace(str(folder), str(self._shown))) from error
        self._finished = True
        # Not opened anew: another writer may have replaced it by now.
        return Bundle(self._shown, checked.manifest, checked.digest)

    def _put_in_place(self, folder: Path) -> None:
        for _ in range(100):
            # Other writers may make or replace the target at any time; each turn looks anew.
            self._check_target()
            try:
                if os.path.lexists(self._target):
                    shutil.rmtree(exchange(folder, self._target), ignore_errors=True)
                else:
                    place(folder, self._target)
            except (FileExistsError, FileNotFoundError):
                if not folder.is_dir():
                    raise
                continue
            sync_folder(self._target.parent)
            return
        raise BundleError(f"{self._shown} is being replaced over and over by other writers; try again later")

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

    def _discard(self) -> None:
        # After an exchange the hidden name holds the older bundle, which goes the same way.
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None
        self._held.close()

    def _refusal(self, error: OSError) -> BundleError:
        return self._space_error(error) or BundleError(
            f"{self._shown} cannot be written: {one_line(error.strerror or error)}"
            + (f" ({error.filename})" if error.filename else "")
        )

    def _space_error(self, error: BaseException | None) -> BundleError | None:
        return space_error(error, self._target, self._temporary, self._expected)


def _records(folder: Path) -> dict[str, FileRecord]:
    """Return size and SHA-256 of every file to be recorded, by path, each file on the disk for good."""
    records = {}
    for path, entry in walk(folder):
        if path in (MANIFEST, MANIFEST_DIGEST) or path.split("/")[0] in (ENGINES, PARITY):
            continue
        try:
            check_relative_path(path)
        except ValueError as error:
            raise BundleError(f"{folder}: {error}") from None
        if not entry.is_file(follow_symlinks=False):
            raise BundleError(f"{folder / path} is a link or no regular file; copy the file itself into the bundle")
        sync_file(folder / path)
        size, sha256 = sha256_of(folder / path)
        records[path] = FileRecord(size=size, sha256=sha256)
    return records


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


def _created_by() -> str:
    try:
        return f"dit-deploy {version('dit-deploy')}"
    except PackageNotFoundError:
        return "dit-deploy (not installed)"
