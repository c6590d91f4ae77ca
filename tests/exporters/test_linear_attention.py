"""Linear attention against diffusers' two forms of it, and where queries vanish."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from diffusers.models.attention_processor import SanaMultiscaleLinearAttention
from torch import Tensor, nn

from dit_deploy.bundle.manifest import Axis, Component, TensorSpec
from dit_deploy.exporters.linear_attention import relu_linear_attention
from dit_deploy.exporters.tracing import trace


class Attention(nn.Module):
    """[batch, 3 heads, 12 channels, tokens] each."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor]:
        return (relu_linear_attention(q, k, v),)


def inputs(batch: int, tokens: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(3, batch, 3, 12, tokens, generator=generator))


@pytest.mark.parametrize("tokens", [1, 2, 12, 13, 500])
@pytest.mark.parametrize("form", ["linear", "quadratic"])
def test_it_is_both_of_diffusers_forms(tokens: int, form: str) -> None:
    q, k, v = inputs(2, tokens)
    theirs = SanaMultiscaleLinearAttention(36, 36, attention_head_dim=12)
    expected = getattr(theirs, f"apply_{form}_attention")(q.relu(), k.relu(), v)
    # A few roundings of the largest value: the bound that exporters.autoencoder_dc derives.
    assert (relu_linear_attention(q, k, v) - expected).abs().max() <= 1e-5 * v.abs().max()


def test_a_query_that_vanishes_gives_zero_in_a_graph_too(tmp_path: Path) -> None:
    axes = (Axis(name="batch"), 3, 12, Axis(name="tokens"))
    specs = [TensorSpec(name=name, dtype="float32", axes=axes) for name in ("q", "k", "v", "values")]
    component = Component(path="attention.onnx", inputs=tuple(specs[:3]), outputs=tuple(specs[3:]))
    trace(Attention(), component, tmp_path)
    session = ort.InferenceSession(tmp_path / "attention.onnx", providers=["CPUExecutionProvider"])
    q, k, v = inputs(1, 7)
    q[:, 1, :, 3] = -q[:, 1, :, 3].abs()
    (found,) = session.run(None, {"q": q.numpy(), "k": k.numpy(), "v": v.numpy()})
    assert not found[:, 1, :, 3].any() and np.isfinite(found).all() and found[:, 0].all()
    assert np.abs(found - relu_linear_attention(q, k, v).numpy()).max() <= 1e-5


def test_a_query_that_vanishes_gives_zero_in_half_precision() -> None:
    q, k, v = (x.half() for x in inputs(1, 7))
    q[:, 1, :, 3] = 0
    found = relu_linear_attention(q, k, v)
    assert not found[:, 1, :, 3].any() and found.isfinite().all()
