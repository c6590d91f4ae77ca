"""Normalisation, modulation and quantisation against torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto

from tests.runtimes.cpu_ops.operators import session, single


@pytest.mark.parametrize(("tokens", "width"), [(1, 72), (7, 192), (77, 768), (259, 50), (3, 1152), (5, 7)])
@pytest.mark.parametrize("parts", ["plain", "modulated", "affine", "one row for all"])
def test_matches_torch(tokens: int, width: int, parts: str, isa: str, library: Path) -> None:
    random = np.random.default_rng(0)
    samples = 3
    x = (random.standard_normal((samples, tokens, width)) * 3 + 20).astype(np.float32)  # a mean to be taken away
    rows = {"plain": 0, "affine": 0, "modulated": samples, "one row for all": 1}[parts]
    scale, shift = (random.standard_normal((rows, width)).astype(np.float32) if rows else None for _ in range(2))
    affine = parts == "affine"
    gamma, beta = (random.standard_normal(width).astype(np.float32) if affine else None for _ in range(2))
    inputs = [x, scale, shift, gamma, beta]
    attributes = {"epsilon": 1e-6, "offset": 1.0, "output_scale": 0.05}
    graph, feeds = single("LayerNormQuantize", inputs, TensorProto.UINT8, attributes)
    (result,) = session(graph, library).run(None, feeds)
    weights = [None if one is None else torch.from_numpy(one).double() for one in (gamma, beta)]
    expected = torch.nn.functional.layer_norm(torch.from_numpy(x).double(), (width,), *weights, eps=1e-6).numpy()
    if scale is not None and shift is not None:
        expected = expected * (1 + scale[:, None]) + shift[:, None]
    exact = np.clip(expected / 0.05, -128, 127) + 128
    assert result.min() < 100 and result.max() > 150
    assert np.abs(result - exact).max() <= 0.51


def test_refuses_a_modulation_of_another_width(library: Path) -> None:
    x, scale = np.zeros((2, 3, 8), np.float32), np.zeros((2, 9), np.float32)
    graph, feeds = single("LayerNormQuantize", [x, scale], TensorProto.UINT8, {"output_scale": 1.0})
    with pytest.raises(Exception, match=r"scale: expected float\[2 or 1, 8\], got float\[2, 9\]"):
        session(graph, library).run(None, feeds)
