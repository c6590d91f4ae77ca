"""Put a finished folder in place of nothing, or of an older one, in one step; and clear what was left over.

Linux can exchange two names in one step (``renameat2``). Elsewhere an older folder is renamed aside first,
and put back if the second rename fails; a process killed between the two leaves the older folder aside,
where :func:`recover` finds it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from ._lock import lock

__all__ = ["beside", "exchange", "place", "recover"]

_AT_FDCWD, _NOREPLACE, _EXCHANGE = -100, 1, 2
_NOT_THERE = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EXDEV}


def beside(target: Path, kind: str) -> Path:
    """Return a new hidden name beside ``target``: ``.NAME.tmp-PID-random`` for the kind ``tmp``."""
    return target.with_name(f".{target.name}.{kind}-{os.getpid()}-{secrets.token_hex(4)}")


def place(folder: Path, target: Path) -> None:
    """Rename ``folder`` to ``target``; ``FileExistsError`` where that exists, which is then unchanged."""
    try:
        _renameat2(folder, target, _NOREPLACE)
        return
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    _rename(folder, target)


def exchange(folder: Path, target: Path, record: str) -> Path:
    """Rename ``folder`` to ``target`` and return where the older ``target`` is now.

    ``record`` is the file that a finished folder of this kind holds, such as ``manifest.json``.

    Raises ``FileNotFoundError`` where there is no ``target``, ``FileExistsError`` where another writer put its own
    there meanwhile; on any other error the older one is in place.
    """
    try:
        _renameat2(folder, target, _EXCHANGE)
        return folder
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
    aside = beside(target, "old")
    try:
        os.rename(target, aside)
        _rename(folder, target)
    except BaseException:
        if aside.exists():
            if not os.path.lexists(target):
                os.rename(aside, target)
            elif (target / record).is_file():
                # Another writer's folder took the place; what is aside was to be replaced in any case.
                shutil.rmtree(aside, ignore_errors=True)
        raise
    return aside


def _rename(folder: Path, target: Path) -> None:
    """Rename a folder; ``FileExistsError`` where ``target`` holds something, whichever way the system says so."""
    try:
        os.rename(folder, target)
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error


def recover(target: Path, record: str, alone: bool = False) -> None:
    """Clear what killed writers left beside ``target``; a folder left aside goes back where none is in place.

    ``record`` is the file that a finished folder of this kind holds, such as ``manifest.json``.
    A folder is touched only if the process in its name is gone and nobody holds its lock, or if the caller is known to
    be the only writer (``alone``). Never raises ``OSError``: what cannot be cleared stays, hidden.
    """
    pattern = re.compile(rf"\.{re.escape(target.name)}\.(tmp|old)-(\d+)-[0-9a-f]+")
    with suppress(OSError):
        for name in sorted(os.listdir(target.parent)):
            match = pattern.fullmatch(name)
            left = target.with_name(name)
            if match is None or left.is_symlink() or not left.is_dir() or (not alone and _alive(int(match[2]))):
                continue
            with suppress(OSError), lock(left) as free:
                # A process that ends gives up one lock after the other.
                if not (free or alone):
                    continue
                if match[1] == "old" and not os.path.lexists(target):
                    place(left, target)
                elif match[1] == "tmp" or (target / record).is_file():
                    shutil.rmtree(left, ignore_errors=True)


def _alive(pid: int) -> bool:
    if os.name != "posix":
        return True  # os.kill(pid, 0) would end the process on Windows
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _renameat2(source: Path, target: Path, flags: int) -> None:
    """Call Linux's ``renameat2``; ``OSError`` with ``ENOSYS`` where the C library has none."""
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    if function(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(source), None, str(target))
