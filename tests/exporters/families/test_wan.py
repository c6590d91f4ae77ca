"""Wan 2.1, text to video: our graphs and videos against diffusers' transformer and pipelines, unmodified."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanVideoToVideoPipeline
from PIL import Image

from dit_deploy.runtimes.prompts import PromptReader
from tests.families.checks import (
    EMBEDDINGS,
    GRAPH,
    assert_bad_input,
    assert_near,
    assert_real_float32,
    noise_picture,
    quiet,
    run_graph,
)
from tests.families.parity import PLAIN, check_parity
from tests.families.wan import CHANNELS, TEXT_WIDTH
from tests.families.wan_both import Case, made, picture

#: Exporting a whole pipeline takes half a minute.
pytestmark = pytest.mark.slow

PROMPTS = ["a photo of a small cat on a red sofa", "  картина &amp;amp; маслом:\n\tлиса в снегу, 高清细节 "]
NEGATIVES = ["low quality, blurry", ""]
#: Frames and pixels; the pipeline takes multiples of 16.
SIZES = [(1, 16, 16), (5, 32, 48), (13, 48, 16)]


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return made(tmp_path_factory.mktemp("wan"), "t2v")


def of_videos(wan: Case) -> WanVideoToVideoPipeline:
    components = {name: part for name, part in wan.theirs.components.items() if name != "transformer_2"}
    return quiet(WanVideoToVideoPipeline(**components))


@pytest.mark.parametrize("size", SIZES)
def test_videos_are_diffusers(wan: Case, size: tuple[int, int, int]) -> None:
    wan.draw(*size, prompt=PROMPTS[0], negative_prompt=NEGATIVES[0], guidance_scale=4.0, num_inference_steps=4)


def test_several_prompts_and_negatives(wan: Case) -> None:
    wan.draw(9, 16, 32, prompt=PROMPTS, negative_prompt=NEGATIVES, guidance_scale=2.5, num_inference_steps=3)


def test_the_usual_run_is_the_pipelines(wan: Case) -> None:
    wan.draw(5, 16, 16, prompt=PROMPTS[1], num_inference_steps=2)
    wan.draw(5, 16, 16, prompt=PROMPTS[1], guidance_scale=1.0, num_inference_steps=2)
    manifest = wan.bundle.manifest
    assert manifest.guidance.default_scale == 5.0 and manifest.scheduler.num_inference_steps == 50
    assert manifest.latents.frame_rate == 16.0 and manifest.latents.temporal_compression == 4


def test_several_videos_a_prompt(wan: Case) -> None:
    wan.draw(
        5, 32, 16, prompt=PROMPTS, num_images_per_prompt=2, num_inference_steps=2,
        theirs={"num_images_per_prompt": None, "num_videos_per_prompt": 2},
    )  # fmt: skip


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_video_to_video_is_diffusers(wan: Case, strength: float) -> None:
    video = [noise_picture(32, 48, seed) for seed in range(9)]
    wan.draw(
        9, 32, 48, prompt=PROMPTS[0], video=video, strength=strength, num_inference_steps=4, reference=of_videos(wan),
        theirs={"num_frames": None},
    )  # fmt: skip


def test_pieces_of_the_vae_are_diffusers(wan: Case) -> None:
    """Frames are decoded, and encoded to start from, in pieces of 32 × 32 pixels that overlap by 8."""
    video = [picture(80, 48, seed) for seed in range(5)]
    sizes: dict[str, Any] = {"prompt": PROMPTS[0], "num_inference_steps": 2, "vae_tile": 32}
    vae = wan.theirs.vae
    vae.enable_tiling(32, 32, 24, 24)
    try:
        wan.draw(9, 48, 80, **sizes, theirs={"vae_tile": None})
        wan.draw(
            5, 48, 80, **sizes, video=[one.transpose(Image.Transpose.ROTATE_90) for one in video], strength=0.5,
            reference=of_videos(wan), theirs={"vae_tile": None, "num_frames": None},
        )  # fmt: skip
    finally:
        vae.disable_tiling()
    whole, cut = (
        wan.ours(prompt="a", num_frames=1, height=48, width=80, num_inference_steps=1, seed=0, vae_tile=tile)
        for tile in (None, 32)
    )
    assert np.abs(np.asarray(whole.frames[0][0], float) - np.asarray(cut.frames[0][0])).max() > 1
    tiling = wan.bundle.manifest.tiling
    assert tiling is not None and (tiling.tile_height, tiling.stride_width, tiling.tile_frames) == (64, 48, None)


def test_embeddings_are_the_pipelines(wan: Case) -> None:
    texts = [*PROMPTS, "", "cat " * 700]
    with pytest.warns(UserWarning, match="left out"):
        found = PromptReader(wan.bundle, wan.ours.pool)(texts)["encoder_hidden_states"]
    with torch.no_grad():
        expected, _ = wan.theirs.encode_prompt(texts, do_classifier_free_guidance=False, max_sequence_length=512)
    assert found.shape == (4, 512, TEXT_WIDTH)
    assert_near(found, expected.numpy(), EMBEDDINGS)
    assert not found[2, 1:].any() and found[3].any(axis=-1).all()


@pytest.mark.parametrize(
    ("batch", "frames", "rows", "columns", "tokens"),
    [(1, 1, 1, 1, 1), (3, 7, 9, 4, 6), (2, 4, 3, 17, 130), (1, 5, 21, 25, 512)],
)
def test_the_plain_graph_is_the_transformer(
    wan: Case, batch: int, frames: int, rows: int, columns: int, tokens: int
) -> None:
    """At sizes not traced: run by ONNX Runtime alone, against diffusers' class called as its pipeline calls it."""
    random = np.random.default_rng(batch + tokens)
    arrays = {
        "latents": random.standard_normal((batch, CHANNELS, frames, 2 * rows, 2 * columns)),
        "timestep": random.integers(0, 1000, batch),
        "encoder_hidden_states": random.standard_normal((batch, tokens, TEXT_WIDTH)),
    }
    feeds = {name: array.astype(np.float32) for name, array in arrays.items()}
    (found,) = run_graph(wan.bundle.component_path("denoiser"), feeds)
    tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
    with torch.no_grad():
        expected = wan.theirs.transformer(
            tensors.pop("latents"), timestep=torch.from_numpy(arrays["timestep"]), return_dict=False,
            encoder_hidden_states=tensors["encoder_hidden_states"],
        )[0].numpy()  # fmt: skip
    assert_near(found, expected, GRAPH)


def test_no_graph_has_float64(wan: Case) -> None:
    assert_real_float32(wan.bundle, *wan.bundle.manifest.components)


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                {"num_frames": 6},
                r"num_frames: 6 came, .*\(expected 1 more than a multiple of 4\); the nearest are 5 and 9",
            ),
            ({"num_frames": 0}, "num_frames: 0 came"),
            ({"num_frames": 257}, "num_frames: 257 came"),
            ({"width": 20}, "width: 20 came, expected a multiple of 8 pixels"),
            ({"height": 520}, "height"),
            ({"last_image": Image.new("RGB", (16, 16))}, "last_image: this bundle makes no video of pictures"),
        ],
    )
    def test_arguments(self, wan: Case, arguments: dict[str, Any], message: str) -> None:
        usual = {"prompt": "a", "num_frames": 5, "height": 16, "width": 16}
        assert_bad_input(wan.ours, message, **{**usual, **arguments})


def test_parity_of_the_bundle(wan: Case) -> None:
    check_parity(wan.folder, wan.bundle, (5, 32, 48), {PLAIN: "diffusers WanPipeline"})
