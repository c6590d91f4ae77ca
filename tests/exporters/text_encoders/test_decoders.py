"""Gemma 2, Llama, Qwen 2.5-VL's language half and Qwen 3: the graph alone against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2Model,
    LlamaConfig,
    LlamaModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3Model,
)

from dit_deploy.errors import SourceError
from dit_deploy.exporters.text_encoders import gemma, llama, qwen

from .graphs import initializers, largest_difference, operators, randomise, traced

SIZES: dict[str, Any] = {
    "vocab_size": 137, "hidden_size": 36, "intermediate_size": 50, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def save(model: torch.nn.Module, folder: Path) -> Path:
    randomise(model).save_pretrained(folder)  # type: ignore[operator]
    return folder


@pytest.fixture(scope="module")
def gemma_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = Gemma2Config(**SIZES, head_dim=10, query_pre_attn_scalar=7, sliding_window=64, attn_logit_softcapping=2.0)
    return save(Gemma2Model(config), tmp_path_factory.mktemp("gemma") / "text_encoder")


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    rope = {"rope_type": "default", "rope_theta": 500000.0}
    return save(LlamaModel(LlamaConfig(**SIZES, rope_parameters=rope)), tmp_path_factory.mktemp("llama") / "text")


@pytest.fixture(scope="module")
def vl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    rope = {"rope_type": "default", "mrope_section": [1, 1, 1], "rope_theta": 1e6}
    vision = {
        "depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 1, "out_hidden_size": 36, "patch_size": 2,
        "fullatt_block_indexes": [0],
    }  # fmt: skip
    config = Qwen2_5_VLConfig(text_config={**SIZES, "rope_parameters": rope}, vision_config=vision)
    return save(Qwen2_5_VLForConditionalGeneration(config), tmp_path_factory.mktemp("vl") / "text_encoder")


@pytest.fixture(scope="module")
def qwen3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return save(Qwen3Model(Qwen3Config(**SIZES, head_dim=10)), tmp_path_factory.mktemp("qwen3") / "text_encoder")


def test_gemma_2(gemma_folder: Path, tmp_path: Path) -> None:
    graph = gemma.graph(gemma_folder, "text_encoder", tokens=300, mask_output="encoder_attention_mask")
    file = traced(graph, tmp_path)
    assert "RotaryEmbedding" not in operators(file)
    # up to the sliding window with padding; beyond it whole texts, as padding then attends to nothing
    assert largest_difference(graph, file, [(1, 1), (3, 1), (1, 2), (2, 7), (4, 64), (1, 300)]) < 1e-5


@pytest.mark.slow
def test_gemma_2_keeps_the_first_token_and_the_last(gemma_folder: Path, tmp_path: Path) -> None:
    graph = gemma.graph(gemma_folder, "text_encoder", tokens=90, mask_output="mask", keep=30)
    file = traced(graph, tmp_path)
    assert graph.component.outputs[0].axes[1:] == (30, 36)
    assert largest_difference(graph, file, [(1, 30), (2, 31), (3, 50)]) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("layer", "layers"), [(-3, 1), (None, 3)])
def test_llama_drops_the_template(llama_folder: Path, tmp_path: Path, layer: int | None, layers: int) -> None:
    graph = llama.graph(llama_folder, "text_encoder", tokens=50, hidden_layer=layer, drop=5)
    file = traced(graph, tmp_path)
    assert largest_difference(graph, file, [(1, 6), (3, 6), (1, 7), (2, 40), (3, 200)]) < 1e-5
    assert operators(file).count("Attention") == layers
    assert any(name == "model.norm.weight" for name in initializers(file)) == (layer is None)


@pytest.mark.slow
def test_qwen_2_5_vl_drops_the_template(vl_folder: Path, tmp_path: Path) -> None:
    graph = qwen.graph(vl_folder, "text_encoder", tokens=50, drop=5)
    file = traced(graph, tmp_path)
    assert largest_difference(graph, file, [(1, 6), (3, 6), (1, 7), (2, 40), (3, 200)]) < 1e-5
    assert "RotaryEmbedding" not in operators(file)
    assert not [name for name in initializers(file) if "visual" in name or "lm_head" in name]

    # padding on the left gives the same tokens at the same places
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    mask = np.array([[0, 0, 0, *[1] * 8], [1] * 11], np.int64)
    ids = np.random.default_rng(0).integers(0, 137, mask.shape)
    found = session.run(None, {"input_ids": ids, "attention_mask": mask})
    assert graph.reference is not None
    with torch.no_grad():
        expected = graph.reference()(torch.from_numpy(ids), torch.from_numpy(mask))
    for one, other in zip(found, expected, strict=True):
        assert np.abs(one - other.numpy()).max() < 1e-5
    assert found[1].tolist() == [[1] * 3 + [0] * 8, [1] * 6 + [0] * 5]


@pytest.mark.slow
@pytest.mark.parametrize(("layer", "layers"), [(-2, 2), (None, 3)])
def test_qwen_3(qwen3_folder: Path, tmp_path: Path, layer: int | None, layers: int) -> None:
    graph = qwen.graph(qwen3_folder, "text_encoder", tokens=50, hidden_layer=layer)
    file = traced(graph, tmp_path)
    assert largest_difference(graph, file, [(1, 1), (3, 1), (1, 2), (2, 7), (2, 300)]) < 1e-5
    assert operators(file).count("Attention") == layers
    assert any(name == "model.norm.weight" for name in initializers(file)) == (layer is None)


def test_what_is_not_supported_is_refused(tmp_path: Path) -> None:
    scaled = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    Qwen3Config(**SIZES, rope_parameters=scaled).save_pretrained(tmp_path)
    with pytest.raises(SourceError, match="scales its rotary positions by 'linear'"):
        qwen.graph(tmp_path, "text_encoder", tokens=8)
    with pytest.raises(SourceError, match=r"3 layers, none for hidden_states\[-5\]"):
        qwen.graph(tmp_path, "text_encoder", tokens=8, hidden_layer=-5)
    LlamaConfig(**SIZES, mlp_bias=True).save_pretrained(tmp_path)
    with pytest.raises(SourceError, match="has mlp_bias"):
        llama.graph(tmp_path, "text_encoder", tokens=8)
