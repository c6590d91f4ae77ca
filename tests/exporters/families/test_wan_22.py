"""Wan 2.2: two experts by timestep, and the 5-billion model with a timestep for each token, against diffusers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from diffusers import WanImageToVideoPipeline

from dit_deploy import Pipeline
from dit_deploy.errors import InputError, SourceError
from dit_deploy.exporters.sources import open_source
from dit_deploy.exporters.tracing import example_inputs
from tests.families.wan import make_wan
from tests.families.wan_both import LATENTS, Both, both, picture

#: Two pipelines with all their parts are exported.
pytestmark = pytest.mark.slow

PROMPTS = ["a photo of a small cat on a red sofa", "картина маслом: лиса в снегу"]
NEGATIVE = "low quality, blurry"
GRAPH = 1e-4


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Both:
    """The 14-billion model of image to video: without CLIP, with or without a last picture."""
    return both(tmp_path_factory.mktemp("wan_experts"), "i2v-2.2")


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Both:
    """The 5-billion model, of which one bundle makes videos of texts and of pictures."""
    return both(tmp_path_factory.mktemp("wan_masked"), "ti2v")


@pytest.fixture(scope="module")
def of_pictures(masked: Both) -> WanImageToVideoPipeline:
    parts = masked.reference.components
    pipeline = WanImageToVideoPipeline(**parts, image_encoder=None, image_processor=None, expand_timesteps=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("size", [(1, 32, 16), (5, 32, 48), (13, 48, 16)])
def test_two_experts_are_diffusers(experts: Both, size: tuple[int, int, int]) -> None:
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
def test_guidance_of_either_expert(experts: Both, first: float, second: float | None) -> None:
    """Whether a run is guided at all is the first scale's to say."""
    experts.draw(
        5, 16, 32, image=picture(16, 32), prompt=PROMPTS[1], negative_prompt=NEGATIVE, num_inference_steps=4,
        guidance_scale=first, guidance_scale_2=second,
    )  # fmt: skip


def test_a_last_picture_and_several_prompts(experts: Both) -> None:
    experts.draw(
        9, 32, 16, image=picture(64, 32, 1), last_image=picture(32, 16, 2), prompt=PROMPTS, num_inference_steps=3
    )


def test_each_expert_has_its_steps(experts: Both) -> None:
    manifest = experts.bundle.manifest
    assert manifest.experts is not None and manifest.experts.boundary == 0.8
    experts.reference.scheduler.set_timesteps(5)
    high = experts.reference.scheduler.timesteps >= 800
    assert high.any() and not high.all()
    pool = experts.pipeline.pool
    weights = [
        (experts.bundle.component_path(name).parent / "model.onnx.data").read_bytes()
        for name in ("denoiser", "denoiser_2")
    ]
    assert weights[0] != weights[1] and pool("denoiser") is not pool("denoiser_2")


def test_one_expert_in_memory_draws_the_same(experts: Both) -> None:
    usual: dict[str, Any] = {
        "prompt": "a", "image": picture(16, 16), "num_frames": 5, "height": 16, "width": 16, "num_inference_steps": 4,
        "seed": 1, "output_type": "latent",
    }  # fmt: skip
    small = Pipeline(experts.bundle, "onnx", threads=1, low_memory=True)
    assert np.array_equal(small(**usual).latents, experts.pipeline(**usual).latents)


@pytest.mark.parametrize("size", [(1, 16, 16), (5, 32, 48), (13, 48, 16)])
def test_text_to_video_with_a_timestep_a_token(masked: Both, size: tuple[int, int, int]) -> None:
    masked.draw(*size, prompt=PROMPTS[0], negative_prompt=NEGATIVE, guidance_scale=3.0, num_inference_steps=3)


@pytest.mark.parametrize("size", [(1, 32, 32), (5, 32, 48), (13, 48, 16)])
def test_image_to_video_of_the_same_bundle(
    masked: Both, of_pictures: WanImageToVideoPipeline, size: tuple[int, int, int]
) -> None:
    masked.draw(
        *size,
        image=picture(2 * size[1], 2 * size[2]),
        prompt=PROMPTS,
        negative_prompt=[NEGATIVE, ""],
        num_inference_steps=3,
        reference=of_pictures,
    )


