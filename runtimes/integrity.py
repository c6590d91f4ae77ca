"""Files held against their records before a backend opens them, each hashed once a process."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from dit_deploy.bundle import Bundle, Engine, FileRecord
from dit_deploy.errors import BundleError, IntegrityError

__all__ = ["check_component", "check_engine", "check_file", "check_recorded"]

#: (path, size, mtime_ns, inode) → SHA-256: a file that was hashed and has not been written since.
_known: dict[tuple[str, int, int, int], str] = {}
_lock = threading.Lock()

_EXPORT_AGAIN = "export the bundle again, or copy it again"


def check_component(bundle: Bundle, name: str) -> None:
    """Check the SHA-256 of every recorded file in the folder of the component ``name``: graph and external data.

    Weights that were altered at the same size would draw another picture without a word.

    Raises:
        IntegrityError: a file is missing, or is not the one that the manifest describes.
        BundleError: a file cannot be read.
    """
    folder = PurePosixPath(bundle.component(name).path).parent
    _check(
        (
            (bundle.file(relative), record)
            for relative, record in bundle.manifest.files.items()
            if PurePosixPath(relative).is_relative_to(folder)
        ),
        "the manifest",
        _EXPORT_AGAIN,
        bundle.path,
    )


def check_file(bundle: Bundle, relative: str) -> Path:
    """Check the SHA-256 of one recorded file of the bundle, and return its path; raises as :func:`check_component`."""
    path = bundle.file(relative)
    _check([(path, bundle.manifest.files[relative])], "the manifest", _EXPORT_AGAIN, bundle.path)
    return path


def check_engine(engine: Engine, component: str) -> None:
    """Check the SHA-256 of every file that ``component`` of an engine runs from: its artefact and what it refers to.

    Raises:
        IntegrityError: a file is missing, or is not the one that ``engine.json`` describes.
        BundleError: the engine has no such component, or a file cannot be read.
    """
    engine.file(component)
    # First, as the artefact is read to know what it refers to.
    check_recorded(engine, [engine.record.components[component].path])
    check_recorded(engine, engine.files_of(component))


def check_recorded(engine: Engine, files: Iterable[str]) -> None:
    """Check the SHA-256 of recorded files of an engine, given by their paths in it; raises as :func:`check_engine`."""
    _check(
        ((engine.recorded(relative), engine.record.files[relative]) for relative in files),
        "engine.json",
        "build the engine again, or copy it again",
        engine.path.parents[1],
    )


def _check(files: Iterable[tuple[Path, FileRecord]], record_name: str, mend: str, bundle: Path) -> None:
    for path, record in files:
        try:
            found = _sha256(path)
        except OSError as error:
            raise BundleError(f"{path} cannot be read: {error.strerror or error}") from error
        if found != record.sha256:
            raise IntegrityError(
                f"{path} was altered: its SHA-256 is {found}, {record_name} says {record.sha256}; {mend} "
                f"(`dit-deploy verify {bundle}` lists every file that differs)"
            )


def _sha256(path: Path) -> str:
    before = _state(path)
    with _lock:
        known = _known.get(before)
    if known is not None:
        return known
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if _state(path) == before:  # else it was written while it was read
        with _lock:
            _known[before] = found
    return found


def _state(path: Path) -> tuple[str, int, int, int]:
    status = os.stat(path)
    return os.path.realpath(path), status.st_size, status.st_mtime_ns, status.st_ino
