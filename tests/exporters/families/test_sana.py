"""Sana and its autoencoder against diffusers' transformer, ``AutoencoderDC`` and ``SanaPipeline``.

The pipeline runs with ``use_resolution_binning=False`` (choosing the nearest size of a list is left to the caller here)
and, by its own default, ``clean_caption=False``. diffusers has no image-to-image pipeline for Sana, only one for
Sana-Sprint, whose scheduler is another.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SanaPipeline
from diffusers.models.attention_processor import SanaMultiscaleLinearAttention

from dit_deploy import Bundle
from dit_deploy.exporters import autoencoder_dc
from dit_deploy.exporters.tracing import trace
from dit_deploy.runtimes.prompts import PromptReader
from tests.families import sana
from tests.families.checks import (
    EMBEDDINGS,
    LATENTS,
    Case,
    altered,
    assert_bad_input,
    assert_drawn,
    assert_near,
    assert_refused,
    check_graph,
    difference,
    draw,
    exported,
    graph_of,
    noise_picture,
    seeded,
)

#: Exporting a whole pipeline takes half a minute.
pytestmark = pytest.mark.slow

# The first two have as many tokens, which matters to diffusers; see test_several_pictures_of_different_prompts.
PROMPTS = ["  A Small cat, on a red SOFA", "a small cat, on a red sofa", "ein Gemälde von einem Fuchs im Schnee, 1665"]
NEGATIVE = "low quality, Blurry"
#: What the deep pipeline has and the small one has not: 32 pixels a latent pixel, and options of later models.
DEEP = {"qk_norm": "rms_norm_across_heads", "timestep_scale": 0.001, "interpolation_scale": 2.0, "sample_size": 4}


GRID = ("batch", "sequence_length", "patch_height", "patch_width")
LATENT = ("batch", "latent_height", "latent_width")


def made(base: Path, **options: Any) -> Case:
    return exported(sana.sana(base / "source", **options), SanaPipeline, base / "bundle")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return made(tmp_path_factory.mktemp("small"), num_layers=1)  # the deep one has two blocks


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return made(tmp_path_factory.mktemp("deep"), vae={"stages": 6}, **DEEP)


def reference(case: Case, seed: int, **arguments: Any) -> tuple[np.ndarray, np.ndarray]:
    return draw(case.theirs, generator=seeded(seed), use_resolution_binning=False, **arguments)


def compare(case: Case, *, their_prompt: Any = None, **arguments: Any) -> None:
    """Draw with both pipelines, and compare latents and pictures."""
    given = {"num_inference_steps": 4, **arguments}
    theirs = dict(given)
    if their_prompt is not None:
        theirs |= {"prompt": their_prompt, "num_images_per_prompt": 1}
    assert_drawn(case.ours(**given, seed=7, output_type="numpy"), *reference(case, 7, **theirs))


def check(case: Case, name: str, axes: tuple[str, ...], sizes: list[tuple[int, ...]]) -> None:
    """Hold a component's file against diffusers' network."""
    check_graph(case.bundle.component_path(name), graph_of(case.folder, name), axes, sizes, seed=0)


def test_the_plain_graph_is_the_transformer_at_any_size(small: Case) -> None:
    # One patch, and one token of text, too; the last is longer than any prompt.
    sizes: list[tuple[int, ...]] = [(1, 1, 1, 1), (3, 300, 2, 17), (1, 9, 13, 3), (3, 1, 1, 8), (2, 333, 16, 16)]
    check(small, "denoiser", GRID, sizes)


def test_the_plain_graph_of_later_models(deep: Case) -> None:
    # The fourth is the grid of training, for which diffusers has a table.
    sizes: list[tuple[int, ...]] = [(1, 1, 1, 1), (3, 300, 2, 17), (1, 9, 13, 3), (2, 31, 4, 4), (3, 1, 1, 8)]
    check(deep, "denoiser", GRID, sizes)


def test_patches_and_a_variance_that_is_dropped(tmp_path: Path) -> None:
    folder = sana.sana(tmp_path / "source", patch_size=2, out_channels=2 * sana.CHANNELS, sample_size=6)
    graph = graph_of(folder, "denoiser")
    trace(graph.build(), graph.component, tmp_path, graph.feeds)
    sizes: list[tuple[int, ...]] = [(1, 1, 1, 1), (3, 7, 2, 9), (2, 5, 6, 3)]
    check_graph(tmp_path / graph.component.path, graph, GRID, sizes, seed=0)


@pytest.fixture
def attended(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Which of its two ways of attending diffusers' autoencoder took."""
    taken: set[str] = set()

    def watch(name: str) -> None:
        original = getattr(SanaMultiscaleLinearAttention, f"apply_{name}_attention")

        def attend(self: Any, *arguments: torch.Tensor) -> torch.Tensor:
            taken.add(name)
            return original(self, *arguments)

        monkeypatch.setattr(SanaMultiscaleLinearAttention, f"apply_{name}_attention", attend)

    for name in ("linear", "quadratic"):
        watch(name)
    return taken


