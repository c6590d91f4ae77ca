"""What all tests share: fixtures of several folders, the order of files, and what Python's garbage collector walks.

Exporting takes seconds, so one tiny bundle serves the whole session.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
#: The files that take most of a minute of one core, or more, longest first: they begin first, or a worker would be left
#: alone with the last of them. A file that takes as long belongs here; its place among the others matters little.
LONGEST = (
    "test_readme.py",
    "exporters/builders/test_video.py",
    "exporters/families/test_sana.py",
    "exporters/families/test_hunyuan_dit.py",
    "exporters/families/test_flux.py",
    "exporters/families/test_cogvideox.py",
    "exporters/families/test_sd3.py",
    "exporters/families/test_spacetime_dit.py",
    "exporters/families/test_pixart.py",
    "exporters/families/test_wan_ti2v.py",
    "exporters/families/test_cogvideox_15.py",
    "exporters/families/test_ltx.py",
    "exporters/families/test_ltx_noise.py",
    "exporters/families/test_hunyuan_video.py",
    "exporters/families/test_wan_images.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {HERE / name: place for place, name in enumerate(LONGEST)}
    assert all(path.is_file() for path in places), "a file of LONGEST has another name now"
    items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_collection_finish() -> None:
    """Let the collector pass over what the imports made, and come less often.

    A trace makes millions of small objects, and by default each 700 of them have it look: 15 % of an export's time,
    most of it for torch, diffusers and transformers, which stay.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@pytest.fixture(scope="session")
def traces(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What this session, in whichever process, has traced: see ``tests.families.traced``."""
    base = tmp_path_factory.getbasetemp()
    kept = (base.parent if hasattr(request.config, "workerinput") else base) / "traced"
    kept.mkdir(exist_ok=True)
    return kept


@pytest.fixture(scope="module")
def traced_once(traces: Path) -> Iterator[None]:
    """Exports of the module copy graphs that the session has traced of equal networks."""
    from tests.families import traced

    with traced.traced_once(traces):
        yield


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random diffusers pipeline folder: 17 classes, 64 × 64 pixels, multiples of 16."""
    from tests.models import make_pipeline

    return make_pipeline(tmp_path_factory.mktemp("source") / "tiny")


@pytest.fixture(scope="session")
def tiny_bundle(tiny_source: Path, traces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of ``tiny_source``. Shared by the session: copy it before you change it."""
    from dit_deploy.exporters import export
    from tests.families import traced

    with traced.traced_once(traces):
        return export(tiny_source, tmp_path_factory.mktemp("bundle") / "tiny").path


@pytest.fixture(scope="session")
def tiny_video_bundle(traces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of ``tests.video_models``: two experts, pictures as conditions, 9 frames of 24 × 20 pixels.

    Shared by the session: copy it before you change it.
    """
    from dit_deploy.exporters import export
    from tests import video_models
    from tests.families import traced

    with traced.traced_once(traces):
        return export(
            video_models.source(experts=True, pictures=True), tmp_path_factory.mktemp("bundle") / "video"
        ).path
