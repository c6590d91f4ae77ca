"""Fixtures that several folders share. Exporting takes seconds, so one tiny bundle serves the whole session."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random diffusers pipeline folder: 17 classes, 64 × 64 pixels, multiples of 16."""
    from tests.models import make_pipeline

    return make_pipeline(tmp_path_factory.mktemp("source") / "tiny")


@pytest.fixture(scope="session")
def tiny_bundle(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of ``tiny_source``. Shared by the session: copy it before you change it."""
    from dit_deploy.exporters import export

    return export(tiny_source, tmp_path_factory.mktemp("bundle") / "tiny").path
