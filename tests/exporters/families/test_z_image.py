"""Z-Image: our graphs and pictures against diffusers' transformer and pipelines, unmodified."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImageImg2ImgPipeline, ZImagePipeline, ZImageTransformer2DModel
from PIL import Image

from dit_deploy.runtimes.prompts import PromptReader
from tests.families.checks import (
    EMBEDDINGS,
    GRAPH,
    Case,
    altered,
    assert_bad_input,
    assert_drawn,
    assert_near,
    assert_real_float32,
    assert_refused,
    check_missing_part,
    draw,
    exported,
    noise_picture,
    quiet,
    run_graph,
    seeded,
)
from tests.families.z_image import CHANNELS, SIDE, WIDTH, make_z_image

#: Exporting a whole pipeline takes half a minute.
pytestmark = pytest.mark.slow

#: Of one, two and five times 32 tokens, so that pictures of one batch begin at different positions.
PROMPTS = ["a cat", "картина маслом: лиса в снегу, 高清细节, une peinture à l'huile " * 2, "low quality, blurry " * 23]
NEGATIVES = ["low quality, blurry, bad anatomy, extra fingers, watermark, text", "", "a"]
#: Pixels; the smallest has one token, the next 32 exactly, and none is square but the first.
SIZES = [(4, 4), (16, 32), (72, 20)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("z_image")
    return exported(make_z_image(folder), ZImagePipeline, folder / "bundle")


def draw_both(made: Case, size: tuple[int, int], seed: int = 5, scheduler: Any = None, **arguments: Any) -> None:
    """Draw with both, and compare latents and pictures; ``scheduler`` is a diffusers object for both."""
    config = None if scheduler is None else {**scheduler.config, "_class_name": type(scheduler).__name__}
    shared = {**arguments, "height": size[0], "width": size[1]}
    ours = made.ours(seed=seed, output_type="numpy", scheduler=config, **shared)
    kind = ZImageImg2ImgPipeline if "image" in arguments else ZImagePipeline
    reference = quiet(kind(**made.theirs.components | ({} if scheduler is None else {"scheduler": scheduler})))
    # The pipeline overwrites the caller's lists.
    own = {name: list(value) if isinstance(value, list) else value for name, value in shared.items()}
    assert_drawn(ours, *draw(reference, generator=seeded(seed), **own))


@pytest.mark.parametrize("size", SIZES)
def test_pictures_are_diffusers(made: Case, size: tuple[int, int]) -> None:
    draw_both(made, size, prompt=PROMPTS[0], negative_prompt=NEGATIVES[0], num_inference_steps=3)


def test_prompts_of_different_lengths_negatives_and_pictures(made: Case) -> None:
    draw_both(
        made,
        (24, 40),
        prompt=PROMPTS,
        negative_prompt=NEGATIVES,
        num_images_per_prompt=2,
        guidance_scale=2.5,
        num_inference_steps=3,
    )


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
def test_guidance_begins_above_0(made: Case, scale: float) -> None:
    draw_both(made, (16, 12), prompt=PROMPTS[:2], guidance_scale=scale, num_inference_steps=2)
    guidance = made.bundle.manifest.guidance
    assert (guidance.default_scale, guidance.scale_offset) == (5.0, 1.0)


def test_the_usual_guidance_is_diffusers(made: Case) -> None:
    draw_both(made, (12, 20), prompt=PROMPTS[1], num_inference_steps=2)


def test_a_schedule_shifted_by_the_size_is_diffusers(made: Case) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    draw_both(made, (64, 48), scheduler=scheduler, prompt=PROMPTS[0], num_inference_steps=4)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_image_to_image_is_diffusers(made: Case, strength: float) -> None:
    draw_both(
        made,
        (24, 40),
        prompt=PROMPTS[0],
        negative_prompt=NEGATIVES[0],
        image=noise_picture(24, 40),
        strength=strength,
        num_inference_steps=5,
    )


def test_images_to_images_for_several_prompts(made: Case) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (3, 16, 24, 3), dtype=np.uint8)
    draw_both(
        made,
        (16, 24),
        prompt=PROMPTS,
        negative_prompt=NEGATIVES,
        image=[Image.fromarray(one) for one in pixels],
        strength=0.7,
        num_inference_steps=4,
    )


def test_embeddings_are_the_pipelines(made: Case) -> None:
    texts = [*PROMPTS, "", "cat " * 700]
    with pytest.warns(UserWarning, match="left out"):
        found = PromptReader(made.bundle, made.ours.pool)(texts)
    with torch.no_grad():
        expected, _ = made.theirs.encode_prompt(list(texts), do_classifier_free_guidance=False)
    assert [-(-len(one) // 32) for one in expected] == [1, 2, 5, 1, 16]  # what the other tests rely on
    for states, mask, one in zip(
        found["encoder_hidden_states"], found["encoder_attention_mask"], expected, strict=True
    ):
        assert mask.sum() == len(one) and (np.diff(mask) <= 0).all()
        assert_near(states[: len(one)], one.numpy(), EMBEDDINGS)


def test_a_long_prompt_is_cut_with_a_warning(made: Case) -> None:
    with pytest.warns(UserWarning, match="the text_encoder reads 512 tokens; left out: '.*a cat a cat"):
        made.ours(
            prompt="a cat " * 500,
            num_inference_steps=1,
            height=4,
            width=4,
            guidance_scale=0.0,
            output_type="latent",
        )


@pytest.mark.parametrize(
    ("batch", "rows", "columns", "tokens"),
    [(1, 1, 1, 1), (3, 9, 4, 70), (2, 3, 17, 130), (3, 4, 8, 32), (3, 11, 3, 33), (1, SIDE, 25, 2)],
)
def test_the_plain_graph_is_the_transformer(made: Case, batch: int, rows: int, columns: int, tokens: int) -> None:
    """At sizes not traced: run by ONNX Runtime alone, against diffusers' class called as its pipeline calls it."""
    random = np.random.default_rng(batch + tokens)
    lengths = np.array([tokens, 1, max(1, tokens // 2)][:batch])
    feeds: dict[str, Any] = {
        "latents": random.standard_normal((batch, CHANNELS, 2 * rows, 2 * columns)).astype(np.float32),
        "timestep": random.uniform(0, 1000, batch).astype(np.float32),
        "encoder_hidden_states": random.standard_normal((batch, tokens, WIDTH)).astype(np.float32),
        "encoder_attention_mask": (np.arange(tokens) < lengths[:, None]).astype(np.int64),
    }
    (found,) = run_graph(made.bundle.component_path("denoiser"), feeds)
    tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
    assert_near(found, transformer(made.theirs.transformer, **tensors), GRAPH)


@torch.no_grad()
def transformer(
    model: ZImageTransformer2DModel,
    latents: torch.Tensor,
    timestep: torch.Tensor,
    encoder_hidden_states: torch.Tensor,
    encoder_attention_mask: torch.Tensor,
) -> np.ndarray:
    texts = [one[mask.bool()] for one, mask in zip(encoder_hidden_states, encoder_attention_mask, strict=True)]
    pictures = list(latents.unsqueeze(2))
    made = model(pictures, (1000 - timestep) / 1000, texts, return_dict=False)[0]
    return -torch.stack(made).squeeze(2).numpy()


def test_a_sample_does_not_depend_on_the_others_of_its_batch(made: Case) -> None:
    """Where its picture begins follows from its own text, however long the longest is."""
    noise = np.random.default_rng(4).standard_normal((3, CHANNELS, 8, 12)).astype(np.float32)
    arguments: dict[str, Any] = {"height": 16, "width": 24, "num_inference_steps": 2, "output_type": "latent"}
    together = made.ours(prompt=PROMPTS, noise=noise, **arguments).latents
    for index, prompt in enumerate(PROMPTS):
        alone = made.ours(prompt=prompt, noise=noise[index : index + 1], **arguments).latents[0]
        assert np.abs(together[index] - alone).max() <= 1e-4 * np.abs(alone).max()


def test_the_graph_has_no_float64_and_no_complex_numbers(made: Case) -> None:
    assert_real_float32(made.bundle, "denoiser")


class TestBadInput:
    @pytest.mark.parametrize("part", ["text_encoder", "tokenizer", "vae", "transformer", "scheduler"])
    def test_a_missing_part_is_named(self, made: Case, tmp_path: Path, part: str) -> None:
        check_missing_part(made.folder, tmp_path / "pipeline", part)

    @pytest.mark.parametrize(
        ("part", "fields", "message"),
        [
            ("transformer", {"cap_feat_dim": 64}, "text_encoder makes 28 channels, .*transformer takes 64"),
            ("transformer", {"siglip_feat_dim": 8}, "siglip_feat_dim, which Z-Image's text-to-image models do not"),
            ("transformer", {"all_patch_size": [4]}, r"patches of \[\(4, 1\)\] \(side, frames\)"),
            ("transformer", {"axes_lens": [500, 64, 64]}, "500 positions for texts; 512 tokens need 514"),
            ("transformer", {"in_channels": 7}, "5 latent channels, the denoiser 7; they do not belong together"),
            ("transformer", {"_class_name": "FluxTransformer2DModel"}, "expected ZImageTransformer2DModel"),
        ],
    )
    def test_parts_that_do_not_fit(
        self, made: Case, tmp_path: Path, part: str, fields: dict[str, Any], message: str
    ) -> None:
        assert_refused(altered(made.folder, tmp_path / "pipeline", f"{part}/config.json", **fields), message)

    @pytest.mark.parametrize(
        ("template", "message"),
        [
            ("{% for m in messages %}{{ m.content | trim }}{% endfor %}", "does more than put a text before and after"),
            ("always the same", "does more than put a text before and after"),
            ("{{ raise_exception('no users') }}", "the chat template cannot be used: no users"),
            (None, "the chat template cannot be used: "),
        ],
    )
    def test_chat_templates(self, made: Case, tmp_path: Path, template: str | None, message: str) -> None:
        folder = Path(shutil.copytree(made.folder, tmp_path / "pipeline"))
        file = folder / "tokenizer" / "chat_template.jinja"
        assert file.is_file()
        file.unlink()
        if template is not None:
            file.write_text(template)
        assert_refused(folder, message)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({}, "encoder_hidden_states: this bundle needs it, and none came; give a prompt"),
            ({"prompt": "a", "negative_prompt": ["b", "c"]}, "negative_prompt: 2 came for 1 prompts"),
            ({"prompt": "a", "height": 6}, "height: 6 came, expected a multiple of 4 pixels"),
            ({"prompt": "a", "height": 4 * SIDE + 4}, f"height: 204 came, .*positions end at {SIDE} patches"),
        ],
    )
    def test_arguments(self, made: Case, arguments: dict[str, Any], message: str) -> None:
        assert_bad_input(made.ours, message, **{"height": 4, "width": 4, **arguments})
