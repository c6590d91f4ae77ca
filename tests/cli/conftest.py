"""Fixtures of the command's tests."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.cli.command import Command, change_manifest, command, copy_bundle


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run ``dit-deploy`` in this process: ``cli("verify", bundle).status``."""
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    return partial(command, capsys)


@pytest.fixture(scope="session")
def named_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with names for its 17 classes, two of them the same, one with two names."""
    bundle = copy_bundle(tiny_bundle, tmp_path_factory.mktemp("named") / "tiny")
    names = {str(index): f"kind {index}" for index in range(17)}
    names |= {"3": "Crane", "5": "crane", "7": "tench, Tinca tinca", "8": "Ankle boot"}
    change_manifest(bundle, lambda manifest: manifest.update(labels=names))
    return bundle
