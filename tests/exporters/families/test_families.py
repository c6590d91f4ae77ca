"""What all families share: which pipelines are known, families of other packages, and folders that are not whole."""

from __future__ import annotations

import importlib
import json
import shutil
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from dit_deploy.errors import SourceError
from dit_deploy.exporters import sources
from dit_deploy.exporters.families import PIPELINES
from dit_deploy.exporters.source import Source
from tests.families import pixart


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pixart.sigma(tmp_path_factory.mktemp("saved") / "source")


@pytest.mark.parametrize("module", sorted(set(PIPELINES.values())))
def test_every_family_has_a_module_that_opens_its_pipelines(module: str) -> None:
    assert callable(importlib.import_module(f"dit_deploy.exporters.families.{module}").open_pipeline)


def test_a_family_that_is_not_known_is_refused_with_the_list_of_those_that_are(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')
    with pytest.raises(
        SourceError, match="is a StableDiffusionXLPipeline; this version exports DiTPipeline, "
    ) as caught:
        sources.open_source(tmp_path)
    assert all(name in str(caught.value) for name in PIPELINES)


@pytest.mark.parametrize("component", ["transformer", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_component_is_named(saved: Path, tmp_path: Path, component: str) -> None:
    folder = tmp_path / "pipeline"
    shutil.copytree(saved, folder)
    shutil.rmtree(folder / component)
    with pytest.raises(SourceError, match=f"lacks the folder {component}, which its model_index.json names"):
        sources.open_source(folder)


@pytest.mark.parametrize("component", ["transformer", "vae", "text_encoder", "tokenizer"])
def test_a_component_that_the_pipeline_was_saved_without_is_named(saved: Path, tmp_path: Path, component: str) -> None:
    folder = tmp_path / "pipeline"
    shutil.copytree(saved, folder)
    shutil.rmtree(folder / component)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, component: [None, None]}))
    with pytest.raises(SourceError, match=component):
        [content() for content in sources.open_source(folder).files.values()]  # a tokenizer is read at the end


def test_a_component_without_weights_is_named(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pipeline"
    shutil.copytree(saved, folder)
    for file in (folder / "text_encoder").glob("*.safetensors"):
        file.unlink()
    with pytest.raises(SourceError, match="text_encoder holds no safetensors weights"):
        sources.open_source(folder)


def test_components_that_are_not_used_may_be_missing(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pipeline"
    shutil.copytree(saved, folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "safety_checker": ["diffusers", "Checker"]}))
    assert sources.open_source(folder).family == "pixart"


def test_options_of_dit_checkpoints_are_refused(saved: Path) -> None:
    with pytest.raises(SourceError, match="is a PixArtSigmaPipeline, which says everything itself; leave --arch"):
        sources.open_source(saved, arch="DiT-XL/2")


OWN = """
from dataclasses import replace

from dit_deploy.exporters.families import pixart


def open_own(folder):
    return replace(pixart.open_pipeline(folder), family="own")
"""


def bring(monkeypatch: pytest.MonkeyPatch, **entries: str) -> None:
    """Let an installed package name these in the group ``dit_deploy.families``, as its pyproject.toml would:

    [project.entry-points."dit_deploy.families"]
    OwnPipeline = "own_family:open_own"
    """

    def entry_points(**selected: Any) -> list[EntryPoint]:
        assert selected == {"group": "dit_deploy.families"}
        return [EntryPoint(name, value, "dit_deploy.families") for name, value in entries.items()]

    monkeypatch.setattr(sources, "entry_points", entry_points)


def test_another_package_brings_a_family(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_family.py").write_text(OWN.replace("open_pipeline(folder)", 'open_pipeline(folder / "sigma")'))
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "own"
    shutil.copytree(saved, folder / "sigma")
    (folder / "model_index.json").write_text('{"_class_name": "OwnPipeline"}')
    with pytest.raises(SourceError, match="is a OwnPipeline; this version exports DiTPipeline"):
        sources.open_source(folder)
    bring(monkeypatch, OwnPipeline="own_family:open_own", FluxPipeline="own_family:open_own")
    assert sources.known_pipelines()[-1] == "OwnPipeline"
    source = sources.open_source(folder)
    assert isinstance(source, Source) and source.family == "own"


def test_a_family_that_cannot_be_loaded_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "OwnPipeline"}')
    bring(monkeypatch, OwnPipeline="no_such_package:open_own")
    with pytest.raises(
        SourceError, match="no_such_package:open_own, which a package brings for OwnPipeline, cannot be"
    ):
        sources.open_source(tmp_path)