@pytest.mark.parametrize("half", ["vae_encoder", "vae_decoder"])
def test_the_autoencoder_on_both_sides_of_diffusers_choice(small: Case, attended: set[str], half: str) -> None:
    """A head has 12 channels: up to 12 latent pixels diffusers attends quadratically."""
    few: list[tuple[int, ...]] = [(1, 1, 1), (3, 1, 1), (1, 2, 1), (2, 3, 4), (1, 12, 1)]
    check(small, half, LATENT, few)
    assert attended == {"quadratic"}
    many: list[tuple[int, ...]] = [(1, 13, 1), (3, 2, 7), (1, 31, 9), (2, 1, 40)]
    attended.clear()
    check(small, half, LATENT, many)
    assert attended == {"linear"}


def test_the_autoencoder_with_32_pixels_a_latent_pixel(deep: Case) -> None:
    for half in ("vae_encoder", "vae_decoder"):
        check(deep, half, LATENT, [(1, 1, 1), (3, 2, 5), (1, 4, 4), (2, 3, 7)])
    assert deep.bundle.manifest.latents.spatial_compression == 32


def test_an_autoencoder_of_the_other_kinds_of_blocks(tmp_path: Path) -> None:
    """Pixel shuffles, batch norms in the decoder, two attending stages of other scales, no shortcuts."""
    vae = sana.autoencoder(
        stages=3,
        encoder_block_out_channels=(12, 12, 24),
        decoder_block_out_channels=(12, 12, 24),
        encoder_block_types=("ResBlock", "EfficientViTBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock", "EfficientViTBlock"),
        encoder_qkv_multiscales=((), (3,), ()),
        decoder_qkv_multiscales=((), (5,), (3, 5)),
        upsample_block_type="pixel_shuffle",
        downsample_block_type="pixel_unshuffle",
        decoder_norm_types="batch_norm",
        decoder_act_fns="relu",
        encoder_out_shortcut=False,
        decoder_in_shortcut=False,
    )
    vae.save_pretrained(tmp_path / "vae")
    for graph in autoencoder_dc.graphs(tmp_path / "vae", sana.CHANNELS, 8)[0]:
        trace(graph.build(), graph.component, tmp_path, graph.feeds)
        sizes: list[tuple[int, ...]] = [(1, 1, 1), (3, 2, 5), (1, 8, 8), (2, 3, 7)]
        check_graph(tmp_path / graph.component.path, graph, LATENT, sizes, seed=0)


@torch.no_grad()
def check_embeddings(case: Case) -> None:
    """Hold the conditions of both halves against ``encode_prompt`` with the pipeline's own instruction."""
    manifest = case.bundle.manifest
    assert manifest.prompts is not None
    instruction = manifest.prompts.encoders[0].prompt_template.removesuffix("{}").split("\n")
    encode = PromptReader(case.bundle, case.ours.pool)
    long = "a quick brown fox jumps over the lazy dog's back " * 40
    for text in (*PROMPTS, "", " ", "{} <bos> 猫🙂", long):
        prompt, mask, negative, negative_mask = case.theirs.encode_prompt(
            text, negative_prompt=NEGATIVE, complex_human_instruction=instruction
        )
        halves = ((encode([text]), prompt, mask), (encode([NEGATIVE], True), negative, negative_mask))
        for found, states, whole in halves:
            assert np.array_equal(found["encoder_attention_mask"], whole.numpy())
            assert found["encoder_hidden_states"].shape[1] == 300
            assert_near(found["encoder_hidden_states"], states.numpy(), EMBEDDINGS)
        _, _, long_negative, long_mask = case.theirs.encode_prompt("", negative_prompt=text)
        found = encode([text], True)
        assert np.array_equal(found["encoder_attention_mask"], long_mask.numpy())
        assert_near(found["encoder_hidden_states"], long_negative.numpy(), EMBEDDINGS)


@pytest.mark.filterwarnings("ignore:(negative_)?prompt. the text_encoder reads")
def test_embeddings_are_the_pipelines(small: Case) -> None:
    check_embeddings(small)


