"""T5, T5 1.1 and UMT5 encoders: the graph alone against transformers, and their relative positions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel
from transformers.models.t5.modeling_t5 import T5Attention

from dit_deploy.errors import SourceError
from dit_deploy.exporters.text_encoders import t5

from .graphs import initializers, largest_difference, operators, randomise, traced

SIZES = [(1, 1), (3, 1), (1, 2), (2, 7), (1, 40), (2, 300), (3, 512)]

CONFIGS = {
    "t5": (T5EncoderModel, T5Config, {"feed_forward_proj": "relu"}),
    "t5-gated": (T5EncoderModel, T5Config, {"feed_forward_proj": "gated-gelu", "relative_attention_max_distance": 50}),
    "umt5": (UMT5EncoderModel, UMT5Config, {"feed_forward_proj": "gated-gelu"}),
}


@pytest.fixture(
    scope="module",
    params=["t5-gated", pytest.param("t5", marks=pytest.mark.slow), pytest.param("umt5", marks=pytest.mark.slow)],
)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, config, options = CONFIGS[request.param]
    torch.manual_seed(0)
    sizes = {"vocab_size": 137, "d_model": 40, "d_kv": 12, "d_ff": 56, "num_layers": 2, "num_heads": 3}
    path = tmp_path_factory.mktemp(request.param) / "text_encoder"
    randomise(model(config(**sizes, **options))).save_pretrained(path)
    return path


def test_hidden_states_are_those_of_transformers(folder: Path, tmp_path: Path) -> None:
    graph = t5.graph(folder, "text_encoder", tokens=77, attends_mask=True, mask_output="encoder_attention_mask")
    file = traced(graph, tmp_path)
    assert largest_difference(graph, file, SIZES) < 1e-5
    assert operators(file).count("Attention") == 2
    assert {"embed_tokens.weight", "block.1.layer.1.DenseReluDense.wo.weight"} <= initializers(file)


@pytest.mark.slow
def test_without_a_mask_padding_is_attended_to(folder: Path, tmp_path: Path) -> None:
    graph = t5.graph(folder, "text_encoder_3", tokens=256, output="embeddings", attends_mask=False)
    assert [spec.name for spec in graph.component.inputs] == ["input_ids"]
    assert largest_difference(graph, traced(graph, tmp_path), SIZES) < 1e-5


@pytest.mark.slow
def test_padding_can_be_zeros(folder: Path, tmp_path: Path) -> None:
    graph = t5.graph(folder, "text_encoder", tokens=512, attends_mask=True, zero_padding=True)
    assert [spec.name for spec in graph.component.outputs] == ["encoder_hidden_states"]
    assert largest_difference(graph, traced(graph, tmp_path), SIZES) < 1e-5


@pytest.mark.parametrize(("buckets", "maximum"), [(32, 128), (32, 50), (16, 20), (64, 1000)])
def test_buckets_are_those_of_transformers(buckets: int, maximum: int) -> None:
    distances = torch.arange(3000)
    expected = T5Attention._relative_position_bucket(-distances, True, buckets, maximum)
    assert torch.equal(t5.distance_buckets(buckets, maximum)[distances.clamp(max=maximum)], expected)


def test_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="text_encoder is missing"):
        t5.graph(tmp_path / "text_encoder", "text_encoder", tokens=8, attends_mask=False)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(SourceError, match="holds a model of type 'bert'; expected 't5' or 'mt5' or 'umt5'"):
        t5.graph(tmp_path, "text_encoder", tokens=8, attends_mask=False)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    config = T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    T5EncoderModel(config).save_pretrained(tmp_path)
    T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=2, num_heads=2).save_pretrained(tmp_path)
    graph = t5.graph(tmp_path, "text_encoder", tokens=8, attends_mask=False)
    with pytest.raises(SourceError, match=r"lacks block\.1\.layer\.0"):
        graph.build()
