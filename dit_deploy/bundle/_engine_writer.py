"""Write an engine into a bundle whole or not at all, one build of a name at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from ..errors import BundleError, InputError
from ..files import replace_file
from ..text import one_line
from ._engines import Engine, check_engine_name, load_engine
from ._files import is_below, read_limited
from ._folder_writer import FolderWriter, record_files, refusal
from ._folder_writer import created_by as this_package
from ._lock import lock_file
from ._parity import not_finite
from ._reader import ENGINES, MANIFEST_DIGEST, Bundle, digest_line
from .engine import ENGINE_RECORD, BackendName, EngineComponent, EngineRecord, Precision, Target, engine_key

__all__ = ["EngineWriter", "engine_lock"]

#: Called once with a line that says what is waited for.
Waiting = Callable[[str], None]


@contextmanager
def engine_lock(bundle: Bundle, name: str, waiting: Waiting | None = None) -> Iterator[bool]:
    """Hold the right to build the engine ``name``: around a look for its key, the build, and its parity.

    Another process or thread that asks waits, after a line to ``waiting``; what it finds then is what the first one
    built. A thread that holds the lock may ask again. The lock ends with its process, whatever ends that. Yields
    ``False`` where the file system has no locks.

    Raises :class:`InputError` for what is no engine's name, :class:`BundleError` where ``engines/`` cannot be written.
    """
    folder = bundle.path / ENGINES
    path = folder / f".{check_engine_name(name)}.lock"

    def say() -> None:
        if waiting is not None:
            waiting(f"{folder / name} is being built by another process; waiting for it")

    held = lock_file(path, say)
    try:
        folder.mkdir(exist_ok=True)
        # The folder may have become a link since the bundle was checked.
        if not is_below(os.path.realpath(folder), os.path.realpath(bundle.path)):
            raise BundleError(f"{folder} is a link that leaves the bundle; remove it")
        locked = held.__enter__()
    except OSError as error:
        raise refusal(folder / name, error) from error
    try:
        yield locked
    finally:
        held.__exit__(None, None, None)


class EngineWriter(FolderWriter):
    """Build an engine in a hidden folder beside ``engines/NAME``; :meth:`finish` puts it in place in one step.

        with EngineWriter(bundle, "int8") as writer:
            build(writer.file("denoiser.engine"))
            engine = writer.finish(backend="tensorrt-rtx", …)

    Holds the :func:`engine_lock` of its name. An older engine of the name stays as it is until the last step, and is
    then replaced; a folder that is no engine is never replaced. Leaving the ``with`` block without :meth:`finish`
    removes the hidden folder; one that a killed process left is removed by the next writer for the same name.

    Arguments:
        bundle: an opened bundle.
        name: of the engine: letters, digits, ``. _ -``.
        expected_size: bytes that will be written, where known: with less free space the writer refuses.
        waiting: called with a line where another process builds an engine of this name.

    Raises :class:`InputError` for a bad name, :class:`BundleError` on entry where the engine cannot be written, and in
    place of any error that a full disk causes inside the block.
    """

    def __init__(
        self, bundle: Bundle, name: str, *, expected_size: int | None = None, waiting: Waiting | None = None
    ) -> None:
        shown = bundle.path / ENGINES / check_engine_name(name)
        super().__init__(shown, shown, record=ENGINE_RECORD, what="engine", expected_size=expected_size)
        self._bundle = bundle
        self._name = name
        self._waiting = waiting

    def __enter__(self) -> Self:
        # First to be entered and last to be left, also where entering fails after it.
        self._alone = self._held.enter_context(engine_lock(self._bundle, self._name, self._waiting))
        return super().__enter__()

    def finish(
        self,
        *,
        backend: BackendName,
        backend_version: str,
        precision: Precision,
        target: Target,
        components: Mapping[str, EngineComponent],
        key_parts: Mapping[str, str],
        seconds: float,
        options: Mapping[str, Any] | None = None,
        parity: Mapping[str, Any] | None = None,
        created_by: str | None = None,
    ) -> Engine:
        """Hash every file, write ``engine.json`` last, check the whole as :meth:`Bundle.engine` does, put it in place.

        The arguments are the record's fields (see :class:`EngineRecord`); the key is made from ``key_parts``, time and
        version are now's and this package's.

        Returns the engine, opened. Raises :class:`BundleError` where a file has a name that an engine cannot hold, a
        field is wrong, the bundle was exported anew meanwhile, or the system refuses.
        """
        if bad := not_finite({"options": options, "parity": parity}, "engine"):
            raise InputError(f"engine {self._name}: {bad}, which JSON cannot hold; write None")
        with self._finishing() as folder:
            record = EngineRecord(
                name=self._name,
                created_by=created_by or this_package(),
                created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                backend=backend,
                backend_version=backend_version,
                precision=precision,
                target=target,
                components=dict(components),
                key=engine_key(key_parts),
                key_parts=dict(key_parts),
                options=dict(options or {}),
                seconds=seconds,
                parity=None if parity is None else dict(parity),
                files=record_files(folder, "engine", lambda path: path == ENGINE_RECORD),
            )
            replace_file(folder / ENGINE_RECORD, record.to_json().encode("utf-8"))
            load_engine(self._bundle.path, self._bundle.manifest, folder, self._name)
            self._check_bundle()
            self._put_in_place(folder)
        return Engine(self._shown, record)

    def _check_bundle(self) -> None:
        """Raise unless the bundle is still the one that the engine was built from."""
        now = read_limited(self._bundle.path / MANIFEST_DIGEST, 1 << 12)
        if now != digest_line(self._bundle.digest):
            raise BundleError(f"{self._bundle.path} was exported anew while {self._name} was built; build it again")

    def _check_target(self) -> None:
        """Raise unless the target is absent, or an engine, damaged or not."""
        target: Path = self._target
        if not os.path.lexists(target):
            return
        if target.is_symlink() or not os.path.lexists(target / ENGINE_RECORD):
            what = "a link" if target.is_symlink() else "a folder" if target.is_dir() else "a file"
            raise BundleError(
                f"{self._shown} exists and is no engine but {one_line(what)}; remove it, or give another name"
            )
