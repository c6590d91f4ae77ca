"""Open the engines of a bundle: what their records say is held against the files, and against the bundle's graphs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..errors import BundleError, InputError, IntegrityError
from ..files import replace_file
from ..text import one_line
from ._files import file_inside, is_below, read_limited
from ._onnx import check_references, referenced_files
from ._parity import not_finite
from ._parse import explain, parse_engine
from ._stable import read_stable
from ._verify import Problem, Progress, Recorded, verify
from .engine import ENGINE_RECORD, RESERVED_NAMES, SOLVER, EngineRecord, graph_digest
from .manifest import Manifest

__all__ = [
    "Engine",
    "check_engine_name",
    "engine_names",
    "load_engine",
    "open_engine",
    "recorded_engines",
    "unusable_engines",
]

_LIMIT = 16 << 20
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_MEND = "build it again"


class Engine:
    """An engine on disk whose record, paths, sizes and references have been checked; made by :meth:`Bundle.engine`."""

    def __init__(self, path: Path, record: EngineRecord) -> None:
        self._path = path
        self._record = record

    def __repr__(self) -> str:
        return f"Engine({str(self._path)!r})"

    @property
    def name(self) -> str:
        """The engine's name, which is its folder's."""
        return self._record.name

    @property
    def path(self) -> Path:
        """The engine's folder, absolute."""
        return self._path

    @property
    def record(self) -> EngineRecord:
        """What ``engine.json`` says."""
        return self._record

    def file(self, component: str) -> Path:
        """Return the path of a component's artefact; ``BundleError`` names those that the engine has."""
        if component not in self._record.components:
            known = ", ".join(self._record.components)
            raise BundleError(f"{self._path} has no component {component!r}; it has {known}")
        return self.recorded(self._record.components[component].path)

    def recorded(self, relative: str) -> Path:
        """Return the path of a recorded file; ``BundleError`` for a file that ``engine.json`` does not record."""
        if relative not in self._record.files:
            raise BundleError(f"{self._path}: {ENGINE_RECORD} records no file {relative!r}")
        return file_inside(self._path, relative, "engine", _MEND)

    def files_of(self, component: str) -> list[str]:
        """Return the recorded files that a component runs from, sorted: its artefact, and what that refers to."""
        self.file(component)
        artefact = self._record.components[component]
        if artefact.kind == "onnx":
            return sorted(referenced_files(self._path, artefact.path))
        return [artefact.path]

    def verify(self, progress: Progress | None = None) -> list[Problem]:
        """Hash every recorded file and return what is wrong, an empty list where all is well.

        ``progress`` is called with (file, bytes read, bytes in all).
        """
        return verify([_as_recorded(self._path, self._record, "")], progress)

    def record_parity(self, parity: Mapping[str, Any]) -> Engine:
        """Write how far the engine is from its bundle into its record, ``{"passed": bool, …}``; return it anew.

        Raises :class:`InputError` where ``parity`` is no JSON (NaN and infinities included: write ``None``),
        :class:`BundleError` where another engine has taken this one's place, or it cannot be written.
        """
        if bad := not_finite(parity, "parity"):
            raise InputError(f"engine {self.name}: {bad}, which JSON cannot hold; write None")
        try:
            record = EngineRecord.model_validate({**self._record.model_dump(), "parity": dict(parity)})
        except ValidationError as error:
            raise InputError(f"engine {self.name}: {explain(error, 'parity')}") from error
        file = self._path / ENGINE_RECORD
        if parse_engine(read_limited(file, _LIMIT), str(file)).key != self._record.key:
            raise BundleError(f"{self._path} was built anew meanwhile; measure its parity again")
        try:
            replace_file(file, record.to_json().encode("utf-8"))
        except OSError as error:
            raise BundleError(f"{file} cannot be written: {one_line(error.strerror or error)}") from error
        return Engine(self._path, record)


def check_engine_name(name: str) -> str:
    """Return ``name`` if an engine may have it, else raise :class:`InputError`."""
    if not _NAME.fullmatch(name):
        raise InputError(f"{one_line(repr(name), 120)} names no engine: use up to 100 letters, digits, . _ -")
    if name in RESERVED_NAMES:
        raise InputError(f"{name!r} has a meaning of its own and names no engine; use another name")
    return name


