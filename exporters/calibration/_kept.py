"""Files of the folder ``calibration``: found, locked, written at once or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dit_deploy.bundle._files import is_below, read_limited
from dit_deploy.bundle._lock import lock_file
from dit_deploy.errors import BundleError
from dit_deploy.exporters.calibration._record import CalibrationRecord, Identity
from dit_deploy.exporters.calibration.trajectories import Progress
from dit_deploy.files import replace_file
from dit_deploy.text import one_line

__all__ = ["FOLDER", "find", "locked", "read_calibration", "write"]

FOLDER = "calibration"
#: A DiT-XL/2's takes some three megabytes.
_LIMIT = 64 << 20


def read_calibration(path: Path) -> CalibrationRecord:
    """Return what a file of the folder ``calibration`` holds.

    Raises:
        BundleError: it cannot be read, is larger than a calibration can be, damaged, or none.
    """
    return CalibrationRecord.parse(read_limited(path, _LIMIT), str(path))


def find(path: Path, identity: Identity, tell: Progress) -> CalibrationRecord | None:
    """Return what is kept at ``path``; ``None`` where there is nothing, or nothing that can be used."""
    if not os.path.lexists(path):
        return None
    try:
        record = read_calibration(path)
    except BundleError:
        tell(f"{FOLDER}/{path.name} is damaged, and made anew", 0, 1)
        return None
    if record.identity() != identity:
        tell(f"{FOLDER}/{path.name} is of another graph or other settings, and made anew", 0, 1)
        return None
    return record


@contextmanager
def locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of the calibration ``path``, whose folder is made where it is missing."""
    folder = path.parent
    with _writing(path):
        folder.mkdir(exist_ok=True)
        # The folder is no part of what was checked when the bundle was opened.
        if not is_below(os.path.realpath(folder), os.path.realpath(folder.parent)):
            raise BundleError(f"{folder} is a link that leaves the bundle; remove it")
        lock = lock_file(folder / f".{path.stem}.lock", waiting)
        lock.__enter__()
    try:
        for left in folder.glob(f".{path.name}.*"):  # by a process that was killed while it wrote
            with suppress(OSError):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield
    finally:
        lock.__exit__(None, None, None)


def write(path: Path, record: CalibrationRecord) -> None:
    """Write the calibration, all of it or nothing; ``BundleError`` where that cannot be done."""
    with _writing(path):
        replace_file(path, record.to_json())


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Say of the system's refusal what could not be written."""
    try:
        yield
    except OSError as error:
        raise BundleError(
            f"{path.parent} cannot be written to: {one_line(error.strerror or error)}; a calibration is kept in its "
            "bundle, so give the folder the permission, or copy the bundle to a place where you may write"
        ) from error
