"""Read a folder that a writer may replace at any moment: all of it from one folder, or read it again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ..errors import BundleError

__all__ = ["read_stable"]

Read = TypeVar("Read")

#: How often a folder that is replaced while it is read is read again; the waits between add up to two seconds.
_ATTEMPTS = 64


def read_stable(root: Path, read: Callable[[], Read]) -> Read:
    """Return what ``read`` gives, called anew where another folder has taken the name ``root`` meanwhile.

    A :class:`BundleError` of ``read`` counts only where the folder stayed the same.
    """
    for attempt in range(_ATTEMPTS):
        time.sleep(attempt / 1000)
        before = _identity(root)
        try:
            found = read()
        except BundleError:
            # A writer may have put another folder here between two of our reads; then nothing is wrong with this one.
            if _identity(root) == before:
                raise
        else:
            if _identity(root) == before:
                return found
    raise BundleError(f"{root} is being replaced over and over; try again later")


def _identity(root: Path) -> tuple[int, int, int] | None:
    """Return what tells one folder from another that takes its name; ``None`` where there is none.

    An inode's number alone would not do: the next folder made may get that of the one removed.
    """
    try:
        status = os.stat(root)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino, status.st_ctime_ns
