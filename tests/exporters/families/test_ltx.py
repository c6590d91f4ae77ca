"""LTX-Video: our graphs and videos against diffusers' transformer, autoencoder and two pipelines, unmodified."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dit_deploy import Bundle
from dit_deploy.bundle import Tiling
from dit_deploy.exporters import autoencoder_ltx
from dit_deploy.exporters.families.ltx import Rotary
from dit_deploy.exporters.sources import open_source
from dit_deploy.runtimes.autoencoder import Compression, decode, encode
from dit_deploy.runtimes.tiling import Pieces
from dit_deploy.sampling import NoiseSource
from tests.families import ltx
from tests.families.checks import (
    GRAPH,
    LATENTS,
    altered,
    assert_bad_input,
    assert_drawn,
    assert_near,
    assert_refused,
    check_embeddings,
    check_missing_part,
    difference,
    noise_picture,
    seeded,
)
from tests.families.ltx_both import VAE_SIZES, Case, check_autoencoder, check_transformer, made
from tests.families.parity import GIVEN, PLAIN, check_parity

#: Exporting a whole pipeline takes half a minute.
pytestmark = pytest.mark.slow

PROMPTS = ["a photo of a small cat on a red sofa", "картина маслом: лиса в снегу, 高清细节"]
NEGATIVES = ["low quality, blurry", ""]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """0.9.0, whose rotary fills all channels."""
    return made(tmp_path_factory.mktemp("plain"), "0.9.0")


def compare(case: Case, seed: int = 7, **arguments: Any) -> None:
    """Draw with both pipelines, and compare latents and frames."""
    given = {"num_inference_steps": 4, **arguments}
    assert_drawn(case.ours(**given, seed=seed, output_type="numpy"), *case.draw(**given, generator=seeded(seed)))


@pytest.mark.parametrize(
    "sizes",
    [(1, 1, 1, 1, 1), (3, 1, 2, 5, 128), (1, 7, 3, 3, 9), (3, 5, 6, 2, 4), (1, 21, 16, 22, 3)],
    ids=lambda sizes: "x".join(map(str, sizes)),
)
def test_the_plain_graph_is_the_transformer(plain: Case, sizes: tuple[int, ...]) -> None:
    """At (batch, frames, height, width, tokens); the last grid is the pipelines' usual one."""
    check_transformer(plain, sizes)


@pytest.mark.parametrize("sizes", VAE_SIZES, ids=lambda sizes: "x".join(map(str, sizes)))
@pytest.mark.parametrize("name", ["vae_encoder", "vae_decoder", "image_conditions"])
def test_the_plain_graph_is_the_autoencoder(plain: Case, name: str, sizes: tuple[int, ...]) -> None:
    check_autoencoder(plain, name, sizes)


@pytest.mark.parametrize(
    "arguments",
    [
        {"prompt": PROMPTS[0], "num_frames": 9, "height": 32, "width": 64},
        {"prompt": PROMPTS[1], "negative_prompt": NEGATIVES[0], "guidance_scale": 5.0, "guidance_rescale": 0.4}
        | {"num_frames": 1, "height": 64, "width": 32, "frame_rate": 8},
        {"prompt": PROMPTS, "negative_prompt": NEGATIVES, "num_frames": 5, "height": 32, "width": 96},
        {"prompt": PROMPTS, "guidance_scale": 1.0, "num_frames": 21, "height": 32, "width": 32, "frame_rate": 30},
    ],
    ids=["usual", "one frame", "two prompts", "unguided"],
)
def test_videos_are_diffusers(plain: Case, arguments: dict[str, Any]) -> None:
    compare(plain, **arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"prompt": PROMPTS[0], "image": noise_picture(64, 96, 5), "num_frames": 13, "height": 64, "width": 96},
        {"prompt": PROMPTS, "negative_prompt": NEGATIVES, "image": noise_picture(32, 64, 5), "guidance_scale": 5.0}
        | {"num_frames": 5, "height": 32, "width": 64, "guidance_rescale": 0.4},
        {"prompt": PROMPTS, "guidance_scale": 1.0, "image": [noise_picture(32, 32, 5), noise_picture(32, 32, 6)]}
        | {"num_frames": 9, "height": 32, "width": 32, "frame_rate": 30},
    ],
    ids=["one", "one for two prompts", "two"],
)
def test_a_first_picture_is_continued_as_diffusers_does(plain: Case, arguments: dict[str, Any]) -> None:
    compare(plain, **arguments)


