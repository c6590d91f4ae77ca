"""HunyuanDiT against diffusers' transformer and its pipeline, from one bundle each.

The pipeline runs with ``use_resolution_binning=False``: choosing the nearest size of a list is left to the caller here.
diffusers has no plain image-to-image pipeline of the family. What needs a whole bundle is slow: its export takes half a
minute of CPU time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, HunyuanDiTPipeline
from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import get_resize_crop_region_for_grid

from dit_deploy.exporters.families.hunyuan_dit import resize_crop_region
from dit_deploy.exporters.sources import open_source
from dit_deploy.exporters.tracing import trace
from dit_deploy.runtimes.torch import TorchReference
from tests.families import hunyuan_dit
from tests.families.checks import (
    LATENTS,
    Case,
    altered,
    assert_bad_input,
    assert_drawn,
    assert_near,
    assert_refused,
    check_embeddings,
    check_graph,
    difference,
    draw,
    exported,
    graph_of,
    seeded,
)

#: Exporting a whole pipeline takes half a minute.
pytestmark = pytest.mark.slow

PROMPTS = ["A Small cat, on a red SOFA", "一只在雪地里的狐狸,油画,高清细节 1665"]
NEGATIVE = "low quality, Blurry"


@pytest.fixture(scope="module")
def hunyuan(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("hunyuan")
    source = hunyuan_dit.hunyuan(folder / "source")
    return exported(source, HunyuanDiTPipeline, folder / "bundle", safety_checker=None)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hunyuan_dit.hunyuan(tmp_path_factory.mktemp("saved") / "source")


def reference(case: Case, seed: int, **arguments: Any) -> tuple[np.ndarray, np.ndarray]:
    return draw(case.theirs, generator=seeded(seed), use_resolution_binning=False, **arguments)


def compare(case: Case, theirs: dict[str, Any] | None = None, **arguments: Any) -> None:
    """Draw with both, and compare latents and pictures; ``theirs`` replaces arguments of diffusers' pipeline."""
    steps = {"num_inference_steps": 4}
    drawn = reference(case, 7, **steps | (arguments if theirs is None else theirs))
    assert_drawn(case.ours(**steps | arguments, seed=7, output_type="numpy"), *drawn)


GRID = ("batch", "patch_height", "patch_width")
#: The longest side is beyond the base of rotary positions, 32 patches; one side of one patch, one patch alone.
SIZES = [(1, 1, 1), (3, 5, 2), (2, 3, 7), (1, 1, 37), (1, 40, 3)]


def test_the_plain_graph_is_the_transformer_at_any_size(hunyuan: Case) -> None:
    check_graph(hunyuan.bundle.component_path("denoiser"), graph_of(hunyuan.folder, "denoiser"), GRID, SIZES, seed=0)


def test_the_plain_graph_without_size_and_style_with_two_long_skips(tmp_path: Path) -> None:
    graph = graph_of(hunyuan_dit.plain(tmp_path / "source"), "denoiser")
    trace(graph.build(), graph.component, tmp_path, graph.feeds)
    check_graph(tmp_path / graph.component.path, graph, GRID, SIZES, seed=0)


@pytest.mark.parametrize("base", [8, 16, 32])
def test_the_crop_region_is_rounded_as_python_rounds(base: int) -> None:
    sides = range(1, 130)
    grids = [(height, width) for height in sides for width in sides]
    expected = [get_resize_crop_region_for_grid(grid, base) for grid in grids]
    pairs = torch.tensor(grids)
    longest = pairs.amax(dim=1)
    for axis in range(2):
        start, stop = resize_crop_region(pairs[:, axis], longest, base)
        assert start.tolist() == [region[0][axis] for region in expected]
        assert stop.tolist() == [region[1][axis] for region in expected]


