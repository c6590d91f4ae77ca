"""What a traced file says of its values' sizes."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn

from dit_deploy.bundle import Axis, Component, TensorSpec
from dit_deploy.bundle.activations import read_graph
from dit_deploy.exporters.tracing import example_inputs, trace


class Shrinking(nn.Module):
    """A causal encoder: 4 · f − 3 frames become f, and 4 · h rows h."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv3d(2, 2, 3, (2, 2, 1), padding=(0, 1, 1)) for _ in range(2))

    def forward(self, images: Tensor) -> tuple[Tensor]:
        x = images
        for layer in self.layers:
            x = torch.cat([x[:, :, :1], x[:, :, :1], x], dim=2)  # causal
            x = layer(x).tanh()
        return (x,)


def test_sizes_of_values_are_told_in_declared_names(tmp_path: Path) -> None:
    """torch gives an axis that occurs only in a product, or with an offset, a symbol of its own, such as ``s52``."""
    batch, frames, height = Axis(name="batch"), Axis(name="latent_frames"), Axis(name="latent_height")
    images = frames.model_copy(update={"multiple": 4, "offset": -3}), height.model_copy(update={"multiple": 4})
    component = Component(
        path="vae_encoder/model.onnx",
        inputs=[TensorSpec(name="images", dtype="float32", axes=(batch, 2, *images, 6))],
        outputs=[TensorSpec(name="mean", dtype="float32", axes=(batch, 2, frames, height, 6))],
    )
    trace(Shrinking().eval(), component, tmp_path)
    file = tmp_path / component.path
    noted = read_graph(file).values

    model = onnx.load(file)
    made = [value.name for value in model.graph.value_info if value.name in noted]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    onnx.save(model, file.with_name("all.onnx"))
    session = ort.InferenceSession(file.with_name("all.onnx"), providers=["CPUExecutionProvider"])
    assert len(made) >= 6
    for sizes in (
        {"batch": 1, "latent_frames": 1, "latent_height": 1},
        {"batch": 3, "latent_frames": 4, "latent_height": 5},
    ):
        for name, value in zip(made, session.run(made, example_inputs(component, sizes)), strict=True):
            assert noted[name].shape(sizes) == value.shape, (name, noted[name].axes)