def test_a_picture_of_another_aspect_is_stretched_as_diffusers_does_and_that_is_said(plain: Case) -> None:
    with pytest.warns(UserWarning, match="a picture of 50×40 pixels was stretched to 32×64"):
        compare(plain, prompt=PROMPTS[0], image=noise_picture(40, 50, 5), num_frames=5, height=64, width=32)


def test_several_seeds_are_several_generators(plain: Case) -> None:
    arguments = {"prompt": PROMPTS, "num_frames": 5, "height": 32, "width": 32, "num_inference_steps": 3}
    for extra in ({}, {"image": [noise_picture(32, 32, 5), noise_picture(32, 32, 6)]}):
        generators = [seeded(seed) for seed in (3, 4)]
        expected, _ = plain.draw(**arguments, **extra, generator=generators)
        ours = plain.ours(**arguments, **extra, seed=[3, 4], output_type="latent")
        assert_near(ours.latents, expected, LATENTS)


def set_pieces(vae: Any, space: int, time: int) -> Tiling:
    """Let diffusers cut latents larger than 6 × 5 pixels and 3 frames; return the same for ours."""
    vae.enable_tiling(6 * space, 5 * space, 3 * time, 4 * space, 3 * space, 2 * time)
    return Tiling(tile_height=6, tile_width=5, stride_height=4, stride_width=3, tile_frames=3, stride_frames=2)


@pytest.fixture
def tiled(plain: Case) -> tuple[Any, Tiling]:
    vae = autoencoder_ltx._load(plain.folder / "vae")
    return vae, set_pieces(vae, vae.spatial_compression_ratio, vae.temporal_compression_ratio)


@torch.no_grad()
def theirs_decoded(vae: Any, latents: np.ndarray) -> np.ndarray:
    """Return frames [batch, frames, height, width, 3] in 0 … 1."""
    z = autoencoder_ltx._Normalisation(vae, vae.config.scaling_factor).back(torch.from_numpy(latents))
    return (vae.decode(z, return_dict=False)[0] / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 4, 1).numpy()


@pytest.mark.parametrize("size", [(3, 6, 9), (2, 11, 5), (1, 7, 8)], ids=str)
def test_large_frames_are_decoded_in_pieces(plain: Case, tiled: tuple[Any, Tiling], size: tuple[int, int, int]) -> None:
    vae, tiling = tiled
    latents = np.random.default_rng(2).standard_normal((2, ltx.CHANNELS, *size)).astype(np.float32)
    compression = Compression.of(plain.bundle.manifest)
    pool = plain.ours.pool("vae_decoder")
    expected = theirs_decoded(vae, latents)
    found, _ = decode(pool, latents, compression, Pieces.of(tiling))
    assert_near(found, expected, GRAPH)
    whole, _ = decode(pool, latents, compression)
    assert difference(whole, expected) > GRAPH


@torch.no_grad()
@pytest.mark.parametrize("size", [(3, 6, 9), (1, 11, 5)], ids=str)
def test_large_frames_are_encoded_in_pieces(plain: Case, tiled: tuple[Any, Tiling], size: tuple[int, int, int]) -> None:
    vae, tiling = tiled
    compression = Compression.of(plain.bundle.manifest)
    pixels = (1 + (size[0] - 1) * compression.time, size[1] * compression.space, size[2] * compression.space)
    images = np.random.default_rng(2).random((2, 3, *pixels)).astype(np.float32)
    posterior = vae.encode(torch.from_numpy(images) * 2 - 1).latent_dist
    normalise = autoencoder_ltx._Normalisation(vae, vae.config.scaling_factor)
    noise = NoiseSource(5).draw((2, ltx.CHANNELS, *size))
    expected = normalise(posterior.mean + posterior.std * torch.from_numpy(noise)).numpy()
    found, _ = encode(
        plain.ours.pool("vae_encoder"), images, (2, ltx.CHANNELS, *size), NoiseSource(5), Pieces.of(tiling), compression
    )
    assert_near(found, expected, GRAPH)


