"""Exports of the demo models: a graph that two files export is traced once."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def _parts_traced_once(traced_once: None) -> None:
    """Of all modules in this folder."""
