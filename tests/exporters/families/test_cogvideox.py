"""CogVideoX 2B and 5B: our graphs and videos against diffusers' transformer and pipelines, unmodified."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler, CogVideoXVideoToVideoPipeline
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid
from PIL import Image

from dit_deploy.exporters.families.cogvideox import crop_region, missed_halves
from tests.families.checks import altered, assert_bad_input, assert_refused, quiet
from tests.families.cogvideox_both import Case, check_denoiser, made
from tests.families.parity import GIVEN, PLAIN, check_parity

#: Exporting a whole pipeline takes half a minute.
pytestmark = pytest.mark.slow

PROMPTS = ["a photo of a small cat on a red sofa", "картина маслом: лиса в снегу, 高清细节"]
NEGATIVE = "low quality, blurry"
#: (frames, height, width) in pictures and pixels; the first is the usual size, the last has one patch.
SIZES = [(9, 48, 80), (17, 24, 40), (1, 56, 16), (25, 8, 8)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cogvideox")


@pytest.fixture(scope="module")
def two(folder: Path) -> Case:
    return made(folder, "2B")


@pytest.fixture(scope="module")
def five(folder: Path) -> Case:
    return made(folder, "5B")


@pytest.fixture(scope="module")
def five_image(folder: Path) -> Case:
    return made(folder, "5B image")


def pictures(count: int, height: int, width: int) -> list[Image.Image]:
    """Return pictures of coloured noise, smooth enough to be pictures."""
    small = np.random.default_rng(height).integers(0, 256, (count, height // 4, width // 4, 3), dtype=np.uint8)
    return [Image.fromarray(one).resize((width, height), Image.Resampling.BICUBIC) for one in small]


@pytest.mark.parametrize(
    "sizes", [(1, 1, 3, 5), (3, 3, 1, 1), (2, 5, 6, 10), (1, 2, 17, 4), (3, 4, 2, 9), (1, 1, 44, 55)], ids=str
)
@pytest.mark.parametrize("kind", ["two", "five", "five_image"])
def test_the_plain_graph_is_the_transformer(request: pytest.FixtureRequest, kind: str, sizes: tuple[int, ...]) -> None:
    """At (batch, frames, rows, columns) not traced, by ONNX Runtime alone; 5B's text may have any length."""
    case: Case = request.getfixturevalue(kind)
    fixed = {"patch_height": 6, "patch_width": 10} if kind == "five_image" else {}  # knows one height and width
    check_denoiser(case, sizes, **fixed)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_2b_is_diffusers(two: Case, size: tuple[int, int, int]) -> None:
    two.compare(size, prompt=PROMPTS[0], negative_prompt=NEGATIVE)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_5b_is_diffusers(five: Case, size: tuple[int, int, int]) -> None:
    """Its sampler draws noise twice a step."""
    five.compare(size, prompt=PROMPTS[1], negative_prompt=NEGATIVE)


def test_several_prompts_and_seeds(five: Case, two: Case) -> None:
    five.compare((9, 24, 40), prompt=PROMPTS, negative_prompt=NEGATIVE, guidance_scale=3.0)
    five.compare((9, 40, 24), seed=[3, 4], prompt=PROMPTS)
    two.compare((9, 24, 40), prompt=PROMPTS, negative_prompt=[NEGATIVE, ""])


def test_without_guidance(two: Case, five: Case) -> None:
    two.compare((9, 16, 24), prompt=PROMPTS[0], guidance_scale=1.0, num_inference_steps=7)
    five.compare((17, 16, 24), prompt=PROMPTS[0], guidance_scale=1.0, num_inference_steps=7)


@pytest.mark.parametrize("scheduler", [CogVideoXDDIMScheduler, CogVideoXDPMScheduler])
def test_either_scheduler(five: Case, scheduler: type[Any]) -> None:
    before = five.theirs.scheduler
    five.theirs.scheduler = scheduler.from_config(before.config)
    try:
        five.compare((9, 32, 24), prompt=PROMPTS[0], scheduler=scheduler.__name__, num_inference_steps=6)
    finally:
        five.theirs.scheduler = before


def test_5b_from_a_picture(five_image: Case) -> None:
    """At one height and width; with the usual number of frames by the learned table, with others by the computed."""
    (one,) = pictures(1, 48, 80)
    five_image.compare((9, 48, 80), prompt=PROMPTS[0], negative_prompt=NEGATIVE, image=one)
    five_image.compare((17, 48, 80), prompt=PROMPTS[1], image=pictures(1, 32, 120)[0])
    five_image.compare((1, 48, 80), prompt=PROMPTS, negative_prompt=NEGATIVE, image=pictures(2, 48, 80))


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_video_to_video(two: Case, strength: float) -> None:
    reference = quiet(CogVideoXVideoToVideoPipeline(**two.theirs.components))
    shared = {"prompt": PROMPTS[0], "video": pictures(9, 40, 56), "strength": strength}
    two.compare((9, 40, 56), theirs=reference, num_inference_steps=6, **shared)


