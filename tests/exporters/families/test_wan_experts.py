"""Wan 2.2's 14-billion models: two experts by timestep, against diffusers' own pipeline, unmodified."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dit_deploy import Pipeline
from dit_deploy.exporters.sources import open_source
from tests.families.checks import altered, assert_refused
from tests.families.parity import GIVEN, check_parity
from tests.families.wan import make_wan
from tests.families.wan_both import Case, made, picture

#: Exporting a whole pipeline takes half a minute.
pytestmark = pytest.mark.slow

PROMPTS = ["a photo of a small cat on a red sofa", "картина маслом: лиса в снегу"]
NEGATIVE = "low quality, blurry"


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Image to video: without CLIP, with or without a last picture."""
    return made(tmp_path_factory.mktemp("wan_experts"), "i2v-2.2", decodes=False)


@pytest.mark.parametrize("size", [(1, 32, 16), (5, 32, 48), (13, 48, 16)])
def test_two_experts_are_diffusers(experts: Case, size: tuple[int, int, int]) -> None:
    experts.draw(
        *size,
        image=picture(size[1], size[2]),
        prompt=PROMPTS[0],
        negative_prompt=NEGATIVE,
        guidance_scale=4.0,
        guidance_scale_2=2.5,
        num_inference_steps=5,
    )


@pytest.mark.parametrize(("first", "second"), [(3.0, None), (3.0, 0.5), (3.0, 1.0), (1.0, 4.0)])
def test_guidance_of_either_expert(experts: Case, first: float, second: float | None) -> None:
    """Whether a run is guided at all is the first scale's to say."""
    experts.draw(
        5, 16, 32, image=picture(16, 32), prompt=PROMPTS[1], negative_prompt=NEGATIVE, num_inference_steps=4,
        guidance_scale=first, guidance_scale_2=second,
    )  # fmt: skip


def test_a_last_picture_and_several_prompts(experts: Case) -> None:
    experts.draw(
        9, 32, 16, image=picture(64, 32, 1), last_image=picture(32, 16, 2), prompt=PROMPTS, num_inference_steps=3
    )


def test_each_expert_has_its_steps(experts: Case) -> None:
    manifest = experts.bundle.manifest
    assert manifest.experts is not None and manifest.experts.boundary == 0.8
    experts.theirs.scheduler.set_timesteps(5)
    high = experts.theirs.scheduler.timesteps >= 800
    assert high.any() and not high.all()
    pool = experts.ours.pool
    weights = [
        (experts.bundle.component_path(name).parent / "model.onnx.data").read_bytes()
        for name in ("denoiser", "denoiser_2")
    ]
    assert weights[0] != weights[1] and pool("denoiser") is not pool("denoiser_2")


def test_one_expert_in_memory_draws_the_same(experts: Case) -> None:
    usual: dict[str, Any] = {
        "prompt": "a", "image": picture(16, 16), "num_frames": 5, "height": 16, "width": 16, "num_inference_steps": 4,
        "seed": 1, "output_type": "latent",
    }  # fmt: skip
    small = Pipeline(experts.bundle, "onnx", threads=1, low_memory=True)
    assert np.array_equal(small(**usual).latents, experts.ours(**usual).latents)


def test_the_manifest_says_what_is_needed(experts: Case) -> None:
    record = experts.bundle.manifest.image_conditions
    assert record is not None and (record.required, record.last_image, record.encoder) == (True, True, None)


def test_text_to_video_with_two_experts(tmp_path: Path) -> None:
    source = open_source(make_wan(tmp_path, "t2v-2.2"))
    assert [graph.name for graph in source.graphs][-2:] == ["denoiser", "denoiser_2"]
    assert source.experts is not None and source.image_conditions is None
    first, second = source.graphs[-2:]
    assert first.component.inputs == second.component.inputs
    assert len(source.digest_files) == 2  # the weights of either


class TestBadInput:
    @pytest.mark.parametrize(
        ("file", "fields", "message"),
        [
            ("model_index.json", {"boundary_ratio": 1.5}, "boundary_ratio is 1.5; expected a number between 0 and 1"),
            ("model_index.json", {"transformer_2": [None, None]}, "boundary_ratio 0.8 and no transformer_2"),
            ("transformer_2/config.json", {"text_dim": 30}, "transformer_2 has other inputs than .*transformer"),
        ],
    )
    def test_experts(self, experts: Case, tmp_path: Path, file: str, fields: dict[str, Any], message: str) -> None:
        assert_refused(altered(experts.folder, tmp_path / "experts", file, **fields), message)


def test_parity_of_the_bundle(experts: Case) -> None:
    """Each expert in its steps, with a picture made for it, and with two that are brought."""
    runs = {GIVEN: "diffusers WanImageToVideoPipeline"}
    check_parity(experts.folder, experts.bundle, (5, 32, 48), runs)
    brought = {"image": [picture(32, 48)], "last_image": [picture(64, 96, seed=1)]}
    check_parity(experts.folder, experts.bundle, (5, 32, 48), runs, **brought)
