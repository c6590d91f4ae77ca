"""PixArt-α and PixArt-Σ against diffusers' transformer and its two pipelines, from one bundle each.

The pipelines run with ``clean_caption=False`` and ``use_resolution_binning=False``: cleaning captions and choosing the
nearest size of a list are left to the caller here.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, PixArtAlphaPipeline, PixArtSigmaPipeline
from PIL import Image

from dit_deploy import Bundle
from dit_deploy.errors import SourceError
from dit_deploy.exporters.sources import open_source
from dit_deploy.exporters.tracing import trace
from tests.families import pixart
from tests.families.checks import (
    LATENTS,
    Case,
    altered,
    assert_bad_input,
    assert_drawn,
    assert_near,
    assert_refused,
    check_embeddings,
    check_graph,
    draw,
    exported,
    graph_of,
    needs_rtx,
    noise_picture,
    rtx_engine,
    seeded,
)

#: Exporting a whole pipeline takes half a minute.
pytestmark = pytest.mark.slow

PROMPTS = ["  A Small cat, on a red SOFA", "ein Gemälde von einem Fuchs im Schnee, 1665"]
NEGATIVE = "low quality, Blurry"


#: What the pipelines do unasked and ours does not, and sizes of the denoiser.
AS_GIVEN = {"clean_caption": False, "use_resolution_binning": False}
GRID = ("batch", "sequence_length", "patch_height", "patch_width")


@pytest.fixture(scope="module")
def sigma(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("sigma")
    return exported(pixart.sigma(folder / "source"), PixArtSigmaPipeline, folder / "bundle")


@pytest.fixture(scope="module")
def alpha(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("alpha")
    return exported(pixart.alpha(folder / "source"), PixArtAlphaPipeline, folder / "bundle")


def compare(case: Case, **arguments: Any) -> None:
    """Draw with both pipelines, and compare latents and pictures."""
    given = {"num_inference_steps": 4, **arguments}
    drawn = draw(case.theirs, generator=seeded(7), **given, **AS_GIVEN)
    assert_drawn(case.ours(**given, seed=7, output_type="numpy"), *drawn)


def test_sigmas_plain_graph_is_the_transformer_at_any_size(sigma: Case) -> None:
    # The fourth is the grid of training, for which diffusers has a table; one patch, and one token of text, too.
    sizes = [(1, 1, 1, 1), (3, 300, 2, 17), (1, 9, 13, 3), (2, 31, 6, 6), (3, 1, 1, 8)]
    check_graph(sigma.bundle.component_path("denoiser"), graph_of(sigma.folder, "denoiser"), GRID, sizes, seed=0)


def test_alphas_plain_graph_is_the_transformer_at_any_size(alpha: Case) -> None:
    sizes = [(1, 1, 1, 1), (3, 120, 2, 17), (1, 9, 13, 3), (2, 31, 32, 32), (3, 1, 1, 48)]
    check_graph(alpha.bundle.component_path("denoiser"), graph_of(alpha.folder, "denoiser"), GRID, sizes, seed=0)
    assert [spec.name for spec in alpha.bundle.component("denoiser").outputs] == ["prediction", "variance"]


def check_both_halves(case: Case, tokens: int) -> None:
    """Hold the conditions of a prompt, and of a negative one, against ``encode_prompt``."""
    long = "a quick brown fox jumps over the lazy dog's back " * 40
    for text in (*PROMPTS, "", " ", long):
        with torch.no_grad():
            prompt, mask, negative, negative_mask = case.theirs.encode_prompt(
                text, negative_prompt=NEGATIVE, clean_caption=False, max_sequence_length=tokens
            )
        check_embeddings(case, [text], encoder_hidden_states=prompt, encoder_attention_mask=mask)
        check_embeddings(case, [NEGATIVE], encoder_hidden_states=negative, encoder_attention_mask=negative_mask)


def test_sigmas_embeddings_are_the_pipelines(sigma: Case) -> None:
    check_both_halves(sigma, 300)


def test_alphas_embeddings_are_the_pipelines(alpha: Case) -> None:
    check_both_halves(alpha, 120)


@pytest.mark.parametrize(
    "arguments",
    [
        {"prompt": PROMPTS[0]},
        {"prompt": PROMPTS[0], "negative_prompt": NEGATIVE, "guidance_scale": 2.5, "height": 32, "width": 56},
        {"prompt": PROMPTS, "negative_prompt": NEGATIVE, "num_images_per_prompt": 2, "height": 64, "width": 24},
        {"prompt": PROMPTS, "guidance_scale": 1.0, "num_inference_steps": 7, "height": 8, "width": 8},
    ],
    ids=["default", "wide", "several", "unguided"],
)
def test_sigma_draws_what_diffusers_draws(sigma: Case, arguments: dict[str, Any]) -> None:
    compare(sigma, **arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"prompt": PROMPTS[0], "num_inference_steps": 2},
        {"prompt": PROMPTS[0], "negative_prompt": NEGATIVE, "guidance_scale": 2.5, "height": 32, "width": 112},
        {"prompt": PROMPTS, "negative_prompt": NEGATIVE, "num_images_per_prompt": 2, "height": 64, "width": 48},
        {"prompt": PROMPTS, "guidance_scale": 1.0, "num_inference_steps": 7, "height": 16, "width": 16},
    ],
    ids=["default", "wide", "several", "unguided"],
)
def test_alpha_draws_what_diffusers_draws(alpha: Case, arguments: dict[str, Any]) -> None:
    compare(alpha, **arguments)


def test_a_scheduler_that_draws_noise_drops_the_variance_as_the_pipeline_does(alpha: Case) -> None:
    before = alpha.theirs.scheduler
    alpha.theirs.scheduler = DDPMScheduler.from_config(before.config)
    try:
        arguments = {"prompt": PROMPTS[1], "num_inference_steps": 5, "height": 48, "width": 80}
        latents, _ = draw(alpha.theirs, generator=seeded(3), **arguments, **AS_GIVEN)
    finally:
        alpha.theirs.scheduler = before
    ours = alpha.ours(**arguments, seed=3, scheduler="DDPMScheduler", output_type="latent")
    assert_near(ours.latents, latents, LATENTS)


def image_to_image(case: Case, picture: Image.Image, *, steps: int, strength: float, scale: float, seed: int) -> Any:
    """Return the latents of the loop of diffusers' image-to-image pipelines around PixArt's transformer.

    diffusers has no such pipeline for PixArt; its others draw the posterior, then the noise, from one generator.
    """
    theirs, generator = case.theirs, seeded(seed)
    states, mask, negative, negative_mask = theirs.encode_prompt(PROMPTS[0], clean_caption=False)
    states, mask = torch.cat([negative, states]), torch.cat([negative_mask, mask])
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1
    posterior = theirs.vae.encode(pixels).latent_dist
    latents = posterior.sample(generator) * theirs.vae.config.scaling_factor
    scheduler = type(theirs.scheduler).from_config(theirs.scheduler.config)
    scheduler.set_timesteps(steps)
    begin = max(steps - min(int(steps * strength), steps), 0)
    timesteps = scheduler.timesteps[begin * scheduler.order :]
    scheduler.set_begin_index(begin * scheduler.order)
    latents = scheduler.add_noise(latents, torch.randn(latents.shape, generator=generator), timesteps[:1])
    sizes: dict[str, Any] = {"resolution": None, "aspect_ratio": None}
    if theirs.transformer.use_additional_conditions:
        height, width = pixels.shape[2:]
        sizes["resolution"] = torch.tensor([[height, width]] * 2).float()
        sizes["aspect_ratio"] = torch.tensor([[height / width]] * 2)
    for timestep in timesteps:
        output = theirs.transformer(
            torch.cat([latents] * 2),
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            timestep=timestep[None].expand(2),
            added_cond_kwargs=sizes,
            return_dict=False,
        )[0]
        unguided, guided = output[:, : latents.shape[1]].chunk(2)
        prediction = unguided + scale * (guided - unguided)
        latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
    return latents.numpy()


@torch.no_grad()
def compare_image_to_image(case: Case, start: Image.Image) -> None:
    options = {"strength": 0.6, "seed": 11}
    expected = image_to_image(case, start, steps=6, scale=4.5, **options)  # type: ignore[arg-type]
    ours = case.ours(prompt=PROMPTS[0], image=start, num_inference_steps=6, **options)
    assert_near(ours.latents, expected, LATENTS)


def test_sigma_redraws_a_picture_as_diffusers_other_pipelines_do(sigma: Case) -> None:
    compare_image_to_image(sigma, noise_picture(40, 56, seed=5))


def test_alpha_redraws_a_picture_as_diffusers_other_pipelines_do(alpha: Case) -> None:
    compare_image_to_image(alpha, noise_picture(64, 96, seed=5))


@needs_rtx
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_engines_are_built_without_a_gpu(alpha: Case, precision: str) -> None:
    record = rtx_engine(alpha.bundle, precision)
    # Sizes in pixels and the timestep go into sines and cosines in FP32: 1024 radians in FP16 are off by half of one.
    assert any("angles" in why for why in record.components["denoiser"].kept.values())


def test_a_long_prompt_is_cut_and_what_was_cut_is_said(sigma: Case) -> None:
    with pytest.warns(UserWarning, match=r"prompt: the text_encoder reads 300 tokens; left out: .*the end"):
        sigma.ours(prompt="a cat " * 130 + "the end", num_inference_steps=1, seed=0, output_type="latent")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"height": 36}, "height: 36 came, expected a multiple of 8 pixels"),
        ({"class_labels": 3}, "class_labels: this bundle's denoiser takes none"),
        ({"prompt": None}, "encoder_hidden_states: this bundle needs it, and none came; give a prompt"),
        ({"negative_prompt": ["a", "b", "c"]}, "negative_prompt: 3 came for 1 prompts"),
        ({"true_cfg_scale": 3.0}, "use guidance_scale"),
    ],
)
def test_bad_input_is_one_line(sigma: Case, arguments: dict[str, Any], message: str) -> None:
    assert_bad_input(sigma.ours, message, **{"prompt": "a cat", **arguments})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pixart.sigma(tmp_path_factory.mktemp("saved") / "source")


def test_the_transformers_former_class_is_known(saved: Path, tmp_path: Path) -> None:
    # The official folders name it, and have options of the class that it was.
    folder = altered(
        saved,
        tmp_path / "former",
        "transformer/config.json",
        _class_name="Transformer2DModel",
        only_cross_attention=False,
        num_vector_embeds=None,
        use_linear_projection=False,
    )
    assert open_source(folder).family == "pixart"


@pytest.mark.parametrize(
    ("file", "fields", "message"),
    [
        ("transformer/config.json", {"_class_name": "UNet2DModel"}, "holds a UNet2DModel; expected PixArtTransformer"),
        ("transformer/config.json", {"out_channels": 6}, "predicts 6 channels; expected 4, or 8 with learned variance"),
        ("transformer/config.json", {"cross_attention_dim": None}, "cross_attention_dim"),
        ("vae/config.json", {"shift_factor": 0.1}, "shift_factor 0.1, which PixArt's pipelines do not apply"),
        ("scheduler/scheduler_config.json", {"prediction_type": "score"}, "prediction_type 'score' .* is none of"),
    ],
)
def test_a_folder_that_cannot_be_exported(
    saved: Path, tmp_path: Path, file: str, fields: dict[str, Any], message: str
) -> None:
    assert_refused(altered(saved, tmp_path / "altered", file, **fields), message)


def test_weights_that_do_not_fit_are_found_when_they_are_loaded(saved: Path, tmp_path: Path) -> None:
    graph = graph_of(altered(saved, tmp_path / "deeper", "transformer/config.json", num_layers=3), "denoiser")
    with pytest.raises(SourceError, match=r"the weights do not fit their config\.json"):
        graph.build()


def test_a_text_encoder_of_another_width(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(saved, folder)
    pixart.transformer(text_width=24).save_pretrained(folder / "transformer")
    assert_refused(folder, r"makes 20 channels, .*transformer takes 24")


def test_size_conditions_may_be_asked_for_at_any_training_size(tmp_path: Path) -> None:
    """diffusers' pipelines give them at 128 latent pixels only, and fail with such a model; its transformer works."""
    folder = pixart.sigma(tmp_path / "source", use_additional_conditions=True)
    graph = graph_of(folder, "denoiser")
    trace(graph.build(), graph.component, tmp_path, graph.feeds)
    check_graph(tmp_path / graph.component.path, graph, GRID, [(1, 1, 1, 1), (3, 7, 2, 9), (2, 5, 6, 6)], seed=0)


def test_the_bundle_says_what_the_pipelines_do(sigma: Case) -> None:
    manifest = Bundle.open(sigma.bundle.path).manifest
    assert (manifest.family, manifest.guidance.default_scale, manifest.scheduler.num_inference_steps) == (
        "pixart",
        4.5,
        20,
    )
    assert manifest.prompts is not None and manifest.prompts.negative == ""
    assert (manifest.latents.height, manifest.latents.spatial_compression) == (12, 4)
