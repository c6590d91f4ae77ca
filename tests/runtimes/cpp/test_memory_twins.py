"""The C++ runtime cuts the VAE's pictures and videos into the pieces that the Python runtime chooses for a budget."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dit_deploy import Bundle
from dit_deploy.errors import InputError
from dit_deploy.runtimes import memory
from dit_deploy.runtimes.autoencoder import pieces_of
from tests.runtimes.cpp.test_bundle_twins import Twin

BUILD = os.environ.get("DIT_DEPLOY_CPP_BUILD")
pytestmark = pytest.mark.skipif(
    not BUILD, reason="build the C++ runtime with its tests, and set DIT_DEPLOY_CPP_BUILD to the folder of the build"
)

#: Budgets in the words of a person; the last ones are none.
AMOUNTS = [
    *("1", "7", " 512 MB", "100k", "1.5M", "2G", "3TB", "999999", "1234567", "0.5k", "0.25G", "5 B", "12 k", "\t2M\n"),
    *("", "G", "2 apples", "-3M", "0", "0.5", "2GG", "1 M B", "1.", ".5M", "1e9", "2g", "1" * 400),
]


@pytest.fixture(scope="module")
def twin() -> Iterator[Twin]:
    twin = Twin()
    yield twin
    twin.close()


def python(bundle: Bundle, amount: str, size: tuple[int, ...], encoded: int = 0) -> list[Any]:
    """Answer as the program does."""
    always = pieces_of(None, bundle.manifest)
    try:
        found = memory.pieces_within(bundle, amount, size, always, encoded)
    except InputError as error:
        return [f"InputError: {error}"]
    spans = [span and [span.tile, span.stride] for span in (found.height, found.width, found.frames)]
    return ["ok", *spans, found.samples or 0]


def limits(bundle: Bundle, size: tuple[int, ...], encoded: int) -> list[int]:
    """Return the budgets at which the choice changes, and those a byte below."""
    always = pieces_of(None, bundle.manifest)
    needed = {int(choice.bytes) for choice in memory._choices(bundle, size, always, encoded)}
    return sorted({budget - less for budget in needed for less in (0, 1)})


def hold(twin: Twin, bundle: Bundle, size: tuple[int, ...], encoded: int) -> set[str]:
    """Hold the choice of every budget that makes a difference; return the choices there are."""
    found = set()
    for budget in limits(bundle, size, encoded):
        words = {"memory": str(budget), "size": list(size), "encoded": encoded}
        answer = twin.ask("pieces", bundle.path, **words)
        assert answer == python(bundle, str(budget), size, encoded), words
        found.add(str(answer))
    return found


def test_amounts_of_memory(twin: Twin, tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    for amount in AMOUNTS:
        answer = twin.ask("pieces", tiny_bundle, memory=amount, size=[24, 16])
        assert answer == python(bundle, amount, (24, 16)), amount


def test_pieces_of_pictures(twin: Twin, tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    for size, encoded in (((64, 48), 0), ((16, 96), 8), ((4, 4), 1)):
        assert len(hold(twin, bundle, size, encoded)) > 1


def test_pieces_of_videos(twin: Twin) -> None:
    bundles = Path(BUILD or "").parent / "golden" / "bundles"
    names = ("wan", "ltx", "latte", "spacetime-dit", "cogvideox")
    videos = {name: Bundle.open(bundles / name) for name in names if (bundles / name).is_dir()}
    if not videos:
        pytest.skip("there are no bundles of videos: make cpp-prepare")
    for name, bundle in videos.items():
        size, encoded = ((2, 8, 40), 2) if name == "latte" else ((9, 32, 24), 0)
        assert len(hold(twin, bundle, size, encoded)) > 1, name