@pytest.mark.parametrize(
    "arguments",
    [
        {"prompt": PROMPTS[0], "height": 32, "width": 32},
        {"prompt": PROMPTS[2], "negative_prompt": NEGATIVE, "guidance_scale": 2.5, "height": 32, "width": 96},
        {"prompt": PROMPTS[1:], "negative_prompt": [NEGATIVE, "text"], "height": 64, "width": 32},
        {"prompt": PROMPTS[:2], "num_images_per_prompt": 2, "guidance_scale": 1.0, "height": 32, "width": 64},
    ],
    ids=["default", "wide", "several", "unguided"],
)
def test_the_small_pipeline_draws_what_diffusers_draws(small: Case, arguments: dict[str, Any]) -> None:
    compare(small, **arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"prompt": PROMPTS[0], "height": 128, "width": 128, "num_inference_steps": 20},
        {"prompt": PROMPTS[2], "negative_prompt": NEGATIVE, "guidance_scale": 2.5, "height": 64, "width": 224},
        {"prompt": PROMPTS[1:], "negative_prompt": NEGATIVE, "height": 160, "width": 32},
        {"prompt": PROMPTS, "guidance_scale": 1.0, "num_inference_steps": 7, "height": 32, "width": 32},
    ],
    ids=["default", "wide", "several", "unguided"],
)
def test_the_deep_pipeline_draws_what_diffusers_draws(deep: Case, arguments: dict[str, Any]) -> None:
    compare(deep, **arguments)


def test_several_pictures_of_different_prompts(small: Case) -> None:
    """diffusers repeats masks as a, b, a, b beside embeddings a, a, b, b, so texts of other lengths get wrong masks.

    A picture must not depend on how many are drawn; so ours is what diffusers draws of the prompts written out.
    """
    masks = small.theirs.encode_prompt([PROMPTS[0], "a"], num_images_per_prompt=2)[1]
    assert torch.equal(masks[0], masks[2]) and not torch.equal(masks[0], masks[1])
    two = [PROMPTS[0], PROMPTS[2]]
    options = {"negative_prompt": NEGATIVE, "num_images_per_prompt": 2, "height": 32, "width": 64}
    compare(small, prompt=two, their_prompt=[two[0], two[0], two[1], two[1]], **options)


def test_another_flow_scheduler(small: Case) -> None:
    before = small.theirs.scheduler
    small.theirs.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    try:
        arguments = {"prompt": PROMPTS[1], "num_inference_steps": 5, "height": 32, "width": 64}
        latents, _ = reference(small, 3, **arguments)
        config = {"_class_name": "FlowMatchEulerDiscreteScheduler", **small.theirs.scheduler.config}
    finally:
        small.theirs.scheduler = before
    ours = small.ours(**arguments, seed=3, scheduler=config, output_type="latent")
    assert_near(ours.latents, latents, LATENTS)


@torch.no_grad()
def test_a_picture_is_redrawn_as_diffusers_other_pipelines_do(small: Case) -> None:
    """Their loop around Sana's parts; the autoencoder is deterministic, so that the seed's first draw is the noise."""
    theirs, generator, steps, strength = small.theirs, seeded(11), 6, 0.6
    start = noise_picture(64, 96, seed=5)
    prompts = small.bundle.manifest.prompts
    assert prompts is not None
    instruction = [prompts.encoders[0].prompt_template.removesuffix("{}")]
    states, mask, negative, negative_mask = theirs.encode_prompt(PROMPTS[0], complex_human_instruction=instruction)
    states, mask = torch.cat([negative, states]), torch.cat([negative_mask, mask])
    pixels = torch.from_numpy(np.array(start)).permute(2, 0, 1)[None].float() / 127.5 - 1
    latents = theirs.vae.encode(pixels).latent * theirs.vae.config.scaling_factor
    scheduler = type(theirs.scheduler).from_config(theirs.scheduler.config)
    scheduler.set_timesteps(steps)
    begin = max(steps - min(int(steps * strength), steps), 0)
    timesteps = scheduler.timesteps[begin:]
    scheduler.set_begin_index(begin)
    latents = scheduler.add_noise(latents, torch.randn(latents.shape, generator=generator), timesteps[:1])
    for timestep in timesteps:
        unguided, guided = theirs.transformer(
            torch.cat([latents] * 2),
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            timestep=timestep[None].expand(2) * theirs.transformer.config.timestep_scale,
            return_dict=False,
        )[0].chunk(2)
        latents = scheduler.step(unguided + 4.5 * (guided - unguided), timestep, latents, return_dict=False)[0]
    ours = small.ours(prompt=PROMPTS[0], image=start, num_inference_steps=steps, strength=strength, seed=11)
    assert_near(ours.latents, latents.numpy(), LATENTS)


