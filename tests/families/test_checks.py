"""What the families are held by finds what it is there to find."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from dit_deploy.bundle import Axis, Component, TensorSpec
from dit_deploy.runtimes.pipeline import Output
from tests.families import checks
from tests.families.traced import traced_once

RANDOM = np.random.default_rng(0)


def test_nothing_is_near_what_does_not_vary() -> None:
    for still in (np.zeros(3), np.ones(3)):
        with pytest.raises(AssertionError):
            checks.difference(still, still)
    assert checks.difference(np.ones(3), np.ones(3), constant=True) == 0
    with pytest.raises(AssertionError):
        checks.difference(np.zeros(3), np.zeros(3), constant=True)


@pytest.mark.parametrize("found", [np.array([1.0, np.nan]), np.array([1.0, 2.01]), np.array([[1.0, 2.0]])])
def test_no_number_another_one_and_another_shape_are_not_near(found: np.ndarray) -> None:
    with pytest.raises(AssertionError):
        checks.assert_near(found, np.array([1.0, 2.0]), 1e-3)


@pytest.mark.parametrize("axes", [4, 5])
def test_drawings_are_held_by_latents_and_by_pictures(axes: int) -> None:
    latents, pictures = RANDOM.standard_normal((1, 2, 3, 4)), RANDOM.random((1, 2, 3, 4, 3)[5 - axes :])

    def drawn(latents: np.ndarray, pictures: np.ndarray) -> Output:
        return Output(pictures if axes == 4 else [], latents, 0, frames=pictures if axes == 5 else [])

    checks.assert_drawn(drawn(latents + 5e-4 * latents.max(), pictures + 3e-3), latents, pictures)
    for other in (drawn(latents + 1e-2, pictures), drawn(latents, pictures + 5e-3), drawn(latents, pictures[..., :2])):
        with pytest.raises(AssertionError):
            checks.assert_drawn(other, latents, pictures)
    with pytest.raises(AssertionError):
        checks.assert_drawn(drawn(latents, pictures), latents, pictures, contrast=1.0)


def test_a_graph_is_traced_for_each_network_that_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traced: list[str] = []

    def trace(network: nn.Module, component: Component, folder: Path, feeds: object = None) -> None:
        (folder / component.path).parent.mkdir(parents=True)
        (folder / component.path).write_text(str(network))
        traced.append(folder.name)

    module = importlib.import_module("dit_deploy.exporters.export")
    monkeypatch.setattr(module, "trace", trace)
    values = TensorSpec(name="values", dtype="float32", axes=(Axis(name="batch"), 2))
    component = Component(path="part/model.onnx", inputs=(values,), outputs=(values,))
    network, other = nn.Linear(2, 2), nn.Linear(2, 2)
    (tmp_path / "kept").mkdir()
    with traced_once(tmp_path / "kept"):
        for name, one in (("first", network), ("again", network), ("other", other), ("scaled", nn.Sequential(network))):
            module.trace(one, component, tmp_path / name)
            assert (tmp_path / name / component.path).read_text() == str(one)
    assert traced == ["first", "other", "scaled"]
    assert module.trace is trace
