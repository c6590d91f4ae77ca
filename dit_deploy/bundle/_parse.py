"""From the bytes of manifest.json or engine.json to a record, or to one line that says what is wrong with them."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ValidationError

from ..errors import BundleError
from ..text import one_line
from ._json import read_object
from .engine import ENGINE_FORMAT, ENGINE_VERSION, EngineRecord
from .manifest import FORMAT, VERSION, Manifest, Record

__all__ = ["HOW", "HOW_ENGINE", "explain", "parse_engine", "parse_manifest"]

HOW = "a bundle is a folder made by `dit-deploy export SOURCE BUNDLE`"
HOW_ENGINE = "an engine is a folder made by `dit-deploy build-engine BUNDLE`"

Kind = TypeVar("Kind", bound=Record)


def parse_manifest(data: bytes, name: str) -> Manifest:
    """Return the manifest that the bytes hold; every fault is a one-line :class:`BundleError`."""
    document = read_object(data, name)
    if document.get("format") != FORMAT:
        raise BundleError(f"{name} is no manifest of a bundle: its format is not {FORMAT!r}; {HOW}")
    _check_version(document, name, "bundle", VERSION)
    return _validated(Manifest, data, name, "manifest")


def parse_engine(data: bytes, name: str) -> EngineRecord:
    """Return the engine's record that the bytes hold; every fault is a one-line :class:`BundleError`."""
    document = read_object(data, name)
    if document.get("format") != ENGINE_FORMAT:
        raise BundleError(f"{name} is no record of an engine: its format is not {ENGINE_FORMAT!r}; {HOW_ENGINE}")
    _check_version(document, name, "engine", ENGINE_VERSION)
    return _validated(EngineRecord, data, name, "engine")


def _check_version(document: dict[str, Any], name: str, what: str, known: int) -> None:
    version = document.get("version")
    if type(version) is not int or version < 1:  # True equals 1, here but not in other readers
        raise BundleError(f"{name}: version: expected {known}, but got {one_line(repr(version), 60)}")
    if version > known:
        raise BundleError(
            f"{name}: this {what} is version {version}; this dit-deploy reads version {known}: upgrade dit-deploy"
        )


def _validated(kind: type[Kind], data: bytes, name: str, root: str) -> Kind:
    try:
        # Strict, so that "1" and true are no numbers: other readers of the bundle would not take them.
        return kind.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise BundleError(f"{name}: {explain(error, root)}") from error


def explain(error: ValidationError, root: str) -> str:
    """Write a pydantic error on one line: where the first problem is, what came, what was expected.

    ``root`` is what a problem of the whole record is said of.
    """
    problems = error.errors(include_url=False)
    # An axis is an integer or an object; of an object that is wrong, the integer's complaint says nothing.
    useful = [p for p in problems if not (p["type"] == "int_type" and isinstance(p["input"], dict))] or problems
    first = useful[0]
    # pydantic's names for the branches of a union and for our validators are no part of the document.
    skipped = ("constrained-int", "Axis", "[key]", "function-")
    where = ".".join(str(part) for part in first["loc"] if not str(part).startswith(skipped)) or root
    message = first["msg"].removeprefix("Value error, ")
    came = "" if first["type"] in ("missing", "value_error") else f", but got {one_line(repr(first['input']), 60)}"
    if first["type"] == "missing":
        message = "is required, but missing"
    elif first["type"] == "extra_forbidden":
        message, came = "is not a known field", ""
    more = f" (and {len(useful) - 1} more)" if len(useful) > 1 else ""
    return one_line(f"{where}: {message[:1].lower()}{message[1:]}{came}{more}", 500)
