"""Open a bundle: read the manifest, and trust nothing that it or the folder says before it is checked."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import BundleError, IntegrityError
from ..text import one_line
from ._engines import Engine, engine_names, open_engine, recorded_engines, unusable_engines
from ._files import file_inside, is_below, read_limited, walk
from ._json import read_object
from ._onnx import check_references
from ._parity import parity_names, write_parity
from ._parse import HOW, parse_manifest
from ._stable import read_stable
from ._verify import Problem, Progress, Recorded, verify
from .manifest import Component, Manifest

__all__ = ["MANIFEST", "MANIFEST_DIGEST", "Bundle", "digest_line", "unfinished"]

MANIFEST = "manifest.json"
MANIFEST_DIGEST = "manifest.json.sha256"
CALIBRATION, ENGINES, PARITY = "calibration", "engines", "parity"
#: Folders that are written later, whose files have records of their own or need none.
LATER = frozenset({CALIBRATION, ENGINES, PARITY})
_MANIFEST_LIMIT = 16 << 20
_SCHEDULER_LIMIT = 1 << 20
_UNFINISHED = re.compile(r"\..+\.(tmp|old)-\d+-[0-9a-f]+", re.DOTALL)


def unfinished(name: str) -> bool:
    """Say whether ``name`` is what a :class:`BundleWriter` calls a folder that is not in place (yet)."""
    return _UNFINISHED.fullmatch(name) is not None


def digest_line(digest: str) -> bytes:
    """Return the content of ``manifest.json.sha256``, in the form that ``sha256sum -c`` reads."""
    return f"{digest}  {MANIFEST}\n".encode("ascii")


class Bundle:
    """A bundle on disk whose manifest, paths, sizes and graph references have been checked.

    Made by :meth:`open`. Nothing here changes the recorded files; :meth:`write_parity` adds beside them, as an
    :class:`EngineWriter` does.
    """

    def __init__(self, path: Path, manifest: Manifest, digest: str) -> None:
        self._path = path
        self._manifest = manifest
        self._digest = digest

    def __repr__(self) -> str:
        return f"Bundle({str(self._path)!r}, family={self._manifest.family!r})"

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, check_files: bool = True) -> Bundle:
        """Open the bundle in the folder ``path``, without reading its weights.

        Checked: the manifest (strict JSON, version, every field, its own SHA-256), that each recorded file is
        a regular file inside the folder with the recorded size, that no link leaves the folder, and that
        the graphs' external data stays among the recorded files. Hashes are :meth:`verify`'s work.

        ``check_files=False`` opens on the manifest's own validity alone, so that :meth:`verify` can list everything
        that is missing or altered, where opening would stop at the first; use such a bundle for nothing else.

        Raises :class:`BundleError`, or its :class:`IntegrityError` for missing or altered files.
        """
        root = Path(os.path.abspath(path))
        if unfinished(root.name):
            raise BundleError(f"{root} is an unfinished bundle, left by a writer that was stopped; remove it")
        return load(root, check_files=check_files)

    @property
    def path(self) -> Path:
        """The bundle's folder, absolute."""
        return self._path

    @property
    def manifest(self) -> Manifest:
        """What the bundle says about the model."""
        return self._manifest

    @property
    def digest(self) -> str:
        """SHA-256 over the bytes of ``manifest.json``, in hexadecimal: it names the bundle's whole content."""
        return self._digest

    def file(self, relative: str) -> Path:
        """Return the path of a recorded file; ``BundleError`` for a file that the manifest does not record."""
        if relative not in self._manifest.files:
            raise BundleError(f"{self._path}: the manifest records no file {relative!r}")
        return file_inside(self._path, relative)

    def component(self, name: str) -> Component:
        """Return the component ``name``; ``BundleError`` names those that there are."""
        try:
            return self._manifest.components[name]
        except KeyError:
            known = ", ".join(self._manifest.components)
            raise BundleError(f"{self._path} has no component {name!r}; it has {known}") from None

    def component_path(self, name: str) -> Path:
        """Return the path of a component's ONNX file."""
        return self.file(self.component(name).path)

    def scheduler_config(self) -> dict[str, Any]:
        """Return the diffusers scheduler config; infinities may occur in it, as diffusers writes them.

        Raises :class:`BundleError` where it is no JSON object with a ``_class_name``.
        """
        path = self.file(self._manifest.scheduler.path)
        config = read_object(read_limited(path, _SCHEDULER_LIMIT), str(path), infinity=True)
        if not isinstance(config.get("_class_name"), str):
            raise BundleError(f"{path} names no scheduler: expected a string under _class_name")
        return config

    def verify(self, progress: Progress | None = None) -> list[Problem]:
        """Hash every recorded file and return what is wrong, an empty list where all is well.

        Finished engines are held against their own records. Files without a record are problems too, except below
        ``calibration/`` and ``parity/`` and beside the engines. ``progress`` is called with (file, bytes read, bytes
        in all).
        """
        ignored = LATER | {MANIFEST, MANIFEST_DIGEST}
        engines, unreadable = recorded_engines(self._path)
        problems = verify([Recorded(self._path, self._manifest.files, ignored), *engines], progress) + unreadable
        problems += unusable_engines(self._path, self._manifest, problems)
        for name, expected in (
            (MANIFEST_DIGEST, hashlib.sha256(digest_line(self._digest)).hexdigest()),
            (MANIFEST, self._digest),
        ):
            try:
                found = hashlib.sha256(read_limited(file_inside(self._path, name), _MANIFEST_LIMIT)).hexdigest()
            except IntegrityError:
                problems.insert(0, Problem(name, "missing"))
            except BundleError as error:
                problems.insert(0, Problem(name, "unreadable", found=one_line(error)))
            else:
                if found != expected:
                    problems.insert(0, Problem(name, "altered", expected, found))
        return problems

    def engine_names(self) -> list[str]:
        """Return the names of the finished engines, sorted: folders below ``engines/`` with an ``engine.json``."""
        return engine_names(self._path / ENGINES)

    def engine(self, name: str) -> Engine:
        """Open the engine ``name``, without reading its artefacts.

        Checked: its record (strict JSON, version, every field), that each recorded file is a regular file inside the
        engine's folder with the recorded size, that its graphs refer to recorded files only, and that it was built
        from the graphs that this bundle has.

        Raises :class:`BundleError`, or its :class:`IntegrityError` for missing or altered files.
        """
        return open_engine(self._path, self._manifest, name)

    def cache_folder(self) -> Path | None:
        """Return ``engines/.cache``, where backends keep what makes them faster next time.

        Nothing in it is recorded or needed; anyone may remove it. ``None`` where it cannot be made or written.
        """
        folder = self._path / ENGINES / ".cache"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            inside = is_below(os.path.realpath(folder), os.path.realpath(self._path))
        except OSError:
            return None
        return folder if inside and os.access(folder, os.W_OK) else None

    def parity_names(self) -> list[str]:
        """Return the names of the parity reports, sorted."""
        return parity_names(self._path / PARITY)

    def write_parity(self, name: str, report: Mapping[str, Any]) -> Path:
        """Write ``report`` as ``parity/NAME.json``, replacing an older one at once, and return its path.

        Raises :class:`InputError` for a name other than letters, digits, ``. _ -``, or a report that is no
        JSON (NaN and infinities included: write ``None``), :class:`BundleError` where it cannot be written.
        """
        return write_parity(self._path / PARITY, name, report)