def test_in_pieces(two: Case) -> None:
    """diffusers' own pieces, of 24 × 40 pixels here, on the way in and out."""
    reference = quiet(CogVideoXVideoToVideoPipeline(**two.theirs.components))
    vae = two.theirs.vae
    vae.enable_tiling()
    try:
        two.compare((9, 56, 104), prompt=PROMPTS[0], num_inference_steps=2, vae_tile="model")
        shared = {"prompt": PROMPTS[0], "video": pictures(9, 40, 64), "strength": 0.5}
        two.compare((9, 40, 64), theirs=reference, vae_tile="model", **shared)
    finally:
        vae.disable_tiling()


def test_what_the_manifest_says(two: Case, five_image: Case) -> None:
    latents = two.bundle.manifest.latents
    assert (latents.frames, latents.height, latents.width, latents.frame_rate) == (3, 12, 20, 8.0)
    assert (latents.temporal_compression, latents.temporal_patch_size) == (4, 1)
    assert two.bundle.manifest.image_conditions is None
    record = five_image.bundle.manifest.image_conditions
    assert record is not None and record.required and not record.last_image


@pytest.mark.parametrize("base", [(30, 45), (6, 10), (60, 90)])
def test_the_crop_is_the_pipelines(base: tuple[int, int]) -> None:
    """Half a patch is rounded to the even one, but for grids where the pipelines' floats are off by a last place."""
    missed = missed_halves(base)
    assert base != (30, 45) or ((52, 13, -1) in missed and len(missed) == 14)
    grids = {
        *((rows, columns) for rows, columns, _ in missed),
        *((rows, columns) for rows in range(1, 64, 3) for columns in range(1, 96, 1 + rows % 7)),
    }
    for rows, columns in grids:
        expected = get_resize_crop_region_for_grid((rows, columns), base[1], base[0])
        found = crop_region(rows, columns, base)
        assert tuple(tuple(int(side) for side in corner) for corner in found) == expected, (rows, columns)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (
            "two",
            {"num_frames": 10, "height": 16, "width": 16},
            r"num_frames: 10 came, .* 1 more than a multiple of 8.* are 9 and 17",
        ),
        ("two", {"num_frames": 9, "height": 20, "width": 16}, "height: 20 came"),
        ("two", {"last_image": pictures(1, 48, 80)[0]}, "last_image: this bundle makes no video of pictures"),
        ("five_image", {}, "image: this bundle makes videos of a picture, and none came"),
        (
            "five_image",
            {"image": pictures(1, 48, 80)[0], "last_image": pictures(1, 48, 80)[0]},
            "last_image: this model takes a first picture only",
        ),
        ("five_image", {"image": pictures(1, 48, 80)[0], "height": 40}, "height"),
    ],
)
def test_bad_input(request: pytest.FixtureRequest, kind: str, arguments: dict[str, Any], message: str) -> None:
    assert_bad_input(request.getfixturevalue(kind).ours, message, **{"prompt": "a", **arguments})


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("transformer", {"in_channels": 8}, "takes 8 channels and predicts 4; from text it takes as many"),
        ("transformer", {"flip_sin_to_cos": False}, "embeds timesteps in another way"),
        ("transformer", {"max_text_seq_length": 224}, "positions for 224 tokens of text; the pipelines give 226"),
        ("transformer", {"patch_size_t": 2}, "patch_size_t 2; expected none, or 2 with rotary positions alone"),
        ("transformer", {"ofs_embed_dim": 40}, "takes an offset .* which only image-to-video gives it"),
        ("transformer", {"temporal_compression_ratio": 8}, "temporal_compression_ratio 8; expected 4"),
        ("transformer", {"text_embed_dim": 32}, "makes 28 channels, .* takes 32"),
        ("transformer", {"attention_head_dim": 24, "use_rotary_positional_embeddings": True}, "multiple of 16"),
        ("vae", {"latent_channels": 5}, "has 5 latent channels, the denoiser 4"),
    ],
)
def test_folders_that_do_not_fit(two: Case, tmp_path: Path, part: str, values: dict[str, Any], message: str) -> None:
    assert_refused(altered(two.folder, tmp_path / "broken", f"{part}/config.json", **values), message)


def test_diffusers_knows_one_size_of_the_learned_table(five_image: Case) -> None:
    with pytest.raises(ValueError, match="not possible to generate videos at a different resolution"):
        five_image.theirs(image=pictures(1, 40, 80)[0], prompt="a", height=40, width=80, num_inference_steps=1)
    assert torch.count_nonzero(five_image.theirs.transformer.patch_embed.pos_embedding)


@pytest.mark.parametrize(
    ("kind", "size", "run"),
    [("two", (9, 32, 48), PLAIN), ("five_image", (9, 48, 80), GIVEN)],
)
def test_parity_of_the_bundle(kind: str, size: tuple[int, int, int], run: str, request: pytest.FixtureRequest) -> None:
    case: Case = request.getfixturevalue(kind)
    check_parity(case.folder, case.bundle, size, {run: f"diffusers {type(case.theirs).__name__}"})
