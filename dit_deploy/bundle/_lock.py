"""Locks between processes, which end with the process that holds them, whatever ends that."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["lock", "lock_file"]

#: (process, thread, path) of every lock file that is held → whether the file system has locks. A thread may ask again
#: for what it holds.
_held: dict[tuple[int, int, str], bool] = {}


@contextmanager
def lock(folder: Path) -> Iterator[bool]:
    """Hold the lock of ``folder`` and yield ``True``, or yield ``False`` where another process holds it.

    The lock ends with its process, whatever ends that, and is seen from other containers on this machine,
    where process numbers mean nothing. File systems without locks yield ``True``.
    """
    if fcntl is None:
        yield True
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        free = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            free = False
        except OSError:
            pass
        yield free
    finally:
        os.close(descriptor)


@contextmanager
def lock_file(path: Path, waiting: Callable[[], None]) -> Iterator[bool]:
    """Hold the lock of the file ``path``, which is made for it and removed after; wait for whoever holds it.

    ``waiting`` is called once, where another process or thread holds it. A thread that holds it may enter again.
    Yields ``False`` where the file system has no locks, and others may be at work. Raises ``OSError`` where the file
    cannot be made.
    """
    mine = (os.getpid(), threading.get_ident(), os.path.realpath(path))
    if fcntl is None or mine in _held:
        yield _held.get(mine, False)
        return
    descriptor, locked = _acquire(path, waiting)
    _held[mine] = locked
    try:
        yield locked
    finally:
        del _held[mine]
        # While it is held: whoever opened it before this finds that the name is gone, and makes a new one.
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _acquire(path: Path, waiting: Callable[[], None]) -> tuple[int, bool]:
    said = False
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not said:
                    waiting()
                said = True
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError:
                return descriptor, False
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return descriptor, True
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
