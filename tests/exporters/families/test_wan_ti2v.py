"""Wan 2.2's 5-billion model: a timestep for each token, against diffusers' own pipelines, unmodified."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from diffusers import WanImageToVideoPipeline

from dit_deploy.sampling import NoiseSource
from tests.families.checks import LATENTS, assert_bad_input, quiet
from tests.families.parity import GIVEN, PLAIN, check_parity
from tests.families.wan_both import Case, check_graphs, made, picture

#: Exporting a whole pipeline takes half a minute.
pytestmark = pytest.mark.slow

PROMPTS = ["a photo of a small cat on a red sofa", "картина маслом: лиса в снегу"]
NEGATIVE = "low quality, blurry"


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The 5-billion model, of which one bundle makes videos of texts and of pictures."""
    return made(tmp_path_factory.mktemp("wan_masked"), "ti2v")


@pytest.fixture(scope="module")
def of_pictures(masked: Case) -> WanImageToVideoPipeline:
    parts = masked.theirs.components
    return quiet(WanImageToVideoPipeline(**parts, image_encoder=None, image_processor=None, expand_timesteps=True))


@pytest.mark.parametrize("size", [(1, 16, 16), (5, 32, 48), (13, 48, 16)])
def test_text_to_video_with_a_timestep_a_token(masked: Case, size: tuple[int, int, int]) -> None:
    masked.draw(*size, prompt=PROMPTS[0], negative_prompt=NEGATIVE, guidance_scale=3.0, num_inference_steps=3)


@pytest.mark.parametrize("size", [(1, 32, 32), (5, 32, 48), (13, 48, 16)])
def test_image_to_video_of_the_same_bundle(
    masked: Case, of_pictures: WanImageToVideoPipeline, size: tuple[int, int, int]
) -> None:
    masked.draw(
        *size,
        image=picture(2 * size[1], 2 * size[2]),
        prompt=PROMPTS,
        negative_prompt=[NEGATIVE, ""],
        num_inference_steps=3,
        reference=of_pictures,
    )


def test_the_picture_is_kept(masked: Case) -> None:
    usual: dict[str, Any] = {"prompt": "a", "num_frames": 5, "height": 32, "width": 32, "num_inference_steps": 2}
    image = picture(32, 32, 7)
    drawn = masked.ours(image=image, seed=0, output_type="latent", **usual).latents
    pixels = np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 255
    known = masked.ours.encode(pixels[:, :, None], 1, NoiseSource(0))
    assert np.abs(drawn[:, :, :1] - known).max() <= 1e-5 * np.abs(known).max()
    without = masked.ours(seed=0, output_type="latent", **usual).latents
    assert np.abs(drawn[:, :, 1:] - without[:, :, 1:]).max() > 10 * LATENTS * np.abs(without).max()


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1), (3, 7, 5, 2, 9), (2, 4, 1, 9, 512)])
def test_plain_graphs_are_diffusers(masked: Case, sizes: tuple[int, ...]) -> None:
    """At sizes not traced, run by ONNX Runtime alone."""
    check_graphs(masked, sizes, *(name for name in masked.bundle.manifest.components if name != "text_encoder"))


def test_the_manifest_says_what_is_needed(masked: Case) -> None:
    manifest = masked.bundle.manifest
    record = manifest.image_conditions
    assert record is not None and (record.required, record.last_image, record.mask) == (False, False, "image_mask")
    assert (manifest.latents.frame_rate, manifest.experts, manifest.tiling) == (24.0, None, None)
    assert manifest.latents.spatial_compression == 8


def test_it_takes_no_last_picture(masked: Case) -> None:
    message = "last_image: this model takes a first picture only"
    assert_bad_input(masked.ours, message, prompt="a", image=picture(16, 16), last_image=picture(16, 16), num_frames=5)


def test_parity_of_the_bundle(masked: Case) -> None:
    runs = {PLAIN: "diffusers WanPipeline", GIVEN: "diffusers WanImageToVideoPipeline"}
    check_parity(masked.folder, masked.bundle, (5, 32, 48), runs)
