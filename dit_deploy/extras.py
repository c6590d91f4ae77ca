"""The optional packages: which extra brings each, and what is installed of it.

Read from the distribution's own metadata, so that ``pyproject.toml`` stays the only list.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version

__all__ = ["EXTRAS", "Package", "extra_of_module", "install_command", "packages"]

#: Extras that users install, in the order in which a model passes through them.
EXTRAS = ("cpu", "gpu", "export", "video", "tensorrt", "tensorrt-rtx")

#: Distribution → the module that it is imported by, where that is not its name with ``_`` for ``-``.
_MODULES = {"onnxruntime-gpu": "onnxruntime", "pillow": "PIL"}


@dataclass(frozen=True)
class Package:
    """One optional distribution: ``Package("torch", "<2.14,>=2.9", "export", "2.13.0")``.

    ``version`` is ``None`` where it is not installed.
    """

    name: str
    wanted: str
    extra: str
    version: str | None

    @property
    def module(self) -> str:
        """The name that it is imported by."""
        return _MODULES.get(self.name, self.name.replace("-", "_"))


@cache
def packages() -> tuple[Package, ...]:
    """Return every package of every extra, an extra's packages together; empty where the metadata is missing."""
    found = []
    for extra in EXTRAS:
        for name, wanted, of in _requirements():
            if of == extra:
                found.append(Package(name, wanted, extra, installed(name)))
    return tuple(found)


def _requirements() -> list[tuple[str, str, str]]:
    """Return (distribution, versions wanted, extra) from the metadata of dit-deploy."""
    try:
        lines = requires("dit-deploy") or []
    except PackageNotFoundError:  # run from a folder, not installed
        return []
    pattern = re.compile(r"([A-Za-z0-9._-]+)\s*(\S*?)\s*;.*extra == ['\"]([a-z-]+)['\"]")
    return [(match[1].lower(), match[2], match[3]) for line in lines if (match := pattern.match(line))]


def installed(name: str) -> str | None:
    """Return the version of an installed distribution, or ``None``."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def importable(module: str) -> bool:
    """Say whether a top-level module can be found, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def extra_of_module(module: str) -> str | None:
    """Return the extra that brings ``module`` (its first part counts), or ``None`` where none does."""
    top = module.split(".")[0]
    for package in packages():
        if package.module == top:
            return package.extra
    return None


def install_command(extra: str) -> str:
    """Return the command that installs an extra: ``pip install 'dit-deploy[export]'``."""
    return f"pip install 'dit-deploy[{extra}]'"
