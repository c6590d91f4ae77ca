"""Files of a bundle: find them without leaving the folder, read and hash them."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import BundleError, IntegrityError
from ..text import one_line

__all__ = ["file_inside", "human_size", "is_below", "read_limited", "sha256_of", "sync_file", "walk"]

CHUNK = 4 << 20


def human_size(size: int) -> str:
    """Write a number of bytes for people: ``999 B``, ``1.5 kB``, ``2.7 GB`` (powers of 1000)."""
    value, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.95 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{size} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


def file_inside(
    root: Path, relative: str, what: str = "bundle", mend: str = "copy the bundle again, or export it again"
) -> Path:
    """Return the path of a regular file of the bundle at ``root``.

    ``what`` and ``mend`` are for the messages, where ``root`` is another folder than a bundle's.

    Raises :class:`IntegrityError` where it is missing, :class:`BundleError` where it is no regular file,
    or where a symbolic link leads out of ``root``.
    """
    path = root / relative
    try:
        real, real_root = os.path.realpath(path, strict=True), os.path.realpath(root, strict=True)
        mode = os.stat(real).st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise IntegrityError(f"{path} is missing; {mend}") from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be read: {one_line(error)}") from error
    if not is_below(real, real_root):
        raise BundleError(f"{path} is a link that leaves the {what}, to {real}; put the file itself there")
    if not stat.S_ISREG(mode):
        raise BundleError(f"{path} is no regular file")
    return path


def is_below(real: str, real_root: str) -> bool:
    """Say whether one resolved path lies below another."""
    return real.startswith(real_root.rstrip(os.sep) + os.sep)


def walk(root: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield everything below ``root`` that is no folder, as (relative POSIX path, entry), sorted.

    Links are yielded, never followed; a folder that is renamed or removed meanwhile (an engine that is being built)
    is left out. Raises ``OSError`` where a folder cannot be listed.
    """
    pending = [""]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(root / folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except FileNotFoundError:
            if not folder:
                raise
            continue
        for entry in entries:
            relative = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=False):
                pending.append(relative)
            else:
                yield relative, entry


def read_limited(path: Path, limit: int) -> bytes:
    """Read a whole file of at most ``limit`` bytes; ``BundleError`` where it is larger or unreadable."""
    try:
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {one_line(error.strerror or error)}") from error
    if len(data) > limit:
        raise BundleError(f"{path} is larger than {human_size(limit)}, the most that is read of it")
    return data


def sha256_of(path: Path, advance: Callable[[int], None] | None = None) -> tuple[int, str]:
    """Return (size, SHA-256) of a file, read in chunks; ``advance`` is told the bytes of each chunk."""
    digest, size, buffer = hashlib.sha256(), 0, bytearray(CHUNK)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            digest.update(view[:count])
            size += count
            if advance is not None:
                advance(count)
    return size, digest.hexdigest()


def sync_file(path: Path) -> None:
    """Wait until the bytes of ``path`` are on the disk."""
    # Windows can only flush a file that is open for writing; elsewhere a read-only file must do too.
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
