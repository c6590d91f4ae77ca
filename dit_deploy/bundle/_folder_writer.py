"""Write a folder so that it is there whole or not at all: what bundles and engines have in common."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from ..errors import BundleError, InputError
from ..files import sync_folder
from ..text import one_line
from ._files import sha256_of, sync_file, walk
from ._lock import lock
from ._parse import explain
from ._replace import beside, exchange, place, recover
from ._space import require_space, space_error
from .manifest import FileRecord, check_relative_path

__all__ = ["FolderWriter", "created_by", "record_files"]


class FolderWriter:
    """Fills a hidden folder beside a target and puts it in place in one step.

    Arguments:
        shown: the target as the caller knows it, for messages.
        target: where the folder shall be, links resolved. Its parent folder must exist.
        record: the file that a finished folder holds, written last: ``manifest.json``.
        what: the class's name and what it writes, for messages.
        expected_size: bytes that will be written, where known.

    A subclass has a method ``finish`` and says in :meth:`_check_target` what may be replaced.
    """

    def __init__(self, shown: Path, target: Path, *, record: str, what: str, expected_size: int | None) -> None:
        self._shown = shown
        self._target = target
        self._record = record
        self._what = what
        self._expected = expected_size
        self._temporary: Path | None = None
        self._finished = False
        self._alone = False
        self._held = ExitStack()

    @property
    def folder(self) -> Path:
        """The hidden folder to write into; only inside the ``with`` block."""
        if self._temporary is None:
            raise RuntimeError(f"{type(self).__name__}.folder exists inside the with block only")
        return self._temporary

    def file(self, relative: str) -> Path:
        """Return the path to write the file ``relative`` to, its folders made.

        Raises :class:`InputError` where ``relative`` is no plain path that stays inside the folder.
        """
        try:
            path = self.folder / check_relative_path(relative, self._what)
        except ValueError as error:
            raise InputError(str(error)) from None
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def __enter__(self) -> Self:
        parent = self._target.parent
        try:
            if not parent.is_dir():
                raise BundleError(f"{self._shown} cannot be written: there is no folder {parent}; make it first")
            recover(self._target, self._record, self._alone)
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
            raise BundleError(f"{self._shown} was not written: {type(self).__name__}.finish was not called")

    @contextmanager
    def _finishing(self) -> Iterator[Path]:
        """Yield the hidden folder; what fails in the block is said of the target, as the folder will be gone."""
        folder = self.folder
        try:
            yield folder
        except ValidationError as error:
            what = explain(error, self._record.removesuffix(".json"))
            raise BundleError(f"{self._shown} was not written: {what}") from error
        except OSError as error:
            raise self._refusal(error) from error
        except BundleError as error:
            raise type(error)(str(error).replace(str(folder), str(self._shown))) from error
        self._finished = True

    def _put_in_place(self, folder: Path) -> None:
        for parent, _, _ in os.walk(folder):
            sync_folder(Path(parent))
        for _ in range(100):
            # Other writers may make or replace the target at any time; each turn looks anew.
            self._check_target()
            try:
                if os.path.lexists(self._target):
                    shutil.rmtree(exchange(folder, self._target, self._record), ignore_errors=True)
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
        """Raise unless the target is absent, or something that may be replaced."""
        raise NotImplementedError

    def _discard(self) -> None:
        # After an exchange the hidden name holds the older folder, which goes the same way.
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None
        self._held.close()

    def _refusal(self, error: OSError) -> BundleError:
        return self._space_error(error) or refusal(self._shown, error)

    def _space_error(self, error: BaseException | None) -> BundleError | None:
        return space_error(error, self._target, self._temporary, self._expected)


def refusal(path: Path, error: OSError) -> BundleError:
    """Return the error to raise where the system does not let ``path`` be written."""
    return BundleError(
        f"{path} cannot be written: {one_line(error.strerror or error)}"
        + (f" ({error.filename})" if error.filename else "")
    )


def record_files(folder: Path, what: str, skipped: Callable[[str], bool]) -> dict[str, FileRecord]:
    """Return size and SHA-256 of every file below ``folder`` by path, each file on the disk for good.

    ``skipped`` says which paths are left out; ``what`` is the kind of folder, for messages. Raises
    :class:`BundleError` for a name that cannot be recorded, and for what is no regular file.
    """
    records = {}
    for path, entry in walk(folder):
        if skipped(path):
            continue
        try:
            check_relative_path(path, what)
        except ValueError as error:
            raise BundleError(f"{folder}: {error}") from None
        if not entry.is_file(follow_symlinks=False):
            raise BundleError(f"{folder / path} is a link or no regular file; copy the file itself into the {what}")
        sync_file(folder / path)
        size, sha256 = sha256_of(folder / path)
        records[path] = FileRecord(size=size, sha256=sha256)
    return records


def created_by() -> str:
    """Return this package and its version: ``dit-deploy 0.1.0``."""
    try:
        return f"dit-deploy {version('dit-deploy')}"
    except PackageNotFoundError:
        return "dit-deploy (not installed)"
