"""Parity reports: one JSON file each, written beside the recorded files of a bundle."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import BundleError, InputError
from ..files import replace_file
from ..text import one_line
from ._files import is_below

__all__ = ["not_finite", "parity_names", "write_parity"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


def parity_names(folder: Path) -> list[str]:
    """Return the names of the reports in ``folder``, sorted; none where it does not exist."""
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise BundleError(f"{folder} cannot be listed: {one_line(error)}") from error
    return sorted(name.removesuffix(".json") for name in names if name.endswith(".json") and name[0] != ".")


def write_parity(folder: Path, name: str, report: Mapping[str, Any]) -> Path:
    """See :meth:`dit_deploy.bundle.Bundle.write_parity`."""
    if not _NAME.fullmatch(name):
        raise InputError(f"{one_line(repr(name), 120)} names no parity report: use up to 100 letters, digits, . _ -")
    if bad := not_finite(report, "report"):
        raise InputError(f"parity report {name}: {bad}, which JSON cannot hold; write None")
    try:
        data = (json.dumps(dict(report), indent=1, allow_nan=False) + "\n").encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"parity report {name} is not JSON: {one_line(error)}") from error
    path = folder / f"{name}.json"
    try:
        folder.mkdir(exist_ok=True)
        # The folder was written after the bundle was checked, so it may have become a link since.
        if not is_below(os.path.realpath(folder), os.path.realpath(folder.parent)):
            raise BundleError(f"{folder} is a link that leaves the bundle; remove it")
        replace_file(path, data)
    except OSError as error:
        raise BundleError(f"{path} cannot be written: {one_line(error.strerror or error)}") from error
    return path


def not_finite(value: Any, where: str) -> str:
    """Say where a NaN or an infinity lies in nested lists and mappings, or return nothing."""
    pending = [(where, value)]
    while pending:
        where, value = pending.pop()
        if isinstance(value, float) and not math.isfinite(value):
            return f"{where} is {value}"
        if len(where) > 2000:
            return f"{where[:60]}… is nested too deeply"
        if isinstance(value, Mapping):
            pending += [(f"{where}.{key}", item) for key, item in value.items()]
        elif isinstance(value, (list, tuple)):
            pending += [(f"{where}[{index}]", item) for index, item in enumerate(value)]
    return ""
