"""CLIP's text half: hidden states, clip skip, pooling and projection, the graph alone against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from dit_deploy.errors import SourceError
from dit_deploy.exporters.text_encoders import clip

from .graphs import initializers, largest_difference, operators, randomise, traced

SIZES = [(1, 1), (3, 1), (1, 2), (2, 7), (1, 40), (2, 77)]
WIDTH, PROJECTED = 36, 20


def save(folder: Path, kind: type[Any], **options: object) -> Path:
    config = {
        "vocab_size": 137, "hidden_size": WIDTH, "intermediate_size": 50, "num_hidden_layers": 3,
        "num_attention_heads": 3, "projection_dim": PROJECTED, "eos_token_id": 136, "bos_token_id": 135,
    }  # fmt: skip
    torch.manual_seed(0)
    randomise(kind(CLIPTextConfig(**{**config, **options}))).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "end"),
    [
        (CLIPTextModel, 2),
        (CLIPTextModelWithProjection, 136),
        pytest.param(CLIPTextModelWithProjection, 2, marks=pytest.mark.slow),
        pytest.param(CLIPTextModel, 77, marks=pytest.mark.slow),
    ],
)
def test_pooled_and_last_states(tmp_path: Path, kind: type[Any], end: int) -> None:
    folder = save(tmp_path / "text_encoder", kind, eos_token_id=end)
    projected = kind is CLIPTextModelWithProjection
    graph = clip.graph(
        folder, "text_encoder", tokens=77, hidden_output="states", pooled_output="pooled", projection=projected
    )
    assert graph.component.output("pooled").axes[1] == (PROJECTED if projected else WIDTH)
    file = traced(graph, tmp_path)
    assert largest_difference(graph, file, SIZES) < 1e-5
    assert operators(file).count("Attention") == 3


@pytest.mark.slow
@pytest.mark.parametrize("layer", [-1, -2, -3, -4])
def test_states_before_the_last_layer(tmp_path: Path, layer: int) -> None:
    folder = save(tmp_path / "text_encoder", CLIPTextModelWithProjection, hidden_act="gelu")
    graph = clip.graph(
        folder, "text_encoder_2", tokens=77, hidden_output="states", hidden_layer=layer, pooled_output="pooled",
        projection=True,
    )  # fmt: skip
    assert largest_difference(graph, traced(graph, tmp_path), SIZES) < 1e-5


@pytest.mark.slow
def test_layers_that_nothing_needs_are_left_out(tmp_path: Path) -> None:
    folder = save(tmp_path / "text_encoder", CLIPTextModel)
    graph = clip.graph(
        folder, "text_encoder", tokens=77, hidden_output="states", hidden_layer=-2, pooled_output=None, projection=False
    )
    file = traced(graph, tmp_path)
    assert largest_difference(graph, file, SIZES) < 1e-5
    assert operators(file).count("Attention") == 2
    assert not [name for name in initializers(file) if "layers.2" in name or "final" in name]


@pytest.mark.slow
def test_pooled_alone(tmp_path: Path) -> None:
    folder = save(tmp_path / "text_encoder", CLIPTextModel)
    graph = clip.graph(
        folder, "text_encoder", tokens=77, hidden_output=None, pooled_output="pooled_projections", projection=False
    )
    assert [spec.name for spec in graph.component.outputs] == ["pooled_projections"]
    assert largest_difference(graph, traced(graph, tmp_path), SIZES) < 1e-5


def test_the_position_table_is_a_limit_of_the_manifest(tmp_path: Path) -> None:
    folder = save(tmp_path / "text_encoder", CLIPTextModel, max_position_embeddings=40)
    options: dict[str, Any] = {"hidden_output": "states", "pooled_output": None, "projection": False}
    graph = clip.graph(folder, "text_encoder", tokens=40, **options)
    axis = graph.component.input("input_ids").axes[1]
    assert not isinstance(axis, int) and axis.maximum == 40
    with pytest.raises(SourceError, match="its tokenizer makes 77"):
        clip.graph(folder, "text_encoder", tokens=77, **options)
    with pytest.raises(SourceError, match=r"3 layers, none for hidden_states\[-6\]"):
        clip.graph(folder, "text_encoder", tokens=40, hidden_layer=-6, **options)
