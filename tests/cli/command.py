"""Run ``dit-deploy`` in this process, and bundles to run it on."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dit_deploy.cli import run

__all__ = ["Command", "Result", "change_manifest", "copy_bundle"]


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """The error: one line on standard error that begins with the command's name, and nothing else."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("dit-deploy: ")
        return lines[0].removeprefix("dit-deploy: ")


Command = Callable[..., Result]


def command(capsys: pytest.CaptureFixture[str], *words: object) -> Result:
    """Run ``dit-deploy`` with ``words``."""
    capsys.readouterr()
    status = run([str(word) for word in words])
    captured = capsys.readouterr()
    return Result(status, captured.out, captured.err)


def copy_bundle(bundle: Path, to: Path) -> Path:
    """Copy a bundle, so that it may be changed."""
    return Path(shutil.copytree(bundle, to))


def change_manifest(bundle: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Rewrite a bundle's manifest as its own writer could have written it: the digest beside it fits."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    change(manifest)
    data = (json.dumps(manifest, indent=1) + "\n").encode()
    old = hashlib.sha256(path.read_bytes()).hexdigest()
    digest = path.with_name("manifest.json.sha256")
    path.write_bytes(data)
    digest.write_text(
        digest.read_text(encoding="utf-8").replace(old, hashlib.sha256(data).hexdigest()), encoding="utf-8"
    )
