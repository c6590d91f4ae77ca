"""The trained text-to-image demo, exported: the same pictures as diffusers' own pipeline, and what its card says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import PixArtSigmaPipeline

from dit_deploy import Bundle, Pipeline

EMOJI = Path(__file__).parents[2] / "examples" / "emoji"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    from dit_deploy.exporters import export

    return export(EMOJI / "model", tmp_path_factory.mktemp("emoji") / "bundle")


@pytest.fixture(scope="module")
def theirs() -> PixArtSigmaPipeline:
    pipeline = PixArtSigmaPipeline.from_pretrained(EMOJI / "model", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompts", "negative", "scale"),
    [
        (["red apple", "a picture of a Snowman", "cat face with tears of joy, smileys and emotion"], "", 3.0),
        (["octopus", "Zombie größer 漢字"], "face, animal mammal", 4.5),
        (["rocket"], "", 1.0),
    ],
)
def test_latents_within_1e_3_and_pictures_within_one_level(
    bundle: Bundle, theirs: PixArtSigmaPipeline, prompts: list[str], negative: str, scale: float
) -> None:
    expected = {
        kind: theirs(
            prompts,
            negative_prompt=negative,
            guidance_scale=scale,
            num_inference_steps=20,
            generator=torch.Generator().manual_seed(5),
            clean_caption=False,
            use_resolution_binning=False,
            output_type=kind,
        ).images
        for kind in ("latent", "np")
    }
    latents = expected["latent"].numpy()

    ours = Pipeline(bundle)(
        prompt=prompts, negative_prompt=negative, guidance_scale=scale, num_inference_steps=20, seed=5,
        output_type="numpy",
    )  # fmt: skip
    assert isinstance(ours.images, np.ndarray)
    assert expected["np"].std() > 0.1
    assert np.abs(ours.latents - latents).max() <= 1e-3 * np.abs(latents).max()
    assert np.abs(ours.images - expected["np"]).max() <= 1 / 255


def test_the_folder_is_at_most_25_megabytes() -> None:
    sizes = [path.stat().st_size for path in EMOJI.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.suffix == ".safetensors" for path in EMOJI.rglob("*")) == 3
    assert sum(sizes) <= 25_000_000


def test_scores_hold_what_the_card_says() -> None:
    scores = json.loads((EMOJI / "scores.json").read_text())
    assert scores["samples"]["count"] == scores["training_pictures"] == 1636
    by_scale = {row["guidance_scale"]: row for row in scores["by_guidance_scale"]}
    assert by_scale[3.0]["nearest_is_own"] >= 0.99


def test_the_tokenizer_knows_the_letters_that_captions_have(theirs: PixArtSigmaPipeline) -> None:
    tokenizer = theirs.tokenizer
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert 2 not in tokenizer("face with open mouth, person: white hair, 8-pointed black star (24)").input_ids
    assert tokenizer("漢").input_ids[-2:] == [2, 1]
