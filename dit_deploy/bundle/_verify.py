"""Hash every recorded file and list what is not as its record says."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import BundleError, IntegrityError
from ..text import one_line
from ._files import file_inside, is_below, sha256_of, walk
from .manifest import FileRecord

__all__ = ["Problem", "Progress", "Recorded", "verify"]

Progress = Callable[[str, int, int], None]
"""Called with (the file being read, bytes read so far, bytes in all), after each chunk."""


@dataclass(frozen=True)
class Problem:
    """One file that differs from its record; ``str()`` gives it as a line.

    ``kind``: ``missing``; ``size`` (another size than recorded); ``altered`` (another SHA-256); ``extra`` (no
    record of it); ``unsafe`` (a link out of the bundle, or no regular file); ``unreadable``; ``unusable`` (an engine
    that is whole, but not one of this bundle). ``record`` is where the file should be recorded.
    """

    path: str
    kind: Literal["missing", "size", "altered", "extra", "unsafe", "unreadable", "unusable"]
    expected: str = ""
    found: str = ""
    record: str = "the manifest"

    def __str__(self) -> str:
        text = {
            "missing": "is missing",
            "size": f"has {self.found} bytes, expected {self.expected}",
            "altered": f"was altered: its SHA-256 is {self.found}, expected {self.expected}",
            "extra": f"is not recorded in {self.record}",
            "unsafe": f"is unsafe: {self.found}",
            "unreadable": f"cannot be read: {self.found}",
            "unusable": f"cannot be used: {self.found}",
        }[self.kind]
        return f"{self.path} {text}"


@dataclass(frozen=True)
class Recorded:
    """A folder and the files that should be in it.

    ``ignored`` are top-level names with records of their own or none. ``prefix`` is the folder's own path in the
    bundle, with a slash; ``record`` is what its files are recorded in.
    """

    root: Path
    files: Mapping[str, FileRecord]
    ignored: frozenset[str]
    prefix: str = ""
    record: str = "the manifest"


def verify(folders: Sequence[Recorded], progress: Progress | None = None) -> list[Problem]:
    """Return everything in the folders that is not as recorded, empty where all is well.

    Links must not leave their folder, below an ignored name neither. Nothing is raised for a bad file.
    """
    total = sum(record.size for folder in folders for record in folder.files.values())
    problems: list[Problem] = []
    done = 0
    for folder in folders:
        for path, record in folder.files.items():
            count = done

            def advance(chunk: int, path: str = folder.prefix + path) -> None:
                nonlocal count
                count += chunk
                if progress is not None:
                    progress(path, count, total)

            problems += _held_against(folder, path, record, advance)
            done += record.size
        problems += _unrecorded(folder)
    # A link out of an engine may be one out of its bundle, too.
    return list({(problem.path, problem.kind): problem for problem in reversed(problems)}.values())[::-1]


def _held_against(folder: Recorded, path: str, record: FileRecord, advance: Callable[[int], None]) -> Iterator[Problem]:
    """Yield what is wrong with one recorded file, which is read only if its size is right."""
    shown = folder.prefix + path
    try:
        file = file_inside(folder.root, path)
        size = os.stat(file).st_size
        if size == record.size:
            size, sha256 = sha256_of(file, advance)
        if size != record.size:  # it may have shrunk or grown while it was read, too
            yield Problem(shown, "size", str(record.size), str(size))
        elif sha256 != record.sha256:
            yield Problem(shown, "altered", record.sha256, sha256)
    except IntegrityError:
        yield Problem(shown, "missing")
    except BundleError as error:
        yield Problem(shown, "unsafe", found=one_line(error))
    except OSError as error:
        yield Problem(shown, "unreadable", found=one_line(error.strerror or error))


def _unrecorded(folder: Recorded) -> Iterator[Problem]:
    """Yield the files that have no record, and links that lead out."""
    try:
        real_root = os.path.realpath(folder.root)
        for path, entry in walk(folder.root):
            if path in folder.files:
                continue
            shown = folder.prefix + path
            if entry.is_symlink() and not is_below(real := os.path.realpath(entry.path), real_root):
                yield Problem(shown, "unsafe", found=one_line(f"a link that leaves the bundle, to {real}"))
            elif path.split("/")[0] not in folder.ignored:
                yield Problem(shown, "extra", record=folder.record)
    except OSError as error:
        yield Problem(str(error.filename), "unreadable", found=one_line(error.strerror or error))
