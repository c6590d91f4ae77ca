"""Weights stored in 16 bits: half the file, the same names, float32 where it is computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from dit_deploy import Bundle, Pipeline
from dit_deploy.bundle import Axis, Component, TensorSpec
from dit_deploy.errors import ExportError, InputError
from dit_deploy.exporters import export
from dit_deploy.exporters.tracing import trace


def linear(weights: str) -> Component:
    axes = (Axis(name="batch"), 64)
    return Component(
        path="denoiser/model.onnx",
        weights=weights,  # type: ignore[arg-type]
        inputs=(TensorSpec(name="latents", dtype="float32", axes=axes),),
        outputs=(TensorSpec(name="prediction", dtype="float32", axes=axes),),
    )


class Linear(nn.Module):
    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(64, 64)
        self.layer.weight.data *= scale

    def forward(self, latents: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.layer(latents),)


@pytest.mark.parametrize(("weights", "kind"), [("float16", torch.float16), ("bfloat16", torch.bfloat16)])
@torch.no_grad()
def test_the_graph_computes_with_the_rounded_weights(tmp_path: Path, weights: str, kind: torch.dtype) -> None:
    module = Linear()
    trace(module, linear(weights), tmp_path)
    path = tmp_path / "denoiser" / "model.onnx"
    tensor = next(t for t in onnx.load(path).graph.initializer if t.name == "layer.weight")
    assert onnx.TensorProto.DataType.Name(tensor.data_type).lower() == weights
    latents = np.random.default_rng(0).standard_normal((3, 64), np.float32)
    (found,) = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"latents": latents})
    rounded = module.layer.weight.to(kind).float()
    expected = torch.from_numpy(latents) @ rounded.T + module.layer.bias
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    exact = module(torch.from_numpy(latents))[0].numpy()
    assert np.abs(found - exact).max() > 1e-5  # the rounding is there


def test_a_weight_beyond_fp16_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"layer\.weight reaches .*which float16 cannot hold; use bf16"):
        trace(Linear(1e6), linear("float16"), tmp_path)


@pytest.mark.slow
def test_a_bundle_of_half_the_size_draws_nearly_the_same(tiny_source: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    half = export(tiny_source, tmp_path / "half", dtype="fp16")
    size = {path: (path / "denoiser" / "model.onnx.data").stat().st_size for path in (half.path, tiny_bundle)}
    assert size[half.path] < 0.52 * size[tiny_bundle]
    assert half.component("denoiser").weights == "float16"
    pictures = [
        np.asarray(Pipeline(bundle)(class_labels=3, num_inference_steps=2, seed=0, output_type="numpy").images)
        for bundle in (half, Bundle.open(tiny_bundle))
    ]
    assert 0 < np.abs(pictures[0] - pictures[1]).max() < 0.05


def test_an_unknown_dtype_is_named(tiny_source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="dtype: 'int4' came, expected one of fp32, fp16, bf16"):
        export(tiny_source, tmp_path / "bundle", dtype="int4")
