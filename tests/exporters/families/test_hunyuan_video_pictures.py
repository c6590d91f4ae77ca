"""SkyReels V1, HunyuanVideo's network that starts from a picture, against diffusers' pipeline, unmodified."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from diffusers import HunyuanSkyreelsImageToVideoPipeline
from PIL import Image

from dit_deploy import Bundle, Pipeline
from dit_deploy.errors import InputError, SourceError
from dit_deploy.exporters import export
from dit_deploy.exporters.sources import open_source
from tests.families.hunyuan_video import make_hunyuan_video

#: Exporting a whole pipeline takes half a minute.
pytestmark = pytest.mark.slow

PROMPTS = ["a small cat runs over a red sofa", "картина маслом: лиса в снегу, 高清细节"]
NEGATIVES = ["low quality, blurry", ""]
#: Frames, height and width in pixels.
SIZES = [(1, 16, 16), (9, 16, 32), (21, 32, 16)]
LATENTS, FRAMES, GRAPH = 1e-3, 1 / 255, 1e-4


@dataclass(frozen=True)
class Exported:
    bundle: Bundle
    pipeline: Pipeline
    reference: HunyuanSkyreelsImageToVideoPipeline


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("skyreels")
    source = make_hunyuan_video(folder, from_picture=True)
    said: list[str] = []
    bundle = export(source, folder / "bundle", progress=said.append)
    assert any("true_cfg_scale 6 where none is given" in line for line in said)
    reference = HunyuanSkyreelsImageToVideoPipeline.from_pretrained(source)
    reference.set_progress_bar_config(disable=True)
    return Exported(bundle, Pipeline(bundle, "onnx", threads=1), reference)


def picture(height: int, width: int, seed: int = 2) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def draw_both(made: Exported, size: tuple[int, int, int], seed: int = 5, **arguments: Any) -> np.ndarray:
    """Draw with both, and compare latents and frames."""
    sides = dict(zip(("num_frames", "height", "width"), size, strict=True))
    output = made.pipeline(seed=seed, output_type="numpy", **sides, **arguments)
    latents, frames = (
        made.reference(
            generator=torch.Generator("cpu").manual_seed(seed),
            output_type=kind,
            **{"true_cfg_scale": 1.0, **arguments},
            **sides,
        ).frames
        for kind in ("latent", "np")
    )
    assert output.latents.shape == latents.shape
    assert np.abs(output.latents - latents.numpy()).max() <= LATENTS * np.abs(latents.numpy()).max()
    assert output.frames.shape == frames.shape
    assert np.abs(output.frames - frames).max() <= FRAMES
    return output.latents


@pytest.mark.parametrize("size", SIZES)
def test_videos_from_a_picture_are_diffusers(made: Exported, size: tuple[int, int, int]) -> None:
    draw_both(made, size, prompt=PROMPTS[0], image=picture(*size[1:]), num_inference_steps=3)


def test_several_prompts_each_with_its_picture(made: Exported) -> None:
    draw_both(
        made,
        (5, 16, 32),
        prompt=PROMPTS,
        negative_prompt=NEGATIVES,
        image=[picture(16, 32), picture(16, 32, seed=3)],
        true_cfg_scale=6.0,
        num_inference_steps=2,
    )


def test_another_picture_makes_another_video(made: Exported) -> None:
    first, other = (
        draw_both(made, (5, 16, 16), prompt=PROMPTS[0], image=picture(16, 16, seed), num_inference_steps=2)
        for seed in (2, 3)
    )
    assert np.abs(first - other).max() > 0.02 * np.abs(first).max()


def test_a_picture_of_another_aspect_is_stretched(made: Exported) -> None:
    with pytest.warns(UserWarning, match="a picture of 40×24 pixels was stretched to 16×32"):
        draw_both(made, (5, 32, 16), prompt=PROMPTS[0], image=picture(24, 40), num_inference_steps=2)


def test_the_usual_video_is_the_pipelines(made: Exported) -> None:
    manifest = made.bundle.manifest
    assert (manifest.latents.frames, manifest.latents.height, manifest.latents.width) == (25, 544 // 4, 960 // 4)
    assert manifest.guidance.default_scale == 1.0
    assert set(manifest.components) == {
        "text_encoder", "text_encoder_2", "image_latents_encoder", "vae_decoder", "denoiser",
    }  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize(("batch", "frames", "height", "width"), [(1, 1, 1, 1), (3, 2, 5, 3), (1, 7, 2, 9)])
def test_latents_of_the_picture(made: Exported, batch: int, frames: int, height: int, width: int) -> None:
    """The graph alone: drawn from the posterior, zeros for later frames, and for a sample without a picture."""
    random = torch.Generator().manual_seed(frames)
    images = torch.rand(batch, 3, 4 * frames - 3, 4 * height, 4 * width, generator=random)
    noise = torch.randn(batch, 5, 1, height, width, generator=random)
    given = np.zeros((batch, 4 * frames - 3), np.int64)
    given[0, 0] = 1
    session = ort.InferenceSession(
        made.bundle.component_path("image_latents_encoder"), providers=["CPUExecutionProvider"]
    )
    feeds = {"images": images.numpy(), "given": given, "noise": noise.numpy()}
    (found,) = session.run(["image_latents"], feeds)
    vae = made.reference.vae
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
            {"image": picture(16, 16), "last_image": picture(16, 16)},
            "last_image: this model takes a first picture only",
        ),
        ({"image": [picture(16, 16)] * 3}, "image: 3 pictures came, 1 or 1 expected"),
    ],
)
def test_bad_input(made: Exported, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        made.pipeline(prompt="a", num_inference_steps=1, num_frames=1, height=16, width=16, **arguments)
    assert "\n" not in str(caught.value)


def test_a_transformer_without_room_for_the_picture(tmp_path: Path) -> None:
    source = make_hunyuan_video(tmp_path, from_picture=True)
    text_only = make_hunyuan_video(tmp_path / "text")
    (source / "transformer" / "config.json").write_bytes((text_only / "transformer" / "config.json").read_bytes())
    with pytest.raises(SourceError, match="5 channels in and 5 out; expected twice as many in as out"):
        open_source(source)