def test_long_videos_are_decoded_in_pieces_of_time(plain: Case, tiled: tuple[Any, Tiling]) -> None:
    """Pieces after the first begin one frame early, whose picture is dropped.

    ``AutoencoderKLLTXVideo`` drops the last picture instead, though its encoder drops the first frame, and those of
    HunyuanVideo and Wan do: with ``use_framewise_decoding``, which is off by default, what follows the first piece
    comes a frame late. With the right one dropped, its blending is the reference.
    """
    vae, tiling = tiled
    latents = np.random.default_rng(2).standard_normal((1, ltx.CHANNELS, 8, 7, 4)).astype(np.float32)
    compression = Compression.of(plain.bundle.manifest)
    found, _ = decode(plain.ours.pool("vae_decoder"), latents, compression, Pieces.of(tiling))
    vae.use_framewise_decoding = True
    late = theirs_decoded(vae, latents)
    assert late.shape == found.shape and difference(found, late) > 0.1

    stride, first = tiling.stride_frames, found[:, : compression.time * 2 + 1]
    assert stride == 2
    assert_near(first, late[:, : compression.time * 2 + 1], GRAPH)
    original = vae.decoder.forward

    def forward(z: torch.Tensor, temb: torch.Tensor | None = None) -> torch.Tensor:
        made = original(z, temb)
        return made if calls.pop(0) else torch.roll(made, -1, dims=2)  # so that the first is what is dropped

    # 8 frames begin pieces at 0, 2, 4 and 6; 7 rows begin pieces at 0 and 4, and 4 columns at 0 and 3.
    calls = [piece == 0 for piece in range(4) for _ in range(4)]
    vae.decoder.forward = forward
    expected = theirs_decoded(vae, latents)
    assert not calls
    assert_near(found, expected, GRAPH)


def test_each_of_several_prompts_keeps_its_own_mask(plain: Case) -> None:
    """diffusers repeats prompts one after the other and their masks in turn, so it masks by other prompts' lengths."""
    arguments = {"num_inference_steps": 2, "num_frames": 5, "height": 32, "width": 32, "guidance_scale": 1.0}
    several = plain.ours(prompt=PROMPTS, num_images_per_prompt=2, seed=[1, 2, 3, 4], output_type="latent", **arguments)
    for index, prompt in enumerate(PROMPTS):
        generators = [seeded(1 + 2 * index + one) for one in (0, 1)]
        # Two samples of one prompt have one mask, so those are the reference.
        expected, _ = plain.draw(prompt=prompt, num_videos_per_prompt=2, generator=generators, **arguments)
        assert_near(several.latents[2 * index : 2 * index + 2], expected, LATENTS)
    generators = [seeded(seed) for seed in (1, 2, 3, 4)]
    theirs, _ = plain.draw(prompt=PROMPTS, num_videos_per_prompt=2, generator=generators, **arguments)
    assert difference(several.latents, theirs) > LATENTS


@torch.no_grad()
def test_embeddings_are_the_pipelines(plain: Case) -> None:
    texts = [*PROMPTS, "", "cat " * 300]
    states, mask, _, _ = plain.theirs.encode_prompt(texts, do_classifier_free_guidance=False)
    check_embeddings(plain, texts, encoder_hidden_states=states, encoder_attention_mask=mask)


@pytest.mark.parametrize("frame_rate", [25.0, 8.0, 30.0])
def test_rotary_is_rounded_as_diffusers_rounds_it(frame_rate: float) -> None:
    """Angles go up to 15,708, whose last bit is a thousandth, and beyond: 4096 pixels are twice the base."""
    rope = ltx.make_transformer(heads=5).rope
    grid, compression = (21, 4, 128), (8, 32)
    ours = Rotary(rope, *compression)(*grid, torch.tensor([frame_rate]))
    theirs = rope(torch.zeros(1), *grid, (compression[0] / frame_rate, compression[1], compression[1]))
    for found, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_the_bundle_says_what_the_pipelines_do(plain: Case) -> None:
    manifest = Bundle.open(plain.bundle.path).manifest
    assert (manifest.family, manifest.guidance.default_scale, manifest.scheduler.num_inference_steps) == (
        "ltx",
        3.0,
        50,
    )
    latents = manifest.latents
    assert (latents.frames, latents.height, latents.width, latents.frame_rate) == (41, 64, 88, 25.0)
    assert manifest.tiling is not None and (manifest.tiling.tile_height, manifest.tiling.stride_frames) == (64, 2)