def engine_names(folder: Path) -> list[str]:
    """Return the names of the finished engines in ``folder``, sorted; none where it does not exist."""
    try:
        names = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise BundleError(f"{folder} cannot be listed: {error.strerror or error}") from error
    return [name for name in names if not name.startswith(".") and (folder / name / ENGINE_RECORD).is_file()]


def open_engine(root: Path, manifest: Manifest, name: str) -> Engine:
    """See :meth:`dit_deploy.bundle.Bundle.engine`; ``root`` is the bundle's folder."""
    folder = root / "engines"
    path = folder / name
    if not _NAME.fullmatch(name) or not os.path.lexists(path):
        known = ", ".join(engine_names(folder)) or "none; `dit-deploy build-engine` builds one"
        raise BundleError(f"{root} has no engine {one_line(repr(name), 120)}; it has {known}")
    if not os.path.lexists(path / ENGINE_RECORD):
        raise BundleError(f"{path} is no finished engine, it has no {ENGINE_RECORD}; remove it, or build it again")
    return read_stable(path, lambda: load_engine(root, manifest, path, name))


def load_engine(root: Path, manifest: Manifest, path: Path, name: str) -> Engine:
    """Do the work of :func:`open_engine`; used by the writer too, on a folder that is not in place yet."""
    if not is_below(os.path.realpath(path), os.path.realpath(root)):
        raise BundleError(f"{path} is a link that leaves the bundle, to {os.path.realpath(path)}; {_MEND}")
    record = _read_record(path)
    if record.name != name:
        raise BundleError(
            f"{path / ENGINE_RECORD} is of an engine called {record.name!r}; rename the folder back, or {_MEND}"
        )
    for relative, recorded in record.files.items():
        try:
            size = os.stat(file_inside(path, relative, "engine", _MEND)).st_size
        except OSError as error:
            raise BundleError(f"{path / relative} cannot be read: {error.strerror or error}") from error
        if size != recorded.size:
            raise IntegrityError(
                f"{path / relative} has {size} bytes, but {ENGINE_RECORD} says {recorded.size}; "
                f"copy the engine again, or {_MEND}"
            )
    for relative in record.files:
        if relative.endswith(".onnx"):
            check_references(path, relative, record.files, "engine", ENGINE_RECORD)
    for component, built in record.components.items():
        if component not in manifest.components and component != SOLVER:
            raise BundleError(f"{path} has a component {component!r}, which the bundle does not have; {_MEND}")
        if built.graph != graph_digest(manifest, component):
            raise BundleError(
                f"engine {name} was built from another graph of {component} (exported since); {_MEND}, in {root}"
            )
    return Engine(path, record)


def recorded_engines(root: Path) -> tuple[list[Recorded], list[Problem]]:
    """Return the finished engines for :func:`verify`, and those whose records cannot be read.

    Folders that are links out of the bundle are left to :func:`verify`'s look at the bundle itself.
    """
    folders, problems = [], []
    real_root = os.path.realpath(root)
    for name in engine_names(root / "engines"):
        prefix = f"engines/{name}/"
        if not is_below(os.path.realpath(root / prefix), real_root):
            continue
        try:
            folders.append(_as_recorded(root / prefix, _read_record(root / prefix), prefix))
        except BundleError as error:
            problems.append(Problem(prefix + ENGINE_RECORD, "unreadable", found=one_line(error)))
    return folders, problems


def unusable_engines(root: Path, manifest: Manifest, known: Sequence[Problem]) -> list[Problem]:
    """Return the engines whose files are as recorded, as far as ``known`` says, but which do not open for all that."""
    problems = []
    paths = {problem.path for problem in known}
    for name in engine_names(root / "engines"):
        if paths & {"engines", f"engines/{name}"} or any(path.startswith(f"engines/{name}/") for path in paths):
            continue
        try:
            open_engine(root, manifest, name)
        except BundleError as error:
            problems.append(Problem(f"engines/{name}", "unusable", found=one_line(error)))
    return problems


def _as_recorded(path: Path, record: EngineRecord, prefix: str) -> Recorded:
    return Recorded(path, record.files, frozenset({ENGINE_RECORD}), prefix, ENGINE_RECORD)


def _read_record(path: Path) -> EngineRecord:
    file = file_inside(path, ENGINE_RECORD, "engine", _MEND)
    return parse_engine(read_limited(file, _LIMIT), str(file))
