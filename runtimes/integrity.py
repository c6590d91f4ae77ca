"""A component's files held against the manifest before a backend opens them, each hashed once a process."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path, PurePosixPath

from dit_deploy.bundle import Bundle
from dit_deploy.errors import BundleError, IntegrityError

__all__ = ["check_component"]

#: (path, size, mtime_ns, inode) → SHA-256: a file that was hashed and has not been written since.
_known: dict[tuple[str, int, int, int], str] = {}
_lock = threading.Lock()


def check_component(bundle: Bundle, name: str) -> None:
    """Check the SHA-256 of every recorded file in the folder of the component ``name``: graph and external data.

    Weights that were altered at the same size would draw another picture without a word.

    Raises:
        IntegrityError: a file is missing, or is not the one that the manifest describes.
        BundleError: a file cannot be read.
    """
    folder = PurePosixPath(bundle.component(name).path).parent
    for relative, record in bundle.manifest.files.items():
        if not PurePosixPath(relative).is_relative_to(folder):
            continue
        path = bundle.file(relative)
        try:
            found = _sha256(path)
        except OSError as error:
            raise BundleError(f"{path} cannot be read: {error.strerror or error}") from error
        if found != record.sha256:
            raise IntegrityError(
                f"{path} was altered: its SHA-256 is {found}, the manifest says {record.sha256}; export the bundle "
                f"again, or copy it again (`dit-deploy verify {bundle.path}` lists every file that differs)"
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
