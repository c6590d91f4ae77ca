"""The example of a network of one's own: it exports at any size, and draws what it believes."""

from __future__ import annotations

import runpy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dit_deploy import Bundle, Pipeline
from dit_deploy.bundle import Axis, TensorSpec
from dit_deploy.errors import InputError
from dit_deploy.exporters import Graph, export

SCRIPT = Path(__file__).parents[2] / "examples/own_network.py"


def test_it_exports_and_draws_discs_of_the_labels_colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(tmp_path / "discs"), str(tmp_path / "discs.png")])
    example = runpy.run_path(str(SCRIPT), run_name="__main__")
    row = np.asarray(Image.open(tmp_path / "discs.png"), np.float32) / 127.5 - 1
    assert row.shape == (64, 3 * 96, 3)
    for label, colour in enumerate(example["COLOURS"]):
        picture = row[:, 96 * label : 96 * (label + 1)]
        assert np.abs(picture[20:44, 36:60].mean((0, 1)) - colour).max() < 0.05
        assert np.abs(picture[[0, 0, -1, -1], [0, -1, 0, -1]]).max() < 0.05  # grey corners
    # The bundle is one as any other: other sizes, other schedulers, no torch.
    pipe = Pipeline(Bundle.open(tmp_path / "discs"))
    out = pipe(class_labels=1, num_inference_steps=5, scheduler="ddpm", height=37, width=64, seed=0)
    assert out.images[0].size == (64, 37)  # type: ignore[union-attr]


def test_a_grid_that_ends_is_a_limit_with_a_name(tmp_path: Path) -> None:
    """A network whose position table has 16 × 24 entries says so by its axes."""
    example = runpy.run_path(str(SCRIPT))
    source = example["source"](example["Discs"]().eval())

    class Limited(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.discs = example["Discs"]()
            self.positions = torch.nn.Parameter(torch.randn(16, 24))

        def forward(self, latents: Tensor, timestep: Tensor, class_labels: Tensor) -> tuple[Tensor]:
            height, width = latents.shape[2:]
            return (self.discs(latents, timestep, class_labels)[0] + self.positions[:height, :width],)

    def limited(tensor: TensorSpec) -> TensorSpec:
        ends = {"patch_height": {"minimum": 2, "maximum": 16}, "patch_width": {"minimum": 2, "maximum": 24}}
        axes = tuple(
            axis.model_copy(update=ends[axis.name]) if isinstance(axis, Axis) and axis.name in ends else axis
            for axis in tensor.axes
        )
        return tensor.model_copy(update={"axes": axes})

    network = Limited().eval()
    component = source.graphs[0].component
    component = component.model_copy(
        update={
            "inputs": tuple(map(limited, component.inputs)),
            "outputs": tuple(map(limited, component.outputs)),
        }
    )
    denoiser = Graph("denoiser", component, lambda: network, {"batch": 2, "patch_height": 16, "patch_width": 24})
    latents = source.latents.model_copy(update={"height": 16, "width": 16})
    pipe = Pipeline(export(replace(source, graphs=(denoiser, source.graphs[1]), latents=latents), tmp_path / "bundle"))

    def draw(**arguments: Any) -> Any:
        return pipe(class_labels=0, num_inference_steps=2, seed=0, **arguments)

    assert draw(height=16, width=24).images[0].size == (24, 16)
    ends = "height: 17 came, expected at most 16 pixels: this model's positions end at 16 patches of 1 pixels"
    with pytest.raises(InputError, match=ends):
        draw(height=17)
    with pytest.raises(InputError, match="width: 32 came, expected at most 24 pixels"):
        draw(width=32)
    with pytest.raises(InputError, match="height: 1 came, expected at least 2 pixels for this model"):
        draw(height=1)
