"""Tell a full disk from other failures, and say how much is missing."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from ..errors import BundleError
from ._files import human_size

__all__ = ["require_space", "space_error"]

# Libraries in Rust and C++, and numpy's tofile, say it in words only.
_WORDS = ("No space left on device", "StorageFull", "requested and 0 written")
_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


def require_space(target: Path, expected: int | None) -> None:
    """Raise :class:`BundleError` where fewer than ``expected`` bytes are free beside ``target``."""
    free = shutil.disk_usage(target.parent).free
    if expected is not None and expected > free:
        raise BundleError(
            f"no space left in {target.parent}: {target.name} needs about {human_size(expected)} and "
            f"{human_size(free)} are free: needs about {human_size(expected - free)} more"
        )


def space_error(
    error: BaseException | None, target: Path, written_to: Path | None, expected: int | None
) -> BundleError | None:
    """Return what to raise instead where a full disk or quota is behind ``error``, else ``None``.

    ``written_to`` is the folder that was being filled for ``target``, ``expected`` the bytes it was to hold, if known.
    """
    if error is None or isinstance(error, BundleError) or not _is_full_disk(error):
        return None
    try:
        free = shutil.disk_usage(target.parent).free
    except OSError:
        free = 0
    written = sum(_size(path) for path in written_to.rglob("*")) if written_to else 0
    if expected is not None and expected > written + free:
        needs = f"needs about {human_size(expected - written - free)} more"
    else:
        needs = f"needs more than the {human_size(written)} that were written and the {human_size(free)} still free"
    return BundleError(f"no space left in {target.parent}: {target.name} {needs}; nothing was left there")


def _is_full_disk(error: BaseException) -> bool:
    seen: BaseException | None = error
    for _ in range(10):
        if seen is None:
            break
        if isinstance(seen, OSError) and seen.errno in _FULL:
            return True
        if any(words in str(seen) for words in _WORDS):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0
