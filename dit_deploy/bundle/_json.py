"""Read JSON strictly: one meaning for every reader, or a refusal."""

from __future__ import annotations

import json
import math
from typing import Any

from ..errors import BundleError

__all__ = ["read_json", "read_object"]


def read_json(data: bytes, name: str, *, infinity: bool = False) -> Any:
    """Parse the bytes of one JSON document.

    Refused because readers differ over them: bytes that are no UTF-8, a key that occurs twice, ``NaN``,
    and numbers too large for a float. ``Infinity`` passes only with ``infinity``: diffusers writes
    ``"lambda_min_clipped": -Infinity`` into its scheduler configs, and those are kept unchanged.

    Raises :class:`BundleError`, whose message starts with ``name``.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ValueError(f"the key {key!r} occurs twice in one object")
            found[key] = value
        return found

    def constant(text: str) -> float:
        if infinity and text != "NaN":
            return float(text)
        raise ValueError(f"{text} is not a JSON number")

    def number(text: str) -> float:
        value = float(text)
        if math.isinf(value):
            raise ValueError(f"the number {text[:40]} is too large")
        return value

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=constant, parse_float=number)
    except UnicodeDecodeError as error:
        raise BundleError(f"{name}: expected UTF-8 text, but byte {error.start} is not ({error.reason})") from error
    except RecursionError as error:
        raise BundleError(f"{name}: objects or lists are nested too deeply") from error
    except ValueError as error:
        raise BundleError(f"{name}: expected strict JSON, but {error}") from error


def read_object(data: bytes, name: str, *, infinity: bool = False) -> dict[str, Any]:
    """Like :func:`read_json`, and the document must be an object."""
    value = read_json(data, name, infinity=infinity)
    if not isinstance(value, dict):
        raise BundleError(f"{name}: expected a JSON object, but it holds a {type(value).__name__}")
    return value
