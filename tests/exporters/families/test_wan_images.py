"""Wan 2.1, image to video, and first and last frame to video, against diffusers' own pipeline, unmodified."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dit_deploy.cli import run
from dit_deploy.parity import parity
from dit_deploy.runtimes.torch import TorchReference
from tests.families.checks import LATENTS, altered, assert_bad_input, assert_refused
from tests.families.parity import GIVEN, check_parity
from tests.families.wan import CHANNELS, IMAGE_SIZE
from tests.families.wan_both import Case, check_graphs, made, picture
from tests.parity.altered import perturb, rebuild

#: Two pipelines with all their parts are exported.
pytestmark = pytest.mark.slow

PROMPTS = ["a photo of a small cat on a red sofa", "картина маслом: лиса в снегу"]
NEGATIVE = "low quality, blurry"


@pytest.fixture(scope="module")
def i2v(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return made(tmp_path_factory.mktemp("wan_i2v"), "i2v")


@pytest.fixture(scope="module")
def flf2v(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return made(tmp_path_factory.mktemp("wan_flf2v"), "flf2v", decodes=False)


@pytest.mark.parametrize("size", [(1, 16, 16), (5, 32, 48), (13, 48, 16)])
def test_videos_of_a_picture_are_diffusers(i2v: Case, size: tuple[int, int, int]) -> None:
    """The picture has its own size for CLIP, which cuts its middle out, and the video's for the VAE."""
    image = picture(2 * size[1] + 3, 2 * size[2] + 3)
    i2v.draw(*size, image=image, prompt=PROMPTS[0], negative_prompt=NEGATIVE, guidance_scale=3.0, num_inference_steps=3)


def test_one_picture_for_several_prompts(i2v: Case) -> None:
    i2v.draw(
        9, 16, 32, image=picture(40, 80), prompt=PROMPTS, num_inference_steps=2,
        negative_prompt=[NEGATIVE, ""],
    )  # fmt: skip


def test_a_picture_for_each_prompt(i2v: Case) -> None:
    usual: dict[str, Any] = {"num_frames": 5, "height": 16, "width": 16, "num_inference_steps": 2}
    images = [picture(16, 16, seed=1), picture(16, 16, seed=2)]
    found = i2v.ours(prompt=PROMPTS, image=images, seed=[3, 4], output_type="latent", **usual).latents
    for index, (prompt, image) in enumerate(zip(PROMPTS, images, strict=True)):
        alone = i2v.ours(prompt=prompt, image=image, seed=3 + index, output_type="latent", **usual).latents
        assert np.abs(found[index] - alone[0]).max() <= 1e-5 * np.abs(alone).max()


def test_a_picture_of_another_aspect_is_stretched_and_said_so(i2v: Case) -> None:
    with pytest.warns(UserWarning, match="a picture of 64×32 pixels was stretched to 32×48"):
        i2v.draw(5, 48, 32, image=picture(32, 64), prompt=PROMPTS[1], num_inference_steps=2)


@pytest.mark.parametrize("size", [(5, 16, 32), (9, 48, 32), (13, 32, 16)])
def test_videos_between_two_pictures_are_diffusers(flf2v: Case, size: tuple[int, int, int]) -> None:
    first, last = picture(2 * size[1], 2 * size[2], seed=1), picture(3 * size[1], 3 * size[2], seed=2)
    flf2v.draw(*size, image=first, last_image=last, prompt=PROMPTS[0], negative_prompt=NEGATIVE, num_inference_steps=3)


def test_both_pictures_count(flf2v: Case) -> None:
    usual: dict[str, Any] = {"prompt": "a", "num_frames": 5, "height": 16, "width": 16, "num_inference_steps": 1}
    pictures = [picture(16, 16, seed=seed) for seed in (1, 2, 3)]
    drawn = [
        flf2v.ours(image=pictures[first], last_image=pictures[last], seed=0, output_type="latent", **usual).latents
        for first, last in ((0, 1), (1, 0), (0, 2))
    ]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(drawn[one] - drawn[other]).max() > 5 * LATENTS * np.abs(drawn[one]).max()


@pytest.mark.parametrize("kind", ["i2v", "flf2v"])
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (3, 7, 5, 2), (4, 4, 1, 9)])
def test_plain_graphs_are_diffusers(kind: str, sizes: tuple[int, ...], request: pytest.FixtureRequest) -> None:
    """At sizes not traced, run by ONNX Runtime alone: what reads the pictures, what sees them, and the transformer."""
    check_graphs(request.getfixturevalue(kind), sizes, "image_conditions", "image_encoder", "denoiser")


def test_the_manifest_says_what_is_needed(i2v: Case, flf2v: Case) -> None:
    for case, last in ((i2v, False), (flf2v, True)):
        manifest = case.bundle.manifest
        record = manifest.image_conditions
        assert record is not None and record.encoder is not None
        assert (record.required, record.last_image, record.encoder.size) == (True, last, IMAGE_SIZE)
        assert manifest.latents.channels == CHANNELS
        assert manifest.components["denoiser"].input("image_latents").axes[1] == 4 + CHANNELS
        assert "vae_encoder" not in manifest.components  # its work is done in image_conditions


def test_diffusers_takes_no_last_picture_without_positions_for_it(i2v: Case) -> None:
    """Which is why ours refuses one: CLIP's states of two pictures are a batch of two there, beside a text of one."""
    sizes = {"height": 16, "width": 16, "num_frames": 5, "num_inference_steps": 1}
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        i2v.theirs(image=picture(16, 16), last_image=picture(16, 16), prompt="a", **sizes)


