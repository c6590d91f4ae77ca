"""Hash every file of a bundle and list what is not as the manifest says."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import BundleError, IntegrityError
from ..text import one_line
from ._files import file_inside, is_below, sha256_of, walk
from .manifest import Manifest

__all__ = ["Problem", "Progress", "verify"]

Progress = Callable[[str, int, int], None]
"""Called with (the file being read, bytes read so far, bytes in all), after each chunk."""


@dataclass(frozen=True)
class Problem:
    """One file that differs from the manifest; ``str()`` gives it as a line.

    ``kind``: ``missing``; ``size`` (another size than recorded); ``altered`` (another SHA-256); ``extra`` (no
    record of it); ``unsafe`` (a link out of the bundle, or no regular file); ``unreadable``.
    """

    path: str
    kind: Literal["missing", "size", "altered", "extra", "unsafe", "unreadable"]
    expected: str = ""
    found: str = ""

    def __str__(self) -> str:
        text = {
            "missing": "is missing",
            "size": f"has {self.found} bytes, expected {self.expected}",
            "altered": f"was altered: its SHA-256 is {self.found}, expected {self.expected}",
            "extra": "is not recorded in the manifest",
            "unsafe": f"is unsafe: {self.found}",
            "unreadable": f"cannot be read: {self.found}",
        }[self.kind]
        return f"{self.path} {text}"


def verify(root: Path, manifest: Manifest, ignored: frozenset[str], progress: Progress | None = None) -> list[Problem]:
    """Return everything below ``root`` that is not as ``manifest`` records it, empty where all is well.

    ``ignored`` are top-level names with records of their own; links there too must not leave ``root``. Nothing is
    raised for a bad file.
    """
    problems: list[Problem] = []
    total = sum(record.size for record in manifest.files.values())
    done = 0
    for path, record in manifest.files.items():
        try:
            file = file_inside(root, path)
            size = os.stat(file).st_size
            if size != record.size:
                problems.append(Problem(path, "size", str(record.size), str(size)))
                continue
            count = done

            def advance(chunk: int, path: str = path) -> None:
                nonlocal count
                count += chunk
                if progress is not None:
                    progress(path, count, total)

            size, sha256 = sha256_of(file, advance)
            if size != record.size:  # it shrank or grew while it was read
                problems.append(Problem(path, "size", str(record.size), str(size)))
            elif sha256 != record.sha256:
                problems.append(Problem(path, "altered", record.sha256, sha256))
        except IntegrityError:
            problems.append(Problem(path, "missing"))
        except BundleError as error:
            problems.append(Problem(path, "unsafe", found=one_line(error)))
        except OSError as error:
            problems.append(Problem(path, "unreadable", found=one_line(error.strerror or error)))
        done += record.size
    try:
        real_root = os.path.realpath(root)
        for path, entry in walk(root):
            if path in manifest.files:
                continue
            if entry.is_symlink() and not is_below(real := os.path.realpath(entry.path), real_root):
                problems.append(Problem(path, "unsafe", found=one_line(f"a link that leaves the bundle, to {real}")))
            elif path.split("/")[0] not in ignored:
                problems.append(Problem(path, "extra"))
    except OSError as error:
        problems.append(Problem(str(error.filename), "unreadable", found=one_line(error.strerror or error)))
    return problems
