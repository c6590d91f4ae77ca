"""Latte: our graphs and videos against diffusers' transformer and pipeline, unmodified.

The pipeline runs with ``clean_caption=False``: cleaning captions is left to the caller here. Its transformer takes 1
frame or ``video_length``; for numbers between, it is made with that ``video_length``, of the same weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, LattePipeline

from dit_deploy import Bundle
from dit_deploy.runtimes.autoencoder import Compression, decode, pieces_of
from tests.families import latte
from tests.families.checks import (
    GRAPH,
    LATENTS,
    Case,
    altered,
    assert_bad_input,
    assert_drawn,
    assert_near,
    assert_refused,
    check_graph,
    check_missing_part,
    difference,
    draw,
    exported,
    graph_of,
    seeded,
)
from tests.families.parity import PLAIN, check_parity

#: Exporting a whole pipeline takes half a minute.
pytestmark = pytest.mark.slow

PROMPTS = ["  A Small cat, on a red SOFA", "ein Gemälde von einem Fuchs im Schnee, 1665"]
NEGATIVE = "low quality, Blurry, bad anatomy, extra fingers, watermark"


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("latte")
    return exported(latte.make_latte(folder / "source"), LattePipeline, folder / "bundle")


def reference(case: Case, frames: int, seed: int, **arguments: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return diffusers' latents, and frames [batch, frames, height, width, 3] in 0 … 1."""
    case.theirs.transformer = latte.make_transformer(frames=frames if frames > 1 else latte.FRAMES)
    return draw(case.theirs, video_length=frames, generator=seeded(seed), clean_caption=False, **arguments)


def compare(case: Case, frames: int = latte.FRAMES, **arguments: Any) -> None:
    """Draw with both pipelines, and compare latents and frames."""
    given = {"num_inference_steps": 4, **arguments}
    ours = case.ours(**given, num_frames=frames, seed=7, output_type="numpy")
    assert_drawn(ours, *reference(case, frames, 7, **given), contrast=0.03)


@pytest.mark.parametrize(
    "sizes",
    [(1, 1, 1, 1, 1), (3, 1, 2, 5, 120), (1, 7, 3, 3, 9), (3, 5, 6, 2, 4), (1, 7, 64, 64, 3), (2, 2, 1, 17, 1)],
    ids=lambda sizes: "x".join(map(str, sizes)),
)
def test_the_plain_graph_is_the_transformer(case: Case, sizes: tuple[int, ...]) -> None:
    """At (batch, frames, patch height, patch width, tokens) not traced, by ONNX Runtime alone; one is training's."""
    axes = ("batch", "patch_frames", "patch_height", "patch_width", "sequence_length")
    check_graph(case.bundle.component_path("denoiser"), graph_of(case.folder, "denoiser"), axes, [sizes])


@pytest.mark.parametrize(
    ("frames", "arguments"),
    [
        (7, {"prompt": PROMPTS[0], "height": 16, "width": 24}),
        (5, {"prompt": PROMPTS[1], "negative_prompt": NEGATIVE, "guidance_scale": 2.5, "height": 24, "width": 16}),
        (1, {"prompt": PROMPTS[0], "negative_prompt": NEGATIVE, "height": 8, "width": 40}),
        (2, {"prompt": PROMPTS, "negative_prompt": NEGATIVE, "height": 16, "width": 8}),
        (3, {"prompt": PROMPTS[1], "num_images_per_prompt": 2, "negative_prompt": NEGATIVE, "height": 8, "width": 16}),
        (7, {"prompt": PROMPTS, "guidance_scale": 1.0, "num_inference_steps": 7, "height": 8, "width": 8}),
        (4, {"prompt": "", "height": 8, "width": 8}),
    ],
    ids=["usual", "wide negative", "one frame", "two prompts", "two of one", "unguided", "empty"],
)
def test_videos_are_diffusers(case: Case, frames: int, arguments: dict[str, Any]) -> None:
    compare(case, frames, **arguments)


@pytest.mark.parametrize("variance", ["fixed_small", "learned_range"])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_the_variance_is_dropped_or_used_as_the_scheduler_says(case: Case, variance: str, scale: float) -> None:
    """A scheduler that takes a learned variance is handed a guided one, as all channels are guided alike."""
    before = case.theirs.scheduler
    case.theirs.scheduler = DDPMScheduler.from_config(before.config, variance_type=variance)
    arguments = {"prompt": PROMPTS[1], "num_inference_steps": 5, "height": 16, "width": 8, "guidance_scale": scale}
    try:
        latents, _ = reference(case, 3, 3, **arguments)
    finally:
        case.theirs.scheduler = before
    scheduler = {**case.bundle.scheduler_config(), "_class_name": "DDPMScheduler", "variance_type": variance}
    ours = case.ours(**arguments, num_frames=3, seed=3, scheduler=scheduler, output_type="latent")
    assert_near(ours.latents, latents, LATENTS)


