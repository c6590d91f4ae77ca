"""CogVideoX 1.5, from text and from a picture: graphs and videos against diffusers' own, unmodified.

A patch has two latent frames, and a video has one latent frame more than the autoencoder decodes, in front.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.exporters.families.test_cogvideox import NEGATIVE, PROMPTS, pictures
from tests.families.checks import assert_bad_input
from tests.families.cogvideox_both import Case, check_denoiser, made

pytestmark = pytest.mark.slow

#: (frames, height, width); up to the usual 48 × 80 pixels, where the table of positions ends.
SIZES = [(9, 48, 80), (17, 24, 56), (1, 40, 16), (25, 8, 8)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cogvideox_15")


@pytest.fixture(scope="module")
def text(folder: Path) -> Case:
    return made(folder, "1.5")


@pytest.fixture(scope="module")
def image(folder: Path) -> Case:
    return made(folder, "1.5 image")


@pytest.mark.parametrize("sizes", [(1, 1, 3, 5), (3, 3, 1, 1), (2, 2, 6, 10), (3, 4, 2, 9)], ids=str)
@pytest.mark.parametrize("kind", ["text", "image"])
def test_the_plain_graph_is_the_transformer(request: pytest.FixtureRequest, kind: str, sizes: tuple[int, ...]) -> None:
    """At (batch, frames, rows, columns) of patches not traced, by ONNX Runtime alone."""
    check_denoiser(request.getfixturevalue(kind), sizes)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_from_text(text: Case, size: tuple[int, int, int]) -> None:
    text.compare(size, prompt=PROMPTS[0], negative_prompt=NEGATIVE)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_from_a_picture(image: Case, size: tuple[int, int, int]) -> None:
    image.compare(size, prompt=PROMPTS[1], negative_prompt=NEGATIVE, image=pictures(1, *size[1:])[0])


def test_several_prompts_and_seeds(text: Case, image: Case) -> None:
    text.compare((9, 24, 40), prompt=PROMPTS, negative_prompt=NEGATIVE, guidance_scale=3.0)
    text.compare((9, 40, 24), seed=[3, 4], prompt=PROMPTS)
    shared = {"prompt": PROMPTS, "negative_prompt": NEGATIVE, "image": pictures(2, 24, 40)}
    image.compare((9, 24, 40), **shared)
    image.compare((9, 24, 40), seed=[3, 4], **shared)


def test_without_guidance(image: Case) -> None:
    image.compare(
        (9, 16, 24), prompt=PROMPTS[0], guidance_scale=1.0, num_inference_steps=7, image=pictures(1, 16, 24)[0]
    )


def test_in_pieces(text: Case) -> None:
    text.theirs.vae.enable_tiling()
    try:
        text.compare((9, 40, 72), prompt=PROMPTS[0], num_inference_steps=2, vae_tile="model")
    finally:
        text.theirs.vae.disable_tiling()


def test_what_the_manifest_says(text: Case) -> None:
    latents = text.bundle.manifest.latents
    assert (latents.frames, latents.temporal_patch_size, latents.frame_rate) == (4, 2, 16.0)
    output = text.ours(prompt="a", num_inference_steps=1, seed=0)
    assert output.latents.shape == (1, 4, 4, 12, 20) and len(output.frames[0]) == 9


def test_a_video_begins_with_its_first_latent_frame_twice(text: Case) -> None:
    """diffusers takes videos with an even number of latent frames only, 4 pictures for the first; see the module."""
    encode = text.ours.pool("vae_encoder")
    with encode.borrow(batch=1, latent_frames=2, latent_height=4, latent_width=6) as binding:
        binding.inputs["images"][...] = np.random.default_rng(0).random(binding.inputs["images"].shape)
        binding.run()
        mean = binding.outputs["mean"]
        assert mean.shape[2] == 4
        np.testing.assert_array_equal(mean[:, :, 0], mean[:, :, 1])
    assert len(text.ours(prompt="a", video=pictures(9, 16, 24), num_inference_steps=2, seed=0).frames[0]) == 9


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("text", {"num_frames": 5}, r"num_frames: 5 came, .* the nearest are 1 and 9"),
        ("text", {"height": 56, "width": 80}, "height"),
        ("image", {}, "image: this bundle makes videos of a picture, and none came"),
    ],
)
def test_bad_input(request: pytest.FixtureRequest, kind: str, arguments: dict[str, int], message: str) -> None:
    assert_bad_input(request.getfixturevalue(kind).ours, message, **{"prompt": "a", **arguments})
