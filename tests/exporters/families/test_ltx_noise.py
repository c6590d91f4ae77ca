"""LTX-Video 0.9.1 and 0.9.5, whose decoders take a timestep and noise, against diffusers, unmodified."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dit_deploy.exporters import autoencoder_ltx
from dit_deploy.exporters.tracing import trace
from dit_deploy.sampling import NoiseSource
from tests.families import ltx
from tests.families.checks import assert_bad_input, assert_drawn, check_graph, noise_picture, seeded
from tests.families.ltx_both import VAE_SIZES, Case, check_autoencoder, check_transformer, made
from tests.families.parity import GIVEN, PLAIN, check_parity

#: As the other file of this family: exporting a whole pipeline takes half a minute.
pytestmark = pytest.mark.slow

PROMPTS = ["a photo of a small cat on a red sofa", "картина маслом: лиса в снегу, 高清细节"]
NEGATIVES = ["low quality, blurry", ""]
#: What 0.9.1 is asked for in its model card: a decoder that takes a little noise away.
DECODING = {"decode_timestep": 0.05, "decode_noise_scale": 0.025}


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """0.9.1, whose decoder takes noise, with four channels that rotary leaves alone."""
    return made(tmp_path_factory.mktemp("noisy"), "0.9.1", heads=5)


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1), (3, 1, 2, 5, 128), (3, 5, 6, 2, 4)], ids=str)
def test_the_plain_graph_is_the_transformer(noisy: Case, sizes: tuple[int, ...]) -> None:
    check_transformer(noisy, sizes)


@pytest.mark.parametrize("sizes", VAE_SIZES, ids=str)
@pytest.mark.parametrize("name", ["vae_encoder", "vae_decoder", "image_conditions"])
def test_the_plain_graph_is_the_autoencoder(noisy: Case, name: str, sizes: tuple[int, ...]) -> None:
    check_autoencoder(noisy, name, sizes)


@pytest.mark.parametrize("name", ["vae_encoder", "vae_decoder"])
def test_the_later_autoencoder_too(tmp_path: Path, name: str) -> None:
    """0.9.5: an encoder that goes down in space, in time and in both, with residuals."""
    ltx.make_autoencoder("0.9.5").save_pretrained(tmp_path / "vae")
    halves = autoencoder_ltx.halves(
        tmp_path / "vae", ltx.CHANNELS, {"latent_frames": 2, "latent_height": 2, "latent_width": 2}
    )
    assert (halves.spatial, halves.temporal) == (16, 8)
    (graph,) = (one for one in halves.graphs if one.name == name)
    trace(graph.build(), graph.component, tmp_path, graph.feeds)
    axes = ("batch", "latent_frames", "latent_height", "latent_width")
    check_graph(tmp_path / graph.component.path, graph, axes, VAE_SIZES, seed=7)


@contextmanager
def noise_of_layers(decoder_noise: np.ndarray) -> Iterator[None]:
    """Let what 0.9.1's layers draw from torch's global generator, and that alone, be ``decoder_noise``."""
    original, numbers, done = torch.randn, torch.from_numpy(decoder_noise).flatten(), 0

    def randn(*size: Any, generator: torch.Generator | None = None, **options: Any) -> torch.Tensor:
        nonlocal done
        if generator is not None:
            return original(*size, generator=generator, **options)
        shape = tuple(size[0])
        done += (count := int(np.prod(shape)))
        return numbers[done - count : done].reshape(shape)

    torch.randn = randn  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.randn = original
    assert done == len(numbers)


@pytest.mark.parametrize(
    "arguments",
    [
        {"prompt": PROMPTS[0], "num_frames": 9, "height": 32, "width": 64, **DECODING},
        {"prompt": PROMPTS, "negative_prompt": NEGATIVES, "num_frames": 5, "height": 64, "width": 32}
        | {"decode_timestep": 0.3},
        {"prompt": PROMPTS[1], "num_frames": 1, "height": 32, "width": 32},
        {
            "prompt": PROMPTS[1],
            "image": noise_picture(32, 64, 5),
            "num_frames": 13,
            "height": 32,
            "width": 64,
            **DECODING,
        },
    ],
    ids=["as recommended", "timestep alone", "neither", "from a picture"],
)
def test_a_decoder_that_takes_noise(noisy: Case, arguments: dict[str, Any]) -> None:
    """Its noise is the seed's; that of its layers cannot be diffusers', which no seed of a pipeline decides."""
    source, latents = NoiseSource(7), noisy.bundle.manifest.latents
    space, time = latents.spatial_compression, latents.temporal_compression
    sizes = ((arguments["num_frames"] - 1) // time + 1, arguments["height"] // space, arguments["width"] // space)
    batch = len(arguments["prompt"]) if isinstance(arguments["prompt"], list) else 1
    if "image" in arguments:
        source.draw((1, latents.channels, 1, *sizes[1:]))
    for _ in range(2):
        source.draw((batch, latents.channels, *sizes))
    planes = noisy.bundle.component("vae_decoder").input("noise_inner").axes[0]
    assert isinstance(planes, int)
    with noise_of_layers(source.draw((planes, *sizes[1:]))):
        given = {"num_inference_steps": 3, **arguments}
        drawn = noisy.draw(**given, generator=seeded(7))
    assert_drawn(noisy.ours(**given, seed=7, output_type="numpy"), *drawn)


def test_the_same_seed_draws_the_same_frames(noisy: Case) -> None:
    arguments = {"prompt": PROMPTS[0], "num_frames": 5, "height": 32, "width": 32, "num_inference_steps": 2}
    first, second, other = (
        np.asarray(noisy.ours(**arguments, seed=seed, output_type="numpy").frames) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, second) and not np.array_equal(first, other)


@pytest.mark.parametrize("name", ["decode_timestep", "decode_noise_scale"])
def test_bad_numbers(noisy: Case, name: str) -> None:
    message = f"{name}: 2 came, a number of 0 to 1 was expected"
    assert_bad_input(noisy.ours, message, **{"prompt": "a", "height": 16, "width": 16, "num_frames": 1, name: 2})


def test_parity_of_the_bundle(noisy: Case) -> None:
    """The classes of diffusers draw the noise of their layers from a global generator, so they do not serve."""
    runs = dict.fromkeys((PLAIN, GIVEN), "the loop of diffusers' pipelines, with its scheduler")
    report = check_parity(noisy.folder, noisy.bundle, (5, 32, 64), runs)
    assert not any("its LTX" in run.implementation for run in report.runs)