def test_each_of_several_prompts_keeps_its_own_tokens(case: Case) -> None:
    """diffusers repeats prompts one after the other and their masks in turn, so it zeroes by other prompts' lengths."""
    arguments = {"num_inference_steps": 2, "height": 8, "width": 8, "negative_prompt": NEGATIVE}
    several = case.ours(prompt=PROMPTS, num_images_per_prompt=2, num_frames=2, seed=[1, 2, 3, 4], **arguments)
    # Two samples of one prompt are masked alike in diffusers, so those are the reference.
    for index, prompt in enumerate(PROMPTS):
        seeds = [1 + 2 * index, 2 + 2 * index]
        generators = [seeded(seed) for seed in seeds]
        case.theirs.transformer = latte.make_transformer(frames=2)
        options = {"video_length": 2, "clean_caption": False, "output_type": "latent", "num_images_per_prompt": 2}
        expected = case.theirs(prompt=prompt, generator=generators, **options, **arguments).frames.numpy()
        assert_near(several.latents[2 * index : 2 * index + 2], expected, LATENTS)
    generators = [seeded(seed) for seed in (1, 2, 3, 4)]
    theirs = case.theirs(prompt=PROMPTS, generator=generators, **options, **arguments).frames.numpy()
    assert difference(several.latents, theirs) > LATENTS


def test_a_long_prompt_is_cut_with_one_warning(case: Case) -> None:
    prompt = "a cat " * 80 + "and a dog"
    with pytest.warns(UserWarning, match="the text_encoder reads 120 tokens; left out: '.*a dog'") as caught:
        case.ours(prompt=prompt, num_frames=1, num_inference_steps=1, height=8, width=8, output_type="latent")
    assert len(caught) == 1


@torch.no_grad()
def test_a_large_frame_is_decoded_in_pieces(case: Case) -> None:
    latents = np.random.default_rng(2).standard_normal((1, latte.CHANNELS, 2, 12, 20)).astype(np.float32)
    vae = case.theirs.vae
    vae.enable_tiling()
    before = vae.tile_sample_min_size, vae.tile_latent_min_size
    vae.tile_sample_min_size, vae.tile_latent_min_size = 32, 8
    try:
        expected = case.theirs.decode_latents(torch.from_numpy(latents), 2)
    finally:
        vae.disable_tiling()
        vae.tile_sample_min_size, vae.tile_latent_min_size = before
    pieces = pieces_of(32, case.bundle.manifest)
    found, _ = decode(case.ours.pool("vae_decoder"), latents, Compression.of(case.bundle.manifest), pieces)
    picture = (expected / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 4, 1).numpy()
    assert found.shape == picture.shape and np.abs(found - picture).max() <= GRAPH


def test_the_bundle_says_what_the_pipeline_does(case: Case) -> None:
    manifest = Bundle.open(case.bundle.path).manifest
    assert (manifest.family, manifest.guidance.default_scale, manifest.scheduler.num_inference_steps) == (
        "latte",
        7.5,
        50,
    )
    assert manifest.prompts is not None and manifest.prompts.padding == "dropped"
    latents = manifest.latents
    assert (latents.frames, latents.height, latents.spatial_compression, latents.frame_rate) == (7, 128, 4, 8.0)
    assert [spec.name for spec in manifest.components["denoiser"].outputs] == ["prediction", "variance"]


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"num_frames": 8}, "num_frames: 8 came, which does not fit this model.*the nearest are 6 and 7"),
            ({"num_frames": 0}, "num_frames: 0 came.*the nearest are 1 and 2"),
            ({"num_frames": 2.0}, r"num_frames: 2\.0 came, an integer was expected"),
            ({"height": 12}, "height: 12 came, expected a multiple of 8 pixels; the nearest is"),
            ({"image": np.zeros((8, 8, 3), np.uint8)}, "image"),
        ],
    )
    def test_arguments(self, case: Case, arguments: dict[str, Any], message: str) -> None:
        assert_bad_input(case.ours, message, **{"prompt": "a", "height": 8, "width": 8, "num_frames": 1, **arguments})

    @pytest.mark.parametrize("part", ["text_encoder", "tokenizer", "vae", "transformer"])
    def test_a_missing_part_is_named(self, case: Case, tmp_path: Path, part: str) -> None:
        check_missing_part(case.folder, tmp_path / "source", part)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"norm_type": "layer_norm"}, "norm_type 'layer_norm'; only ada_norm_single knows the timestep"),
            ({"cross_attention_dim": None}, "no cross_attention_dim: it takes no text"),
            ({"out_channels": 3}, "predicts 3 channels; a LattePipeline drops half of them, so 6 are expected"),
            ({"caption_channels": 24}, "makes 20 channels, .*transformer takes 24"),
            ({"in_channels": 4, "out_channels": 8}, "3 latent channels, the denoiser 4; they do not belong together"),
            ({"video_length": 2}, "video_length 2; expected at least 4 frames"),
            ({"_class_name": "Transformer2DModel"}, "holds a Transformer2DModel; expected LatteTransformer3DModel"),
        ],
    )
    def test_a_transformer_that_does_not_fit(
        self, case: Case, tmp_path: Path, fields: dict[str, Any], message: str
    ) -> None:
        assert_refused(altered(case.folder, tmp_path / "source", "transformer/config.json", **fields), message)


def test_parity_of_the_bundle(case: Case) -> None:
    check_parity(case.folder, case.bundle, (latte.FRAMES, 32, 48), {PLAIN: "diffusers LattePipeline"})
