"""Stable Diffusion 3 and 3.5: our graphs and pictures against diffusers' transformer and pipelines, unmodified."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Img2ImgPipeline, StableDiffusion3Pipeline

from dit_deploy.bundle.engine import SizeRange
from dit_deploy.exporters.passes.graph_file import load_graph
from dit_deploy.exporters.passes.linear import choose_linears
from tests.families import sd3 as families
from tests.families.checks import (
    LATENTS,
    Case,
    altered,
    assert_bad_input,
    assert_drawn,
    assert_refused,
    check_embeddings,
    check_graph,
    check_missing_part,
    draw,
    exported,
    graph_of,
    needs_rtx,
    noise_picture,
    quiet,
    rtx_engine,
    seeded,
)

#: Exporting a whole pipeline takes half a minute.
pytestmark = pytest.mark.slow

PROMPTS = ["a photo of a small cat on a red sofa", "картина маслом: лиса в снегу, 高清细节"]
NEGATIVES = ["low quality, blurry", ""]
#: Pixels; the smallest has one patch, none is square but that, and one is as wide as the position table.
SIZES = [(4, 4), (24, 44), (36, 16)]


def made(base: Path, make: Callable[[Path], Path]) -> Case:
    folder = make(base)
    # diffusers opens a folder without T5 only where it is told so
    absent = {} if (folder / "text_encoder_3").is_dir() else {"text_encoder_3": None, "tokenizer_3": None}
    return exported(folder, StableDiffusion3Pipeline, base / "bundle", **absent)


@pytest.fixture(scope="module")
def sd35(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return made(tmp_path_factory.mktemp("sd35"), families.sd35)


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return made(tmp_path_factory.mktemp("sd3"), families.sd3)


def draw_both(
    case: Case, size: tuple[int, int], theirs: dict[str, Any] | None = None, seed: int = 5, **arguments: Any
) -> np.ndarray:
    """Draw with both, compare latents and pictures, and return ours; ``theirs`` is what only diffusers is given."""
    shared = {**arguments, "height": size[0], "width": size[1]}
    output = case.ours(seed=seed, output_type="numpy", **shared)
    reference = case.theirs
    if "image" in arguments:
        reference = quiet(StableDiffusion3Img2ImgPipeline(**reference.components))
    assert_drawn(output, *draw(reference, generator=seeded(seed), **{**shared, **(theirs or {})}))
    return output.latents


@pytest.mark.parametrize("size", SIZES)
def test_pictures_are_diffusers(sd35: Case, size: tuple[int, int]) -> None:
    draw_both(sd35, size, prompt=PROMPTS[0], negative_prompt=NEGATIVES[0], guidance_scale=2.5, num_inference_steps=3)


def test_several_prompts_and_pictures_with_the_usual_guidance(sd35: Case) -> None:
    draw_both(
        sd35,
        (24, 40),
        prompt=PROMPTS,
        negative_prompt=NEGATIVES,
        num_images_per_prompt=2,
        num_inference_steps=3,
    )
    manifest = sd35.bundle.manifest
    assert (manifest.guidance.default_scale, manifest.scheduler.num_inference_steps) == (7.0, 28)


def test_without_guidance(sd35: Case) -> None:
    draw_both(sd35, (12, 8), prompt=PROMPTS[1], guidance_scale=1.0, num_inference_steps=2)


@pytest.mark.parametrize("batched", [True, False])
def test_skip_layer_guidance_is_diffusers(sd35: Case, batched: bool) -> None:
    arguments: dict[str, Any] = {"prompt": PROMPTS, "num_inference_steps": 6, "guidance_scale": 3.0}
    skipping = {"skip_guidance_layers": [0], "skip_layer_guidance_scale": 1.5, "skip_layer_guidance_stop": 0.6}
    ours = sd35.ours(**arguments, **skipping, guidance_batched=batched, seed=5, height=12, width=20)
    if batched:
        found = draw_both(sd35, (12, 20), **arguments, **skipping)
        assert np.array_equal(found, ours.latents)
        plain = draw_both(sd35, (12, 20), **arguments)
        assert np.abs(plain - found).max() > 50 * LATENTS * np.abs(plain).max()
    else:
        whole = sd35.ours(**arguments, **skipping, seed=5, height=12, width=20)
        assert np.abs(whole.latents - ours.latents).max() <= 1e-5 * np.abs(ours.latents).max()


@pytest.mark.parametrize(("steps", "strength"), [(5, 0.5), (4, 0.6), (3, 1.0)])
def test_image_to_image_is_diffusers(sd35: Case, steps: int, strength: float) -> None:
    """5 · 0.5 and 4 · 0.6 steps are rounded up, other than by pipelines before SD3."""
    draw_both(
        sd35, (24, 40), prompt=PROMPTS[0], image=noise_picture(24, 40), strength=strength, num_inference_steps=steps
    )


def test_one_image_for_several_prompts(sd35: Case) -> None:
    draw_both(
        sd35,
        (16, 24),
        prompt=PROMPTS,
        negative_prompt=NEGATIVES[0],
        theirs={"negative_prompt": [NEGATIVES[0]] * 2},
        image=noise_picture(16, 24),
        strength=0.7,
        num_inference_steps=4,
    )


@pytest.mark.parametrize("size", SIZES)
def test_without_t5_and_with_dynamic_shifting(sd3: Case, size: tuple[int, int]) -> None:
    draw_both(sd3, size, prompt=PROMPTS, negative_prompt=NEGATIVES, num_inference_steps=4)
    draw_both(
        sd3,
        size,
        prompt=PROMPTS[0],
        num_inference_steps=5,
        skip_guidance_layers=[1, 2],
        skip_layer_guidance_start=0.2,
        skip_layer_guidance_stop=0.9,
    )
    draw_both(sd3, size, prompt=PROMPTS[1], image=noise_picture(*size), strength=0.7, num_inference_steps=5)


def embeddings(case: Case) -> None:
    texts = [*PROMPTS, "", "a cat with a hat", "cat " * 700]
    with torch.no_grad():
        states, _, pooled, _ = case.theirs.encode_prompt(
            texts, None, None, device="cpu", do_classifier_free_guidance=False
        )
    check_embeddings(case, texts, encoder_hidden_states=states, pooled_projections=pooled)


def test_embeddings_are_the_pipelines(sd35: Case) -> None:
    embeddings(sd35)


def test_embeddings_without_t5_are_the_pipelines(sd3: Case) -> None:
    embeddings(sd3)


def check_denoiser(case: Case, sizes: tuple[int, int, int, int]) -> None:
    axes = ("batch", "sequence_length", "patch_height", "patch_width")
    check_graph(case.bundle.component_path("denoiser"), graph_of(case.folder, "denoiser"), axes, [sizes], seed=3)


#: batch, tokens, rows, columns
GRIDS = [(1, 1, 1, 1), (3, 333, 2, 7), (2, 13, 9, 4), (1, 3, families.POSITIONS, families.POSITIONS)]


@pytest.mark.parametrize("sizes", GRIDS)
def test_the_plain_graph_is_the_transformer(sd35: Case, sizes: tuple[int, int, int, int]) -> None:
    check_denoiser(sd35, sizes)


@pytest.mark.parametrize("sizes", GRIDS)
def test_the_plain_graph_without_dual_attention(sd3: Case, sizes: tuple[int, int, int, int]) -> None:
    check_denoiser(sd3, sizes)


def test_a_long_prompt_is_cut_by_each_encoder_with_a_warning(sd35: Case) -> None:
    prompt = "supercalifragilistic " * 30 + "and a dog"
    with pytest.warns(UserWarning, match="prompt: ") as caught:
        sd35.ours(prompt=prompt, num_inference_steps=1, height=4, width=4, output_type="latent")
    said = [str(warning.message) for warning in caught]
    for encoder, tokens in (("text_encoder", 77), ("text_encoder_2", 77), ("text_encoder_3", 256)):
        assert any(line.startswith(f"prompt: the {encoder} reads {tokens} tokens; left out: ") for line in said), said


def test_the_second_tokenizer_pads_with_an_exclamation_mark(sd35: Case) -> None:
    tokenizers = [
        json.loads((sd35.bundle.path / name / "tokenizer.json").read_text()) for name in ("tokenizer", "tokenizer_2")
    ]
    assert [one["padding"]["pad_token"] for one in tokenizers] == ["<|endoftext|>", "!"]
    assert [one["padding"]["strategy"] for one in tokenizers] == [{"Fixed": 77}] * 2


@needs_rtx
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_engines_are_built_without_a_gpu(sd35: Case, precision: str) -> None:
    record = rtx_engine(sd35.bundle, precision, minimum="1x8x8", maximum="2x24x44")
    assert set(record.components) == {*sd35.bundle.manifest.components, "solver"}
    for component, tokens in (("denoiser", 333), ("text_encoder_2", 77), ("text_encoder_3", 256)):
        (profile,) = record.components[component].profiles
        assert profile.sizes["sequence_length"] == SizeRange(minimum=tokens, optimum=tokens, maximum=tokens)
    assert record.components["denoiser"].profiles[0].sizes["patch_width"].maximum == families.POSITIONS


def test_linear_layers_of_the_blocks_are_quantised(sd35: Case) -> None:
    choice = choose_linears(load_graph(sd35.bundle.component_path("denoiser")).graph)
    names = [linear.name.removeprefix("transformer.") for linear in choice.chosen]
    # Four of each attention and two of each feed-forward; the last block makes nothing of the text.
    assert len(names) == 3 * 4 + 2 * 2 + (4 + 3) + 2 and not [one for one in names if "transformer_blocks" not in one]
    kept = {name.removeprefix("transformer.") for name in choice.kept}
    assert {"context_embedder", "proj_out", "norm_out.linear", "transformer_blocks.0.norm1.linear"} < kept


class TestBadInput:
    @pytest.mark.parametrize(
        "part",
        [
            *("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3"),
            *("vae", "transformer"),
        ],
    )
    def test_a_missing_part_is_named(self, sd35: Case, tmp_path: Path, part: str) -> None:
        check_missing_part(sd35.folder, tmp_path / "sd35", part)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"joint_attention_dim": 40}, "the weights do not fit"),
            ({"_class_name": "FluxTransformer2DModel"}, "holds a FluxTransformer2DModel; expected SD3Transformer2D"),
            ({"num_layers": 4}, "the weights do not fit their config.json: .*transformer_blocks"),
        ],
    )
    def test_another_transformer(self, sd35: Case, tmp_path: Path, fields: dict[str, Any], message: str) -> None:
        assert_refused(altered(sd35.folder, tmp_path / "sd35", "transformer/config.json", **fields), message)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"joint_attention_dim": 40}, "text_encoder and text_encoder_2 together make 96 channels"),
            ({"joint_attention_dim": 108}, "text_encoder_3 makes 100 channels, .* joint_attention_dim is 108"),
            ({"pooled_projection_dim": 25}, "together pool 24 channels, .* pooled_projection_dim is 25"),
            ({"out_channels": 8}, "16 channels in and 8 out"),
            ({"pos_embed_max_size": None}, "has no pos_embed_max_size"),
        ],
    )
    def test_parts_that_do_not_fit(self, sd35: Case, tmp_path: Path, options: dict[str, Any], message: str) -> None:
        folder = Path(shutil.copytree(sd35.folder, tmp_path / "sd35"))
        shutil.rmtree(folder / "transformer")
        families.transformer(**options).save_pretrained(folder / "transformer")
        assert_refused(folder, message)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"prompt": None}, "encoder_hidden_states: this bundle needs it, and none came; give a prompt"),
            ({"height": 48}, "height: 48 came, expected at most 44 pixels: this model's positions end at 11 patches"),
            ({"image": noise_picture(12, 60)}, "60 came, expected at most 44 pixels"),
            ({"height": 6}, "height: 6 came, expected a multiple of 4 pixels"),
            ({"skip_guidance_layers": [2]}, "skip_guidance_layers: 2 came, this bundle's denoiser has blocks 0 … 1"),
            ({"skip_guidance_layers": ["a"]}, "skip_guidance_layers: .*indices of blocks were expected"),
            ({"skip_guidance_layers": 1}, "skip_guidance_layers: 1 came, a list of blocks was expected"),
            ({"skip_guidance_layers": [0], "guidance_scale": 1.0}, "skip_guidance_layers: this run is not guided"),
            ({"skip_guidance_layers": [0], "skip_layer_guidance_stop": 2.0}, "0 <= start <= stop <= 1"),
            ({"skip_guidance_layers": [0], "skip_layer_guidance_scale": float("inf")}, "a finite number"),
        ],
    )
    def test_arguments(self, sd35: Case, arguments: dict[str, Any], message: str) -> None:
        assert_bad_input(sd35.ours, message, **{"prompt": "a", **arguments})