@pytest.mark.parametrize("text", ["", PROMPTS[0], PROMPTS[1], "一只猫 " * 300])
def test_embeddings_are_the_pipelines(hunyuan: Case, text: str) -> None:
    for index, suffix in enumerate(("", "_t5")):
        with torch.no_grad():
            states, _, mask, _ = hunyuan.theirs.encode_prompt(
                text, do_classifier_free_guidance=False, text_encoder_index=index
            )
        expected = {f"encoder_hidden_states{suffix}": states, f"text_embedding_mask{suffix}": mask}
        check_embeddings(hunyuan, [text], **expected)


@pytest.mark.parametrize(
    "arguments",
    [
        {"prompt": PROMPTS[0]},
        {"prompt": PROMPTS[1], "negative_prompt": NEGATIVE, "guidance_scale": 2.5, "height": 32, "width": 80},
        {"prompt": PROMPTS[1], "negative_prompt": NEGATIVE, "num_images_per_prompt": 2, "height": 64, "width": 16},
        {"prompt": PROMPTS, "guidance_scale": 1.0, "num_inference_steps": 7, "height": 16, "width": 16},
        {"prompt": PROMPTS, "guidance_rescale": 0.7, "height": 48, "width": 32},
    ],
    ids=["default", "wide", "several", "unguided", "rescaled"],
)
def test_it_draws_what_diffusers_draws(hunyuan: Case, arguments: dict[str, Any]) -> None:
    compare(hunyuan, **arguments)


def test_several_pictures_of_several_prompts(hunyuan: Case) -> None:
    """diffusers repeats embeddings one by one (a, a, b, b), but their masks as a whole (a, b, a, b), and so reads the
    second picture of the first prompt under the second prompt's mask. Ours draws what the same prompts draw when they
    are listed, which diffusers does right.
    """
    sizes = {"height": 32, "width": 48, "guidance_scale": 3.0}
    listed = {"prompt": [PROMPTS[0]] * 2 + [PROMPTS[1]] * 2, "negative_prompt": [NEGATIVE] * 4, **sizes}
    arguments = {"prompt": PROMPTS, "negative_prompt": [NEGATIVE] * 2, "num_images_per_prompt": 2, **sizes}
    compare(hunyuan, theirs=listed, **arguments)
    latents = [reference(hunyuan, 7, **given, num_inference_steps=2)[0] for given in (listed, arguments)]
    assert difference(latents[1][[0, 3]], latents[0][[0, 3]]) <= 1e-5
    assert difference(latents[1][[1, 2]], latents[0][[1, 2]]) > 1e-3
    same_length = {**arguments, "prompt": ["a red cat", "a cat red"]}
    compare(hunyuan, **same_length)


def test_another_scheduler(hunyuan: Case) -> None:
    before = hunyuan.theirs.scheduler
    hunyuan.theirs.scheduler = DPMSolverMultistepScheduler.from_config(before.config)
    arguments = {"prompt": PROMPTS[0], "num_inference_steps": 5, "height": 48, "width": 80}
    try:
        latents, _ = reference(hunyuan, 3, **arguments)
    finally:
        hunyuan.theirs.scheduler = before
    ours = hunyuan.ours(**arguments, seed=3, scheduler="DPMSolverMultistepScheduler", output_type="latent")
    assert_near(ours.latents, latents, LATENTS)