class TestBadInput:
    @pytest.mark.parametrize(
        ("kind", "arguments", "message"),
        [
            ("i2v", {"image": None}, "image: this bundle makes videos of a picture, and none came"),
            ("i2v", {"last_image": picture(16, 16)}, "last_image: this model takes a first picture only"),
            ("i2v", {"image": [picture(16, 16)] * 3}, "image: 3 pictures came, 1 or 1 expected"),
            ("i2v", {"image": "nowhere.png"}, "nowhere.png does not exist"),
            ("flf2v", {"last_image": picture(16, 16), "num_frames": 1}, "last_image: a video of one frame has none"),
            ("flf2v", {}, "last_image: this model needs the last picture beside the first"),
        ],
    )
    def test_arguments(
        self, kind: str, arguments: dict[str, Any], message: str, request: pytest.FixtureRequest
    ) -> None:
        usual = {"prompt": "a", "image": picture(16, 16), "num_frames": 5, "height": 16, "width": 16}
        ours = request.getfixturevalue(kind).ours
        assert_bad_input(ours, message, **{"output_type": "latent", **usual, **arguments})

    @pytest.mark.parametrize("part", ["image_encoder", "image_processor", "vae", "text_encoder"])
    def test_a_missing_part_is_named(self, flf2v: Case, tmp_path: Path, part: str) -> None:
        folder = Path(shutil.copytree(flf2v.folder, tmp_path / "flf2v"))
        shutil.rmtree(folder / part)
        assert_refused(folder, rf"{part}(, which| is missing)")

    @pytest.mark.parametrize(
        ("file", "fields", "message"),
        [
            ("transformer/config.json", {"in_channels": 5}, "takes 5 channels and predicts 5; image to video needs 14"),
            ("transformer/config.json", {"pos_embed_seq_len": 30}, "34 tokens of width 36, .* takes 30 of 36"),
            ("transformer/config.json", {"image_dim": None}, "has both, and is one of image to video"),
            ("transformer/config.json", {"patch_size": [1, 2, 4]}, "has patches of 1×2×4"),
            ("image_encoder/config.json", {"hidden_size": 48}, "of width 48, .* takes 34 of 36"),
            ("image_processor/preprocessor_config.json", {"resample": 2}, "resample is 2; expected 3"),
            ("image_processor/preprocessor_config.json", {"size": {"shortest_edge": 30}}, "size is .*30.*; expected"),
            ("vae/config.json", {"latents_std": [1.0]}, "latents_std has 1 numbers for 5 channels"),
            ("vae/config.json", {"scale_factor_spatial": 8}, "scale_factor_spatial is 8, its layers make 4"),
            ("model_index.json", {"boundary_ratio": 0.9}, "boundary_ratio 0.9 and no transformer_2"),
            ("model_index.json", {"transformer": [None, None]}, "has no transformer"),
        ],
    )
    def test_parts_that_do_not_fit(
        self, flf2v: Case, tmp_path: Path, file: str, fields: dict[str, Any], message: str
    ) -> None:
        assert_refused(altered(flf2v.folder, tmp_path / "flf2v", file, **fields), message)


def test_parity_of_the_bundles(i2v: Case, flf2v: Case) -> None:
    runs = {GIVEN: "diffusers WanImageToVideoPipeline"}
    check_parity(i2v.folder, i2v.bundle, (5, 32, 48), runs)
    report = check_parity(flf2v.folder, flf2v.bundle, (5, 16, 32), runs)
    assert {"image", "last_image"} < set(report.runs[0].settings)
    assert set(report.runs[0].conditions) == {"image_latents", "encoder_hidden_states_image"}


def test_an_altered_vision_encoder_is_found(flf2v: Case, tmp_path: Path) -> None:
    def change(folder: Path) -> None:
        perturb(folder / "image_encoder" / "model.onnx", "embeddings.patch_embedding.weight", 1.05)

    bundle = rebuild(flf2v.bundle, tmp_path / "altered", change)
    small = {"num_frames": 5, "height": 16, "width": 32, "num_inference_steps": 2}
    report = parity(bundle, TorchReference.open(flf2v.folder), engine="onnx", threads=1, **small)
    assert {row.component for row in report.components if row.relative > 1e-4} == {"image_encoder"}
    assert str(report.first_excess).startswith("image encoder at batch 2: encoder_hidden_states_image off by")
    made = "generation from a picture, what is made of the pictures: encoder_hidden_states_image off by"
    assert str(replace(report, components=()).first_excess).startswith(made)


def test_parity_as_a_command(flf2v: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = shutil.copytree(flf2v.bundle.path, tmp_path / "bundle")
    for name in ("first", "last"):
        picture(32, 64, seed=len(name)).save(tmp_path / f"{name}.png")
    words = [
        "parity", bundle, "--reference", flf2v.folder, "--prompt", "a cat", "--steps", 1, "--frames", 5,
        "--height", 16, "--width", 32, "--quiet", "--init-image", tmp_path / "first.png",
    ]  # fmt: skip
    assert run([str(word) for word in words]) == 2
    assert "last_image: this model needs the last picture beside the first" in capsys.readouterr().err
    assert run([*map(str, words), "--last-image", str(tmp_path / "last.png")]) == 0
    assert "generation from a picture: image first.png; last_image last.png" in capsys.readouterr().out
    (found,) = json.loads((bundle / "parity/onnx.json").read_text())["runs"]
    assert (found["settings"]["image"], found["settings"]["last_image"]) == ("first.png", "last.png")
    assert max(found["accumulated"]) < 1e-3
