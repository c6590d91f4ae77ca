"""Flash attention against torch's, on the same bfloat16 inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto

from tests.runtimes.cpu_ops.operators import BFLOAT16, session, single

HEADS = 3


def _inputs(samples: int, queries: int, keys: int, width: int, spread: float = 1.0) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    shapes = [(samples, queries, HEADS * width), *[(samples, keys, HEADS * width)] * 2]
    return [(random.standard_normal(shape) * spread).astype(np.float32).astype(BFLOAT16) for shape in shapes]


def _expected(inputs: list[np.ndarray], width: int, scale: float | None = None) -> np.ndarray:
    split = [torch.from_numpy(x.astype(np.float64)).unflatten(2, (HEADS, width)).transpose(1, 2) for x in inputs]
    output = torch.nn.functional.scaled_dot_product_attention(*split, scale=scale)
    return output.transpose(1, 2).flatten(2).numpy()


@pytest.mark.parametrize("width", [24, 32, 64, 72, 5])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (7, 7), (77, 77), (259, 259), (300, 13), (9, 530)])
def test_matches_torch(queries: int, keys: int, width: int, isa: str, library: Path) -> None:
    inputs = _inputs(2, queries, keys, width)
    attributes = {"num_heads": HEADS, "head_size": width}
    graph, feeds = single("FlashAttention", inputs, TensorProto.FLOAT, attributes)
    (result,) = session(graph, library).run(None, feeds)
    expected = _expected(inputs, width)
    # Weights in bfloat16 are off by a part in 512 each, which mostly cancels; in float by nothing that matters.
    tolerance = 4e-3 if isa == "avx512_bf16" else 1e-5
    assert np.abs(result - expected).max() <= tolerance * np.abs(expected).max()


def test_large_scores_do_not_overflow(isa: str, library: Path) -> None:
    inputs = _inputs(1, 40, 600, 32, spread=30.0)  # scores to several thousand: one key gets nearly all
    graph, feeds = single(
        "FlashAttention", inputs, TensorProto.FLOAT, {"num_heads": HEADS, "head_size": 32, "scale": 0.5}
    )
    (result,) = session(graph, library).run(None, feeds)
    expected = _expected(inputs, 32, 0.5)
    assert np.abs(result - expected).max() <= 5e-3 * np.abs(expected).max()


def test_merged_projections_and_quantised_output(isa: str, library: Path) -> None:
    inputs = _inputs(2, 77, 77, 24)
    merged = np.concatenate(inputs, axis=2)
    width = HEADS * 24
    offsets = {"query_offset": 0, "key_offset": width, "value_offset": 2 * width}
    attributes = {"num_heads": HEADS, "head_size": 24, "output_scale": 0.01, **offsets}
    graph, feeds = single("FlashAttentionQuantize", [merged] * 3, TensorProto.UINT8, attributes)
    (result,) = session(graph, library).run(None, feeds)
    exact = np.clip(_expected(inputs, 24) / 0.01, -128, 127) + 128
    assert result.max() - result.min() > 100
    assert np.abs(result - exact).max() <= 1.0


def test_refusals(library: Path) -> None:
    inputs = _inputs(1, 4, 4, 8)
    graph, feeds = single(
        "FlashAttention", inputs, TensorProto.FLOAT, {"num_heads": HEADS, "head_size": 8, "key_offset": 4}
    )
    with pytest.raises(Exception, match=r"FlashAttention: key: expected .*, got bfloat16\[1, 4, 24\]"):
        session(graph, library).run(None, feeds)
    graph, _ = single("FlashAttention", inputs, TensorProto.FLOAT, {"num_heads": HEADS, "head_size": 300})
    with pytest.raises(Exception, match="head_size: expected 1 to 256, got 300"):
        session(graph, library)
    graph, feeds = single(
        "FlashAttention",
        [inputs[0], inputs[1][:, :0], inputs[2][:, :0]],
        TensorProto.FLOAT,
        {"num_heads": HEADS, "head_size": 8},
    )
    with pytest.raises(Exception, match="as many tokens as the key, not 0"):
        session(graph, library).run(None, feeds)