def test_a_folder_of_the_other_pipeline_is_the_same(plain: Case, tmp_path: Path) -> None:
    plain.image.save_pretrained(tmp_path / "image")
    first, second = open_source(plain.folder), open_source(tmp_path / "image")
    assert [graph.component for graph in first.graphs] == [graph.component for graph in second.graphs]


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"num_frames": 10}, "num_frames: 10 came, .* 1 more than a multiple of 4.; the nearest are 9 and 13"),
            ({"height": 20}, "height: 20 came, expected a multiple of 8 pixels; the nearest is"),
            ({"frame_rate": 0}, "frame_rate: 0 came"),
            ({"frame_rate": float("nan")}, "frame_rate: nan came"),
            ({"last_image": noise_picture(16, 16, 5)}, "last_image: came without an image"),
            (
                {"image": noise_picture(16, 16, 5), "last_image": noise_picture(16, 16, 5)},
                "last_image: this model takes a first picture only",
            ),
            ({"image": [noise_picture(16, 16, 5)] * 3}, "image: 3 pictures came, 1 or 1 expected"),
            ({"decode_timestep": 0.05}, "decode_timestep: this bundle's VAE decoder takes none"),
        ],
    )
    def test_arguments(self, plain: Case, arguments: dict[str, Any], message: str) -> None:
        given = {"height": 16, "width": 16, "num_frames": 5, **arguments}
        assert_bad_input(plain.ours, message, prompt="a", **given)

    @pytest.mark.parametrize("part", ["text_encoder", "tokenizer", "vae", "transformer"])
    def test_a_missing_part_is_named(self, plain: Case, tmp_path: Path, part: str) -> None:
        check_missing_part(plain.folder, tmp_path / "source", part)

    @pytest.mark.parametrize(
        ("part", "fields", "message"),
        [
            ("transformer", {"patch_size": 2}, "patches of 1 × 2 × 2; .* 1 × 1 × 1 are expected"),
            ("transformer", {"out_channels": 12}, "predicts 12 channels; expected 6"),
            ("transformer", {"cross_attention_dim": 24}, "cross_attention_dim 24; expected 42"),
            ("transformer", {"caption_channels": 24}, "makes 20 channels, .*transformer takes 24"),
            ("transformer", {"in_channels": 4, "out_channels": 4}, "6 latent channels, the denoiser 4"),
            ("transformer", {"_class_name": "DiT"}, "holds a DiT; expected LTXVideoTransformer3DModel"),
            ("vae", {"patch_size_t": 2}, "patch_size_t 2; expected 1"),
            ("vae", {"timestep_conditioning": True}, "which diffusers cannot run"),
            ("vae", {"_class_name": "AutoencoderKL"}, "holds a AutoencoderKL; expected AutoencoderKLLTXVideo"),
        ],
    )
    def test_parts_that_do_not_fit(
        self, plain: Case, tmp_path: Path, part: str, fields: dict[str, Any], message: str
    ) -> None:
        assert_refused(altered(plain.folder, tmp_path / "source", f"{part}/config.json", **fields), message)


def test_parity_of_the_bundle(plain: Case) -> None:
    """diffusers keeps its latents packed: its classes draw the frames, and refuse sides that are not of 32 pixels."""
    loop = "the loop of diffusers' pipelines, with its scheduler; its"
    drew = {PLAIN: f"{loop} LTXPipeline drew", GIVEN: f"{loop} LTXImageToVideoPipeline drew"}
    check_parity(plain.folder, plain.bundle, (5, 32, 64), drew)
    refused = {PLAIN: f"{loop} LTXPipeline refuses", GIVEN: f"{loop} LTXImageToVideoPipeline refuses"}
    check_parity(plain.folder, plain.bundle, (5, 48, 32), refused, seed=[3, 8])
