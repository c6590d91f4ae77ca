"""SkyReels V1, HunyuanVideo's network that starts from a picture, against diffusers' pipeline, unmodified."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import HunyuanSkyreelsImageToVideoPipeline

from tests.families.checks import (
    GRAPH,
    Case,
    assert_bad_input,
    assert_drawn,
    assert_refused,
    draw,
    exported,
    noise_picture,
    run_graph,
    seeded,
)
from tests.families.hunyuan_video import make_hunyuan_video
from tests.families.parity import GIVEN, check_parity

#: Exporting a whole pipeline takes half a minute.
pytestmark = pytest.mark.slow

PROMPTS = ["a small cat runs over a red sofa", "картина маслом: лиса в снегу, 高清细节"]
NEGATIVES = ["low quality, blurry", ""]
#: Frames, height and width in pixels.
SIZES = [(1, 16, 16), (9, 16, 32), (21, 32, 16)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("skyreels")
    source = make_hunyuan_video(folder, from_picture=True)
    said: list[str] = []
    case = exported(source, HunyuanSkyreelsImageToVideoPipeline, folder / "bundle", progress=said.append)
    assert any("true_cfg_scale 6 where none is given" in line for line in said)
    return case


def draw_both(made: Case, size: tuple[int, int, int], seed: int = 5, **arguments: Any) -> np.ndarray:
    """Draw with both, compare latents and frames, and return our latents."""
    sides = dict(zip(("num_frames", "height", "width"), size, strict=True))
    output = made.ours(seed=seed, output_type="numpy", **sides, **arguments)
    theirs = {"true_cfg_scale": 1.0, **arguments}
    assert_drawn(output, *draw(made.theirs, generator=seeded(seed), **sides, **theirs))
    return output.latents


@pytest.mark.parametrize("size", SIZES)
def test_videos_from_a_picture_are_diffusers(made: Case, size: tuple[int, int, int]) -> None:
    draw_both(made, size, prompt=PROMPTS[0], image=noise_picture(*size[1:]), num_inference_steps=3)


def test_several_prompts_each_with_its_picture(made: Case) -> None:
    draw_both(
        made,
        (5, 16, 32),
        prompt=PROMPTS,
        negative_prompt=NEGATIVES,
        image=[noise_picture(16, 32), noise_picture(16, 32, seed=3)],
        true_cfg_scale=6.0,
        num_inference_steps=2,
    )


def test_another_picture_makes_another_video(made: Case) -> None:
    first, other = (
        draw_both(made, (5, 16, 16), prompt=PROMPTS[0], image=noise_picture(16, 16, seed), num_inference_steps=2)
        for seed in (2, 3)
    )
    assert np.abs(first - other).max() > 0.02 * np.abs(first).max()


def test_a_picture_of_another_aspect_is_stretched(made: Case) -> None:
    with pytest.warns(UserWarning, match="a picture of 40×24 pixels was stretched to 16×32"):
        draw_both(made, (5, 32, 16), prompt=PROMPTS[0], image=noise_picture(24, 40), num_inference_steps=2)


def test_the_usual_video_is_the_pipelines(made: Case) -> None:
    manifest = made.bundle.manifest
    assert (manifest.latents.frames, manifest.latents.height, manifest.latents.width) == (25, 544 // 4, 960 // 4)
    assert manifest.guidance.default_scale == 1.0
    assert set(manifest.components) == {
        "text_encoder", "text_encoder_2", "image_latents_encoder", "vae_decoder", "denoiser",
    }  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize(("batch", "frames", "height", "width"), [(1, 1, 1, 1), (3, 2, 5, 3), (1, 7, 2, 9)])
def test_latents_of_the_picture(made: Case, batch: int, frames: int, height: int, width: int) -> None:
    """The graph alone: drawn from the posterior, zeros for later frames, and for a sample without a picture."""
    random = torch.Generator().manual_seed(frames)
    images = torch.rand(batch, 3, 4 * frames - 3, 4 * height, 4 * width, generator=random)
    noise = torch.randn(batch, 5, 1, height, width, generator=random)
    given = np.zeros((batch, 4 * frames - 3), np.int64)
    given[0, 0] = 1
    feeds = {"images": images.numpy(), "given": given, "noise": noise.numpy()}
    (found,) = run_graph(made.bundle.component_path("image_latents_encoder"), feeds)
    vae = made.theirs.vae
    posterior = vae.encode(images[:, :, :1] * 2 - 1).latent_dist
    expected = ((posterior.mean + posterior.std * noise) * vae.config.scaling_factor).numpy()
    assert found.shape == (batch, 5, frames, height, width)
    assert np.abs(found[:1, :, :1] - expected[:1]).max() <= GRAPH * np.abs(expected).max()
    assert not found[:, :, 1:].any() and not found[1:].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "image: this bundle makes videos of a picture, and none came"),
        ({"image": "nowhere.png"}, "nowhere.png"),
        (
            {"image": noise_picture(16, 16), "last_image": noise_picture(16, 16)},
            "last_image: this model takes a first picture only",
        ),
        ({"image": [noise_picture(16, 16)] * 3}, "image: 3 pictures came, 1 or 1 expected"),
    ],
)
def test_bad_input(made: Case, arguments: dict[str, Any], message: str) -> None:
    assert_bad_input(made.ours, message, **{"prompt": "a", "num_frames": 1, "height": 16, "width": 16, **arguments})


def test_a_transformer_without_room_for_the_picture(tmp_path: Path) -> None:
    source = make_hunyuan_video(tmp_path, from_picture=True)
    text_only = make_hunyuan_video(tmp_path / "text")
    (source / "transformer" / "config.json").write_bytes((text_only / "transformer" / "config.json").read_bytes())
    assert_refused(source, "5 channels in and 5 out; expected twice as many in as out")


def test_parity_of_the_bundle(made: Case) -> None:
    """With a negative prompt, too, which has no part as long as nobody asks for true guidance."""
    runs = {GIVEN: "diffusers HunyuanSkyreelsImageToVideoPipeline"}
    check_parity(made.folder, made.bundle, (5, 16, 32), runs, negative_prompt=NEGATIVES[0])
