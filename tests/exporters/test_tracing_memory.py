"""What a trace leaves in memory: nothing of the weights, which are mapped from their files."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import torch
from torch import Tensor, nn

from dit_deploy.bundle import Axis, Component, TensorSpec
from dit_deploy.exporters.tracing import trace


class Scaled(nn.Module):
    """A large weight, and small ones that the optimiser takes out of the graph when it folds what is made of them."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(32, 32)
        self.scale = nn.Parameter(torch.rand(32))

    def forward(self, latents: Tensor) -> tuple[Tensor]:
        return (self.linear(latents) * (1 + self.scale.reshape(1, 32)) + self.scale.exp(),)


def test_no_weight_outlives_its_trace(tmp_path: Path) -> None:
    axes = (Axis(name="batch"), 32)
    component = Component(
        path="scaled/model.onnx",
        inputs=(TensorSpec(name="latents", dtype="float32", axes=axes),),
        outputs=(TensorSpec(name="prediction", dtype="float32", axes=axes),),
    )
    module = Scaled().eval()
    weights = {name: weakref.ref(parameter) for name, parameter in module.named_parameters()}
    trace(module, component, tmp_path)
    del module
    gc.collect()  # traced programs refer to themselves
    assert [name for name, weight in weights.items() if weight() is not None] == []