def load(root: Path, *, check_files: bool = True) -> Bundle:
    """Do the work of :meth:`Bundle.open`; used by the writer too, on a folder that is not in place yet."""

    def read() -> Bundle:
        data = _manifest_bytes(root)
        return _checked(root, data) if check_files else _unchecked(root, data)

    return read_stable(root, read)


def _manifest_bytes(root: Path) -> bytes:
    try:
        if not root.is_dir():
            if not root.exists():
                raise BundleError(f"there is no {root}; {HOW}")
            raise BundleError(f"{root} is a file; {HOW}")
        if not os.path.lexists(root / MANIFEST):
            raise BundleError(f"{root} is no bundle: {_contents(root)}; {HOW}")
    except FileNotFoundError as error:  # a writer without exchange renamed it between two of our looks
        raise BundleError(f"there is no {root}; {HOW}") from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{str(root)!r} cannot be opened: {one_line(error)}") from error
    return read_limited(file_inside(root, MANIFEST), _MANIFEST_LIMIT)


def _contents(root: Path) -> str:
    names = sorted(os.listdir(root))
    for name, kind in (("model_index.json", "pipeline"), ("config.json", "model")):
        if name in names:
            return f"it looks like a diffusers {kind} ({name}); run `dit-deploy export {root} BUNDLE`"
    if not names:
        return "it is empty"
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"it holds {', '.join(names[:4])}{more}, but no {MANIFEST}"


def _checked(root: Path, data: bytes) -> Bundle:
    manifest = parse_manifest(data, str(root / MANIFEST))
    recorded = read_limited(file_inside(root, MANIFEST_DIGEST), 1 << 12)
    digest = hashlib.sha256(data).hexdigest()
    if recorded != digest_line(digest):
        # Last, so that a field which is wrong in itself is named first; what is left is a value that is
        # possible but not what was written, which would draw another picture without a word.
        raise IntegrityError(
            f"{root / MANIFEST} is not the one that was written: its SHA-256 is not that in {MANIFEST_DIGEST}; "
            "copy the bundle again, or export it again"
        )
    _refuse_links_out(root)
    for path, record in manifest.files.items():
        try:
            size = os.stat(file_inside(root, path)).st_size
        except OSError as error:
            raise BundleError(f"{root / path} cannot be read: {error.strerror or error}") from error
        if size != record.size:
            raise IntegrityError(
                f"{root / path} has {size} bytes, but the manifest says {record.size}; "
                "copy the bundle again, or export it again"
            )
    for component in manifest.components.values():
        check_references(root, component.path, manifest.files)
    return Bundle(root, manifest, digest)


def _unchecked(root: Path, data: bytes) -> Bundle:
    """Return the bundle of a valid manifest; its digest is the recorded one where there is one, for verify to hold."""
    manifest = parse_manifest(data, str(root / MANIFEST))
    digest = hashlib.sha256(data).hexdigest()
    try:
        recorded = read_limited(file_inside(root, MANIFEST_DIGEST), 1 << 12)
    except BundleError:
        return Bundle(root, manifest, digest)
    stated = re.match(rb"[0-9a-f]{64}", recorded)
    if stated and recorded == digest_line(stated[0].decode("ascii")):
        digest = stated[0].decode("ascii")
    return Bundle(root, manifest, digest)


def _refuse_links_out(root: Path) -> None:
    try:
        real_root = os.path.realpath(root, strict=True)
        for path, entry in walk(root):
            if entry.is_symlink() and not is_below(real := os.path.realpath(entry.path), real_root):
                raise BundleError(f"{root / path} is a link that leaves the bundle, to {real}; remove it")
    except OSError as error:
        raise BundleError(f"{root} cannot be listed: {one_line(error)}") from error
