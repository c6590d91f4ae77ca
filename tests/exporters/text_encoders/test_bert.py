"""BERT's encoder as HunyuanDiT reads it: the graph alone against transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from dit_deploy.errors import SourceError
from dit_deploy.exporters.text_encoders import bert

from .graphs import largest_difference, operators, randomise, traced


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=137, hidden_size=36, num_hidden_layers=2, num_attention_heads=3, intermediate_size=50,
        max_position_embeddings=90,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("bert") / "text_encoder"
    randomise(BertModel(config)).save_pretrained(path)
    return path


def test_hidden_states_are_those_of_transformers(folder: Path, tmp_path: Path) -> None:
    graph = bert.graph(folder, "text_encoder", tokens=77, mask_output="text_embedding_mask")
    file = traced(graph, tmp_path)
    assert largest_difference(graph, file, [(1, 1), (3, 1), (1, 2), (2, 7), (1, 77), (3, 90)]) < 1e-5
    assert operators(file).count("Attention") == 2


def test_the_position_table_is_a_limit(folder: Path) -> None:
    axis = bert.graph(folder, "text_encoder", tokens=77).component.input("attention_mask").axes[1]
    assert not isinstance(axis, int) and axis.maximum == 90
    with pytest.raises(SourceError, match="90 positions"):
        bert.graph(folder, "text_encoder", tokens=91)
