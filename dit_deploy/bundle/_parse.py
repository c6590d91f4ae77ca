"""From the bytes of manifest.json to a :class:`Manifest`, or to one line that says what is wrong with them."""

from __future__ import annotations

from pydantic import ValidationError

from ..errors import BundleError
from ..text import one_line
from ._json import read_object
from .manifest import FORMAT, VERSION, Manifest

__all__ = ["HOW", "explain", "parse_manifest"]

HOW = "a bundle is a folder made by `dit-deploy export SOURCE BUNDLE`"


def parse_manifest(data: bytes, name: str) -> Manifest:
    """Return the manifest that the bytes hold; every fault is a one-line :class:`BundleError`."""
    document = read_object(data, name)
    if document.get("format") != FORMAT:
        raise BundleError(f"{name} is no manifest of a bundle: its format is not {FORMAT!r}; {HOW}")
    version = document.get("version")
    if type(version) is not int or version < 1:  # True equals 1, here but not in other readers
        raise BundleError(f"{name}: version: expected {VERSION}, but got {one_line(repr(version), 60)}")
    if version > VERSION:
        raise BundleError(
            f"{name}: this bundle is version {version}; this dit-deploy reads version {VERSION}: upgrade dit-deploy"
        )
    try:
        # Strict, so that "1" and true are no numbers: other readers of the bundle would not take them.
        return Manifest.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise BundleError(f"{name}: {explain(error)}") from error


def explain(error: ValidationError) -> str:
    """Write a pydantic error on one line: where the first problem is, what came, what was expected."""
    problems = error.errors(include_url=False)
    # An axis is an integer or an object; of an object that is wrong, the integer's complaint says nothing.
    useful = [p for p in problems if not (p["type"] == "int_type" and isinstance(p["input"], dict))] or problems
    first = useful[0]
    # pydantic's names for the branches of a union and for our validators are no part of the document.
    skipped = ("constrained-int", "Axis", "[key]", "function-")
    where = ".".join(str(part) for part in first["loc"] if not str(part).startswith(skipped)) or "manifest"
    message = first["msg"].removeprefix("Value error, ")
    came = "" if first["type"] in ("missing", "value_error") else f", but got {one_line(repr(first['input']), 60)}"
    if first["type"] == "missing":
        message = "is required, but missing"
    elif first["type"] == "extra_forbidden":
        message, came = "is not a known field", ""
    more = f" (and {len(useful) - 1} more)" if len(useful) > 1 else ""
    return one_line(f"{where}: {message[:1].lower()}{message[1:]}{came}{more}", 500)
