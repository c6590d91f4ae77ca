"""Tiled encoding and decoding against diffusers' own, on the same VAE."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from dit_deploy import Bundle, Pipeline
from dit_deploy.errors import InputError
from dit_deploy.runtimes.autoencoder import Compression, decode, encode, pieces_of
from dit_deploy.runtimes.tiling import grid, square
from dit_deploy.sampling import NoiseSource

COMPRESSION = 4


@pytest.fixture(scope="module")
def pipe(tiny_bundle: Path) -> Pipeline:
    return Pipeline(Bundle.open(tiny_bundle), threads=1)


@pytest.fixture(scope="module")
def vae(tiny_source: Path) -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(tiny_source / "vae").eval()


def tiled(vae: AutoencoderKL, tile: int) -> AutoencoderKL:
    vae.enable_tiling()
    vae.tile_latent_min_size, vae.tile_sample_min_size = tile, tile * COMPRESSION
    return vae


@pytest.mark.parametrize(("height", "width", "tile"), [(20, 28, 8), (9, 31, 8), (16, 16, 12), (40, 12, 16), (8, 8, 8)])
def test_decoding_is_that_of_diffusers(pipe: Pipeline, vae: AutoencoderKL, height: int, width: int, tile: int) -> None:
    # Wide enough that the pictures leave 0 … 1, where clipping before blending would show.
    latents = 3 * np.random.default_rng(0).standard_normal((2, 6, height, width)).astype(np.float32)
    with torch.no_grad():
        decoded = tiled(vae, tile).decode(torch.from_numpy(latents) / vae.config.scaling_factor).sample
    expected = (decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    pictures, seconds = decode(pipe.pool("vae_decoder"), latents, Compression(COMPRESSION), square(tile))
    assert np.abs(pictures - expected).max() < 1 / 255 / 10
    assert seconds > 0
    whole = decode(pipe.pool("vae_decoder"), latents, Compression(COMPRESSION))[0]
    assert (np.abs(pictures - whole).max() > 1e-3) == (max(height, width) > tile)


@pytest.mark.parametrize(("height", "width", "tile"), [(20, 28, 8), (9, 31, 8), (8, 8, 8)])
def test_encoding_is_that_of_diffusers(pipe: Pipeline, vae: AutoencoderKL, height: int, width: int, tile: int) -> None:
    images = np.random.default_rng(1).random((1, 3, height * COMPRESSION, width * COMPRESSION), np.float32)
    with torch.no_grad():
        posterior = tiled(vae, tile).encode(torch.from_numpy(images) * 2 - 1).latent_dist
    noise = NoiseSource(3).draw((1, 6, height, width))
    expected = (posterior.mean.numpy() + posterior.std.numpy() * noise) * vae.config.scaling_factor
    latents, _ = encode(pipe.pool("vae_encoder"), images, expected.shape, NoiseSource(3), square(tile))
    assert np.abs(latents - expected).max() < 1e-4 * np.abs(expected).max()


def test_pieces_cover_the_grid_and_overlap_by_a_quarter() -> None:
    rows = [[(down.start, across.start) for down, across in row] for row in grid(20, 10, square(8))]
    assert [row[0][0] for row in rows] == [0, 6, 12, 18]
    assert [across for _, across in rows[0]] == [0, 6]


def test_the_pipeline_takes_pixels(pipe: Pipeline) -> None:
    request = {
        "class_labels": 1,
        "num_inference_steps": 2,
        "seed": 0,
        "height": 128,
        "width": 64,
        "output_type": "numpy",
    }
    whole, parts = pipe(**request), pipe(**request, vae_tile=48)
    np.testing.assert_array_equal(whole.latents, parts.latents)
    assert np.abs(np.asarray(whole.images) - np.asarray(parts.images)).max() > 0


@pytest.mark.parametrize("bad", [0, -16, 8, 20, 16.0, True, "64"])
def test_a_size_of_pieces_that_is_none(pipe: Pipeline, bad: object) -> None:
    with pytest.raises(InputError, match=r"vae_tile: .* came, expected a multiple of 16 pixels, or None"):
        pieces_of(bad, pipe.bundle.manifest)


def test_a_model_without_pieces_of_its_own(pipe: Pipeline) -> None:
    with pytest.raises(InputError, match="has no pieces of its own; give a multiple of 16 pixels"):
        pieces_of("model", pipe.bundle.manifest)