@pytest.mark.parametrize("seed", [7, [4, 5]])
def test_image_to_image(hunyuan: Case, seed: int | list[int]) -> None:
    """diffusers has no such pipeline of HunyuanDiT: held against the loop of those that it has, with its scheduler and
    VAE, after that loop is found to draw what HunyuanDiT's own pipeline draws without a picture.
    """
    pytorch = TorchReference.open(hunyuan.folder)
    given: dict[str, Any] = {"prompt": PROMPTS, "num_inference_steps": 5, "guidance_scale": 3.0, "seed": seed}
    size = {"height": 48, "width": 32}
    loop = pytorch.sample(**given, **size, own_loop=True)
    assert pytorch.sample(**given, **size).implementation == "diffusers HunyuanDiTPipeline"
    assert difference(loop.latents, pytorch.sample(**given, **size).latents) <= 1e-4

    image = np.random.default_rng(3).random((1 if seed == 7 else 2, 48, 32, 3)).astype(np.float32)
    theirs = pytorch.sample(**given, image=image, strength=0.6, **size)
    ours = hunyuan.ours(**given, image=image, strength=0.6, output_type="numpy")
    assert len(theirs.evaluations) == 3
    assert theirs.images is not None
    assert_drawn(ours, theirs.latents, theirs.images)

    # What both begin with, by diffusers' own classes.
    vae, scheduler = hunyuan.theirs.vae, DDPMScheduler.from_config(hunyuan.theirs.scheduler.config)
    scheduler.set_timesteps(5)
    pixels = 2 * torch.from_numpy(image).permute(0, 3, 1, 2) - 1
    seeds = [seed] if isinstance(seed, int) else seed
    generators = [seeded(one) for one in seeds]
    with torch.no_grad():
        posteriors = [vae.encode(one[None]).latent_dist for one in pixels]
    clean = torch.cat([one.sample(generator) for one, generator in zip(posteriors, generators, strict=True)])
    clean = (clean * vae.config.scaling_factor).expand(2, -1, -1, -1)
    each = (2 // len(seeds), *clean.shape[1:])
    noise = torch.cat([torch.randn(each, generator=generator) for generator in generators])
    start = scheduler.add_noise(clean, noise, scheduler.timesteps[2:3].repeat(2))
    assert difference(theirs.evaluations[0].sample, start.numpy()) <= 1e-5


def test_the_bundle_says_what_the_pipeline_does(saved: Path) -> None:
    source = open_source(saved)
    assert (source.guidance.default_scale, source.scheduler.num_inference_steps) == (5.0, 50)
    assert source.prompts is not None and source.prompts.negative == ""
    assert (source.latents.height, source.latents.spatial_compression) == (6, 8)
    assert (source.prediction.type, source.prediction.learned_range_variance) == ("v_prediction", True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"height": 40}, "height: 40 came, expected a multiple of 16 pixels"),
        ({"class_labels": 3}, "class_labels: this bundle's denoiser takes none"),
        ({"prompt": None}, "encoder_hidden_states: this bundle needs it, and none came; give a prompt"),
        ({"conditions": {"encoder_hidden_states": np.zeros((1, 76, 20), np.float32)}}, "encoder_hidden_states"),
    ],
)
def test_bad_input_is_one_line(hunyuan: Case, arguments: dict[str, Any], message: str) -> None:
    assert_bad_input(hunyuan.ours, message, **{"prompt": "a cat", **arguments})


@pytest.mark.parametrize(
    ("file", "fields", "message"),
    [
        ("transformer/config.json", {"_class_name": "UNet2DModel"}, "holds a UNet2DModel; expected HunyuanDiT2DModel"),
        ("transformer/config.json", {"learn_sigma": False}, "learns no variance"),
        ("transformer/config.json", {"text_len": 80}, "has text_len 80; HunyuanDiT's pipeline makes 77 tokens"),
        ("transformer/config.json", {"hidden_size": 64}, "has hidden_size 64; 3 heads of 20 need 60"),
        ("transformer/config.json", {"patch_size": 3}, "has patch_size 3; expected a power of two"),
        ("transformer/config.json", {"cross_attention_dim_t5": 32}, "text_encoder_2 makes 24 channels, .* takes 32"),
        ("transformer/config.json", {"cross_attention_dim": 32}, "text_encoder makes 20 channels, .* takes 32"),
        ("text_encoder/config.json", {"model_type": "clip_text_model"}, "expected 'bert'"),
        ("vae/config.json", {"shift_factor": 0.1}, "shift_factor 0.1, which HunyuanDiT's pipeline does not apply"),
        ("scheduler/scheduler_config.json", {"prediction_type": "score"}, "prediction_type 'score' .* is none of"),
    ],
)
def test_a_folder_that_cannot_be_exported(
    saved: Path, tmp_path: Path, file: str, fields: dict[str, Any], message: str
) -> None:
    assert_refused(altered(saved, tmp_path / "altered", file, **fields), message)
