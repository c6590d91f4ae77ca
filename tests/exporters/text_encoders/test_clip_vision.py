"""CLIP's image encoder: the graph alone against transformers, pictures cut as its image processor cuts them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

from dit_deploy.errors import SourceError
from dit_deploy.exporters.text_encoders import clip_vision

from .graphs import randomise, traced

SIZE, WIDTH = 21, 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip_vision")
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=3,
        image_size=SIZE,
        patch_size=7,
        hidden_act="gelu",
    )
    randomise(CLIPVisionModel(config)).save_pretrained(folder / "image_encoder")
    processor = CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    processor.save_pretrained(folder / "image_processor")
    return folder


@pytest.mark.parametrize("pictures", [1, 2])
def test_pictures_are_seen_as_transformers_sees_them(folder: Path, tmp_path: Path, pictures: int) -> None:
    graph, size = clip_vision.graph(
        folder / "image_encoder", folder / "image_processor", "image_encoder", pictures=pictures, output="states"
    )
    assert size == SIZE and graph.component.output("states").axes[1:] == (pictures * 10, WIDTH)
    session = ort.InferenceSession(traced(graph, tmp_path), providers=["CPUExecutionProvider"])
    processor = CLIPImageProcessorPil.from_pretrained(folder / "image_processor")
    model = CLIPVisionModel.from_pretrained(folder / "image_encoder").eval()
    random = np.random.default_rng(0)
    for batch in (1, 3):
        pixels = random.integers(0, 256, (batch * pictures, SIZE, SIZE, 3), dtype=np.uint8)
        images = (pixels.transpose(0, 3, 1, 2) / np.float32(255)).reshape(batch, pictures, 3, SIZE, SIZE)
        (found,) = session.run(None, {"images": images.astype(np.float32)})
        given = processor([Image.fromarray(one) for one in pixels], return_tensors="pt")
        with torch.no_grad():
            expected = model(**given, output_hidden_states=True).hidden_states[-2].numpy()
        expected = expected.reshape(batch, pictures * 10, WIDTH)
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("part", "fields", "message"),
    [
        ("image_encoder/config.json", {"model_type": "siglip"}, "holds a model of type 'siglip'; expected"),
        ("image_processor/preprocessor_config.json", {"do_resize": False}, "do_resize is False; expected True"),
        ("image_processor/preprocessor_config.json", {"crop_size": 14}, "crop_size is 14; expected .*21"),
    ],
)
def test_other_preparations_are_refused(
    folder: Path, tmp_path: Path, part: str, fields: dict[str, Any], message: str
) -> None:
    for name in ("image_encoder/config.json", "image_processor/preprocessor_config.json"):
        (tmp_path / name).parent.mkdir()
        config = json.loads((folder / name).read_text())
        (tmp_path / name).write_text(json.dumps(config | (fields if name == part else {})))
    with pytest.raises(SourceError, match=message) as caught:
        clip_vision.graph(
            tmp_path / "image_encoder", tmp_path / "image_processor", "image_encoder", pictures=1, output="states"
        )
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="image_processor is missing"):
        clip_vision.graph(
            folder / "image_encoder", tmp_path / "image_processor", "image_encoder", pictures=1, output="states"
        )