def test_the_picture_is_kept(masked: Both) -> None:
    usual: dict[str, Any] = {"prompt": "a", "num_frames": 5, "height": 32, "width": 32, "num_inference_steps": 2}
    image = picture(32, 32, 7)
    drawn = masked.pipeline(image=image, seed=0, output_type="latent", **usual).latents
    pixels = np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 255
    known = masked.pipeline.encode(pixels[:, :, None], 1, None)  # type: ignore[arg-type]
    assert np.abs(drawn[:, :, :1] - known).max() <= 1e-5 * np.abs(known).max()
    without = masked.pipeline(seed=0, output_type="latent", **usual).latents
    assert np.abs(drawn[:, :, 1:] - without[:, :, 1:]).max() > 10 * LATENTS * np.abs(without).max()


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1), (3, 7, 5, 2, 9), (2, 4, 1, 9, 512)])
def test_plain_graphs_are_diffusers(masked: Both, sizes: tuple[int, ...]) -> None:
    """At sizes not traced, run by ONNX Runtime alone."""
    for graph in open_source(masked.folder).graphs:
        if graph.name == "text_encoder":
            continue
        unit = "patch" if graph.name == "denoiser" else "latent"
        names = ("batch", f"{unit}_frames", f"{unit}_height", f"{unit}_width", "sequence_length")
        feeds = example_inputs(graph.component, dict(zip(names, sizes, strict=True)), 9, graph.feeds)
        session = ort.InferenceSession(masked.bundle.component_path(graph.name), providers=["CPUExecutionProvider"])
        assert graph.reference is not None
        with torch.no_grad():
            expected = graph.reference()(*(torch.from_numpy(array) for array in feeds.values()))
        for found, wanted in zip(session.run(None, feeds), expected, strict=True):
            assert found.shape == wanted.shape
            assert np.abs(found - wanted.numpy()).max() <= GRAPH * wanted.abs().max(), graph.name


def test_manifests(experts: Both, masked: Both) -> None:
    record = experts.bundle.manifest.image_conditions
    assert record is not None and (record.required, record.last_image, record.encoder) == (True, True, None)
    manifest = masked.bundle.manifest
    record = manifest.image_conditions
    assert record is not None and (record.required, record.last_image, record.mask) == (False, False, "image_mask")
    assert (manifest.latents.frame_rate, manifest.experts, manifest.tiling) == (24.0, None, None)
    assert manifest.latents.spatial_compression == 8


def test_text_to_video_with_two_experts(tmp_path: Path) -> None:
    source = open_source(make_wan(tmp_path, "t2v-2.2"))
    assert [graph.name for graph in source.graphs][-2:] == ["denoiser", "denoiser_2"]
    assert source.experts is not None and source.image_conditions is None
    first, second = source.graphs[-2:]
    assert first.component.inputs == second.component.inputs
    assert len(source.digest_files) == 4  # config and weights of either


class TestBadInput:
    def test_a_last_picture(self, masked: Both) -> None:
        with pytest.raises(InputError, match="last_image: this model takes a first picture only"):
            masked.pipeline(prompt="a", image=picture(16, 16), last_image=picture(16, 16), num_frames=5)

    @pytest.mark.parametrize(
        ("file", "fields", "message"),
        [
            ("model_index.json", {"boundary_ratio": 1.5}, "boundary_ratio is 1.5; expected a number between 0 and 1"),
            ("model_index.json", {"transformer_2": [None, None]}, "boundary_ratio 0.8 and no transformer_2"),
            ("transformer_2/config.json", {"text_dim": 30}, "transformer_2 has other inputs than .*transformer"),
        ],
    )
    def test_experts(self, experts: Both, tmp_path: Path, file: str, fields: dict[str, Any], message: str) -> None:
        folder = shutil.copytree(experts.folder, tmp_path / "experts")
        config = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**config, **fields}))
        with pytest.raises(SourceError, match=message) as caught:
            open_source(folder)
        assert "\n" not in str(caught.value)
