"""The trained demo, exported: the same pictures as diffusers' own pipeline, and what its card says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiTPipeline

from dit_deploy import Bundle, Pipeline

FASHION = Path(__file__).parents[2] / "examples" / "fashion"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    from dit_deploy.exporters import export

    return export(FASHION / "model", tmp_path_factory.mktemp("fashion") / "bundle")


@pytest.mark.slow
@pytest.mark.parametrize("labels", [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]])
def test_latents_within_1e_3_and_pictures_within_one_level(bundle: Bundle, labels: list[int]) -> None:
    theirs = DiTPipeline.from_pretrained(FASHION / "model", torch_dtype=torch.float32, low_cpu_mem_usage=False)
    theirs.set_progress_bar_config(disable=True)
    null = theirs.transformer.config.num_embeds_ada_norm
    decoded: list[torch.Tensor] = []

    def lead_null_class(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, kwargs | {
            "class_labels": torch.where(kwargs["class_labels"] == 1000, null, kwargs["class_labels"])
        }

    theirs.transformer.register_forward_pre_hook(lead_null_class, with_kwargs=True)
    theirs.vae.post_quant_conv.register_forward_pre_hook(lambda module, args: decoded.append(args[0]))
    pictures = theirs(
        labels, guidance_scale=4.0, num_inference_steps=50, generator=torch.Generator().manual_seed(5), output_type="np"
    ).images
    latents = (decoded[0] * theirs.vae.config.scaling_factor).numpy()

    ours = Pipeline(bundle)(
        class_labels=labels, guidance_scale=4.0, num_inference_steps=50, seed=5, output_type="numpy"
    )
    assert isinstance(ours.images, np.ndarray)
    assert pictures.std() > 0.1
    assert np.abs(ours.latents - latents).max() <= 1e-3
    assert np.abs(ours.images - pictures).max() <= 1 / 255


def test_weights_are_at_most_20_megabytes() -> None:
    sizes = [path.stat().st_size for path in FASHION.rglob("*.safetensors")]
    assert len(sizes) == 2
    assert sum(sizes) <= 20_000_000


def test_scores_hold_what_was_promised() -> None:
    scores = json.loads((FASHION / "scores.json").read_text())
    assert scores["samples"]["per_class"] == 200
    assert scores["classifier"]["test_accuracy"]["overall"] >= 0.91
    assert scores["named_as_asked"]["overall"] >= 0.95