def test_texts_and_their_masks_matter(small: Case) -> None:
    """What the comparisons above would not see if the tiny network ignored its text."""
    options: dict[str, Any] = {"num_inference_steps": 2, "seed": 0, "height": 32, "width": 32, "output_type": "latent"}
    first, second, third = (
        small.ours(prompt=prompt, negative_prompt=negative, **options).latents
        for prompt, negative in ((PROMPTS[0], ""), (PROMPTS[2], ""), (PROMPTS[0], NEGATIVE))
    )
    assert difference(second, first) > 1e-2 and difference(third, first) > 1e-2


def test_a_long_prompt_is_cut_and_what_was_cut_is_said(small: Case) -> None:
    with pytest.warns(UserWarning, match=r"prompt: the text_encoder reads \d+ tokens; left out: .*the end"):
        small.ours(prompt="a cat " * 160 + "the end", num_inference_steps=1, seed=0, output_type="latent")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"height": 33}, "height: 33 came, expected a multiple of 2 pixels"),
        ({"class_labels": 3}, "class_labels: this bundle's denoiser takes none"),
        ({"prompt": None}, "encoder_hidden_states: this bundle needs it, and none came; give a prompt"),
        ({"negative_prompt": ["a", "b", "c"]}, "negative_prompt: 3 came for 1 prompts"),
        ({"scheduler": "DDIMScheduler"}, "DDIMScheduler: prediction_type='flow_prediction' is not supported"),
        ({"true_cfg_scale": 3.0}, "use guidance_scale"),
    ],
)
def test_bad_input_is_one_line(small: Case, arguments: dict[str, Any], message: str) -> None:
    assert_bad_input(small.ours, message, **{"prompt": "a cat", **arguments})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sana.sana(tmp_path_factory.mktemp("saved") / "source")


@pytest.mark.parametrize(
    ("file", "fields", "message"),
    [
        ("transformer/config.json", {"_class_name": "UNet2DModel"}, "holds a UNet2DModel; expected SanaTransformer"),
        ("transformer/config.json", {"num_layers": 3}, "the weights do not fit their config.json"),
        ("vae/config.json", {"_class_name": "AutoencoderKL"}, "holds a AutoencoderKL; expected AutoencoderDC"),
        ("vae/config.json", {"shift_factor": 0.1}, "has a shift_factor, which AutoencoderDC does not apply"),
        ("scheduler/scheduler_config.json", {"prediction_type": "score"}, "prediction_type 'score' .* is none of"),
    ],
)
def test_a_folder_that_cannot_be_exported(
    saved: Path, tmp_path: Path, file: str, fields: dict[str, Any], message: str
) -> None:
    assert_refused(altered(saved, tmp_path / "altered", file, **fields), message)


@pytest.mark.parametrize(
    ("part", "make", "message"),
    [
        ("transformer", lambda: sana.transformer(text_width=24), r"makes 30 channels, .*transformer takes 24"),
        ("transformer", lambda: sana.transformer(guidance_embeds=True), "embeds its guidance, as SanaSprintPipeline's"),
        ("transformer", lambda: sana.transformer(out_channels=6), "predicts 6 channels; expected 4, or 8"),
        ("vae", lambda: sana.autoencoder(latent_channels=6), "has 6 latent channels, the denoiser 4"),
    ],
    ids=["text", "guidance", "channels", "vae"],
)
def test_parts_that_do_not_belong_together(
    saved: Path, tmp_path: Path, part: str, make: Callable[[], Any], message: str
) -> None:
    folder = tmp_path / "other"
    shutil.copytree(saved, folder)
    make().save_pretrained(folder / part)
    assert_refused(folder, message)


def test_the_bundle_says_what_the_pipeline_does(small: Case) -> None:
    manifest = Bundle.open(small.bundle.path).manifest
    assert (manifest.family, manifest.guidance.default_scale, manifest.scheduler.num_inference_steps) == (
        "sana",
        4.5,
        20,
    )
    assert (manifest.prediction.type, manifest.latents.spatial_compression) == ("flow_prediction", 2)
    assert [spec.name for spec in manifest.components["vae_encoder"].outputs] == ["mean"]
    assert manifest.prompts is not None
    (encoder,) = manifest.prompts.encoders
    assert encoder.prompt_template.startswith("Given a user prompt, generate an 'Enhanced prompt'")
    assert encoder.prompt_template.endswith("User Prompt: {}") and encoder.negative_template == "{}"
