"""Z-Image: our graphs and pictures against diffusers' transformer and pipelines, unmodified."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImageImg2ImgPipeline, ZImagePipeline, ZImageTransformer2DModel
from PIL import Image

from dit_deploy import Bundle, Pipeline
from dit_deploy.errors import InputError, SourceError
from dit_deploy.exporters import export
from dit_deploy.exporters.sources import open_source
from dit_deploy.runtimes.prompts import PromptReader
from tests.families.z_image import CHANNELS, SIDE, WIDTH, make_z_image

#: Exporting a whole pipeline takes half a minute; PixArt, beside this file, is the family of the fast tests.
pytestmark = pytest.mark.slow

#: Of one, two and five times 32 tokens, so that pictures of one batch begin at different positions.
PROMPTS = ["a cat", "картина маслом: лиса в снегу, 高清细节, une peinture à l'huile " * 2, "low quality, blurry " * 23]
NEGATIVES = ["low quality, blurry, bad anatomy, extra fingers, watermark, text", "", "a"]
#: Pixels; the smallest has one token, the next 32 exactly, and none is square but the first.
SIZES = [(4, 4), (16, 32), (72, 20)]
LATENTS, PICTURES, EMBEDDINGS, GRAPH = 1e-3, 1 / 255, 1e-4, 1e-4


@dataclass(frozen=True)
class Exported:
    folder: Path
    bundle: Bundle
    pipeline: Pipeline
    reference: ZImagePipeline


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("z_image")
    source = make_z_image(folder)
    bundle = export(source, folder / "bundle")
    reference = ZImagePipeline.from_pretrained(source)
    reference.set_progress_bar_config(disable=True)
    return Exported(source, bundle, Pipeline(bundle, "onnx", threads=1), reference)


def draw_both(made: Exported, size: tuple[int, int], seed: int = 5, scheduler: Any = None, **arguments: Any) -> None:
    """Draw with both, and compare latents and pictures; ``scheduler`` is a diffusers object for both."""
    height, width = size
    config = None if scheduler is None else {**scheduler.config, "_class_name": type(scheduler).__name__}
    output = made.pipeline(seed=seed, height=height, width=width, output_type="numpy", scheduler=config, **arguments)
    kind = ZImageImg2ImgPipeline if "image" in arguments else ZImagePipeline
    components = made.reference.components | ({} if scheduler is None else {"scheduler": scheduler})
    reference = kind(**components)
    reference.set_progress_bar_config(disable=True)
    latents, images = (
        reference(
            generator=torch.Generator("cpu").manual_seed(seed),
            height=height,
            width=width,
            output_type=output_type,
            # The pipeline overwrites the caller's lists.
            **{name: list(value) if isinstance(value, list) else value for name, value in arguments.items()},
        ).images
        for output_type in ("latent", "np")
    )
    assert output.latents.shape == latents.shape
    assert np.abs(output.latents - latents.numpy()).max() <= LATENTS * np.abs(latents.numpy()).max()
    assert np.abs(output.images - images).max() <= PICTURES


@pytest.mark.parametrize("size", SIZES)
def test_pictures_are_diffusers(made: Exported, size: tuple[int, int]) -> None:
    draw_both(made, size, prompt=PROMPTS[0], negative_prompt=NEGATIVES[0], num_inference_steps=3)


def test_prompts_of_different_lengths_negatives_and_pictures(made: Exported) -> None:
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
def test_guidance_begins_above_0(made: Exported, scale: float) -> None:
    draw_both(made, (16, 12), prompt=PROMPTS[:2], guidance_scale=scale, num_inference_steps=2)
    guidance = made.bundle.manifest.guidance
    assert (guidance.default_scale, guidance.scale_offset) == (5.0, 1.0)


def test_the_usual_guidance_is_diffusers(made: Exported) -> None:
    draw_both(made, (12, 20), prompt=PROMPTS[1], num_inference_steps=2)


@pytest.mark.slow
def test_a_schedule_shifted_by_the_size_is_diffusers(made: Exported) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    draw_both(made, (64, 48), scheduler=scheduler, prompt=PROMPTS[0], num_inference_steps=4)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_image_to_image_is_diffusers(made: Exported, strength: float) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    draw_both(
        made,
        (24, 40),
        prompt=PROMPTS[0],
        negative_prompt=NEGATIVES[0],
        image=Image.fromarray(pixels),
        strength=strength,
        num_inference_steps=5,
    )


@pytest.mark.slow
def test_images_to_images_for_several_prompts(made: Exported) -> None:
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


def test_embeddings_are_the_pipelines(made: Exported) -> None:
    texts = [*PROMPTS, "", "cat " * 700]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = PromptReader(made.bundle, made.pipeline.pool)(texts)
    with torch.no_grad():
        expected, _ = made.reference.encode_prompt(list(texts), do_classifier_free_guidance=False)
    assert [-(-len(one) // 32) for one in expected] == [1, 2, 5, 1, 16]  # what the other tests rely on
    for states, mask, one in zip(
        found["encoder_hidden_states"], found["encoder_attention_mask"], expected, strict=True
    ):
        assert mask.sum() == len(one) and (np.diff(mask) <= 0).all()
        assert np.abs(states[: len(one)] - one.numpy()).max() <= EMBEDDINGS * np.abs(one.numpy()).max()


def test_a_long_prompt_is_cut_with_a_warning(made: Exported) -> None:
    with pytest.warns(UserWarning, match="the text_encoder reads 512 tokens; left out: '.*a cat a cat"):
        made.pipeline(
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
def test_the_plain_graph_is_the_transformer(made: Exported, batch: int, rows: int, columns: int, tokens: int) -> None:
    """At sizes not traced: run by ONNX Runtime alone, against diffusers' class called as its pipeline calls it."""
    random = np.random.default_rng(batch + tokens)
    lengths = np.array([tokens, 1, max(1, tokens // 2)][:batch])
    feeds: dict[str, Any] = {
        "latents": random.standard_normal((batch, CHANNELS, 2 * rows, 2 * columns)).astype(np.float32),
        "timestep": random.uniform(0, 1000, batch).astype(np.float32),
        "encoder_hidden_states": random.standard_normal((batch, tokens, WIDTH)).astype(np.float32),
        "encoder_attention_mask": (np.arange(tokens) < lengths[:, None]).astype(np.int64),
    }
    session = ort.InferenceSession(made.bundle.component_path("denoiser"), providers=["CPUExecutionProvider"])
    (found,) = session.run(["prediction"], feeds)
    expected = transformer(made.reference.transformer, **{name: torch.from_numpy(one) for name, one in feeds.items()})
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= GRAPH * np.abs(expected).max()


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


def test_a_sample_does_not_depend_on_the_others_of_its_batch(made: Exported) -> None:
    """Where its picture begins follows from its own text, however long the longest is."""
    noise = np.random.default_rng(4).standard_normal((3, CHANNELS, 8, 12)).astype(np.float32)
    arguments: dict[str, Any] = {"height": 16, "width": 24, "num_inference_steps": 2, "output_type": "latent"}
    together = made.pipeline(prompt=PROMPTS, noise=noise, **arguments).latents
    for index, prompt in enumerate(PROMPTS):
        alone = made.pipeline(prompt=prompt, noise=noise[index : index + 1], **arguments).latents[0]
        assert np.abs(together[index] - alone).max() <= 1e-4 * np.abs(alone).max()


def test_the_graph_has_no_float64_and_no_complex_numbers(made: Exported) -> None:
    model = onnx.load(made.bundle.component_path("denoiser"), load_external_data=False)
    types = {value.type.tensor_type.elem_type for value in model.graph.value_info}
    assert not types & {onnx.TensorProto.DOUBLE, onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128}


@contextmanager
def changed(file: Path, **fields: Any) -> Iterator[None]:
    before = file.read_text()
    file.write_text(json.dumps({**json.loads(before), **fields}))
    yield
    file.write_text(before)


class TestBadInput:
    @pytest.fixture
    def folder(self, made: Exported, tmp_path: Path) -> Path:
        return shutil.copytree(made.folder, tmp_path / "pipeline")

    @pytest.mark.parametrize("part", ["text_encoder", "tokenizer", "vae", "transformer", "scheduler"])
    def test_a_missing_part_is_named(self, folder: Path, part: str) -> None:
        shutil.rmtree(folder / part)
        with pytest.raises(SourceError, match=rf"lacks the folder {part}\b"):
            open_source(folder)

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
    def test_parts_that_do_not_fit(self, folder: Path, part: str, fields: dict[str, Any], message: str) -> None:
        with changed(folder / part / "config.json", **fields), pytest.raises(SourceError, match=message) as caught:
            open_source(folder)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("template", "message"),
        [
            ("{% for m in messages %}{{ m.content | trim }}{% endfor %}", "does more than put a text before and after"),
            ("always the same", "does more than put a text before and after"),
            ("{{ raise_exception('no users') }}", "the chat template cannot be used: no users"),
            (None, "the chat template cannot be used: "),
        ],
    )
    def test_chat_templates(self, folder: Path, template: str | None, message: str) -> None:
        file = folder / "tokenizer" / "chat_template.jinja"
        assert file.is_file()
        file.unlink()
        if template is not None:
            file.write_text(template)
        with pytest.raises(SourceError, match=message) as caught:
            open_source(folder)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({}, "encoder_hidden_states: this bundle needs it, and none came; give a prompt"),
            ({"prompt": "a", "negative_prompt": ["b", "c"]}, "negative_prompt: 2 came for 1 prompts"),
            ({"prompt": "a", "height": 6}, "height: 6 came, expected a multiple of 4 pixels"),
            ({"prompt": "a", "height": 4 * SIDE + 4}, f"height: 204 came, .*positions end at {SIDE} patches"),
        ],
    )
    def test_arguments(self, made: Exported, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message) as caught:
            made.pipeline(num_inference_steps=1, **{"height": 4, "width": 4, **arguments})
        assert "\n" not in str(caught.value)
