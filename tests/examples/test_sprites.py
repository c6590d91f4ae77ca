"""The trained video demo: its data and its measure of motion; exported, the clips of PyTorch, which move as told."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from dit_deploy import Bundle, Pipeline

SPRITES = Path(__file__).parents[2] / "examples" / "sprites"
MODULES = ("common", "data", "evaluate", "motion", "networks", "sampling", "shared", "training")


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    """The example's modules, whose names are those of other examples too: imported from its folder, then forgotten."""
    kept = {name: sys.modules.pop(name) for name in MODULES if name in sys.modules}
    sys.path.insert(0, str(SPRITES))
    try:
        yield {name: importlib.import_module(name) for name in ("data", "motion", "sampling", "evaluate")}
    finally:
        sys.path.remove(str(SPRITES))
        sys.path.remove(str(SPRITES.parent))  # which shared.py appends
        for name in MODULES:
            sys.modules.pop(name, None)
        sys.modules.update(kept)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    from dit_deploy.exporters import export

    return export(SPRITES / "model", tmp_path_factory.mktemp("sprites") / "bundle")


def disc(radius: float = 9.0) -> np.ndarray:
    """A sprite, float32 [20, 20, 4]: a red disc."""
    rows, columns = np.indices((20, 20)) - 9.5
    sprite = np.zeros((20, 20, 4), np.float32)
    sprite[..., 0] = 1
    sprite[..., 3] = np.hypot(rows, columns) <= radius
    return sprite


def test_a_quarter_of_all_motions_of_sprites_is_held_out_evenly(scripts: dict[str, ModuleType]) -> None:
    data = scripts["data"]
    clips = data.all_clips()
    assert len({clip.caption for clip in clips}) == len(clips) == 768
    held_out = [clip for clip in clips if clip.held_out]
    assert len(held_out) == 192
    for key in ("sprite", "background"):
        counts = {
            value: sum(getattr(clip, key) == value for clip in held_out) for value in {getattr(c, key) for c in clips}
        }
        assert len(set(counts.values())) == 1
    for motion in data.MOTIONS:
        assert sum((clip.direction, clip.speed) == motion for clip in held_out) == 24


def test_every_motion_of_a_drawn_clip_is_measured_right(scripts: dict[str, ModuleType]) -> None:
    data, measure = scripts["data"], scripts["motion"].measure
    dice = np.random.default_rng(0)
    for direction, speed in data.MOTIONS:
        for background in data.BACKGROUNDS:
            clip = data.Clip("red apple", direction, speed, background)
            places = data.path(direction, speed, data.random_start(clip, dice))
            frames = data.render(disc(), background, places).transpose(0, 2, 3, 1)
            assert frames.shape == (17, 64, 64, 3)
            found = measure(frames)
            assert (found.direction, found.speed) == (direction, speed)


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([(20, 20)] * 17, (None, None)),
        ([(8 + step, 8 + step) for step in range(17)], (None, "fast")),
        ([(10 + step // 8, 20) for step in range(17)], (None, None)),
        ([(100, 100)] + [(10 + step, 20) for step in range(16)], (None, None)),
    ],
    ids=["standing still", "diagonal", "too slow", "nothing in the first frame"],
)
def test_what_no_caption_says_is_no_motion(
    scripts: dict[str, ModuleType], places: list[tuple[int, int]], expected: tuple[Any, Any]
) -> None:
    frames = scripts["data"].render(disc(), "grey", np.array(places)).transpose(0, 2, 3, 1)
    found = scripts["motion"].measure(frames)
    assert (found.direction, found.speed) == expected


def test_the_nearest_sprite_is_the_one_that_is_shown(scripts: dict[str, ModuleType]) -> None:
    data, evaluate = scripts["data"], scripts["evaluate"]
    sprites = {"disc": disc(), "small": disc(6.0), "square": np.ones((20, 20, 4), np.float32)}
    for name, sprite in sprites.items():
        frames = data.render(sprite, "blue", data.path("right", "fast", (3, 40))).transpose(0, 2, 3, 1)
        assert evaluate.nearest_sprite(frames, sprites) == name
    assert evaluate.nearest_sprite(np.full((17, 64, 64, 3), 0.5), sprites) is None


def test_the_folder_is_at_most_25_megabytes() -> None:
    sizes = [path.stat().st_size for path in SPRITES.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.suffix == ".safetensors" for path in SPRITES.rglob("*")) == 3
    assert sum(sizes) <= 25_000_000


def test_scores_hold_what_the_card_says() -> None:
    scores = json.loads((SPRITES / "scores.json").read_text())
    assert scores["samples"]["held_out"] == 192
    assert scores["drawn_clips"]["motion"] == scores["drawn_clips"]["sprite"] == 1.0
    for name, row in scores["by_sampler"].items():
        assert row["held_out"]["motion"] >= 0.9, name


@pytest.mark.slow
@pytest.mark.parametrize(("prompts", "scale"), [(["ghost moving up fast on blue", "a red Crab moving left"], 3.0)])
def test_latents_within_1e_3_and_frames_within_one_level(
    scripts: dict[str, ModuleType], bundle: Bundle, prompts: list[str], scale: float
) -> None:
    sampling = scripts["sampling"]
    theirs = sampling.TorchSampler(SPRITES / "model")
    latents = sampling.draw(theirs.parts, prompts, 20, scale, 5)
    frames = sampling.decode(theirs.vae, latents)
    ours = Pipeline(bundle, "onnx")(
        prompt=prompts, guidance_scale=scale, num_inference_steps=20, seed=5, output_type="numpy"
    )
    assert frames.std() > 0.1
    assert np.abs(ours.latents - latents.numpy()).max() <= 1e-3 * np.abs(latents.numpy()).max()
    assert np.abs(np.asarray(ours.frames) - frames).max() <= 1 / 255


@pytest.mark.slow
def test_held_out_prompts_move_as_they_say(scripts: dict[str, ModuleType], bundle: Bundle) -> None:
    data, measure = scripts["data"], scripts["motion"].measure
    clips = [clip for clip in data.all_clips() if clip.held_out][::8]
    output = Pipeline(bundle, "onnx")(
        prompt=[clip.caption for clip in clips], num_inference_steps=20, seed=1, output_type="numpy"
    )
    found = [measure(frames) for frames in np.asarray(output.frames)]
    right = [(one.direction, one.speed) == (clip.direction, clip.speed) for one, clip in zip(found, clips, strict=True)]
    assert sum(right) >= 0.85 * len(clips)  # of 24; the whole set has the 90 % of the card


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="tensorrt-rtx is not installed: pip install 'dit-deploy[tensorrt-rtx]'",
)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_motion_survives_what_an_engine_of_another_machine_computes(
    scripts: dict[str, ModuleType], bundle: Bundle, precision: str
) -> None:
    data, evaluate = scripts["data"], scripts["evaluate"]
    clips = [clip for clip in data.all_clips() if clip.held_out][5::24]
    prompts = tuple(clip.caption for clip in data.all_clips()[:4])
    sampler = scripts["sampling"].ComputedSampler(bundle.path, "tensorrt-rtx", precision, prompts)
    videos = sampler.sample([clip.caption for clip in clips], 20, 3.0, 1)
    plain = scripts["sampling"].BundleSampler(bundle.path, "onnx").sample([clip.caption for clip in clips], 20, 3.0, 1)
    assert np.abs(videos - plain).max() > 0  # it is not the plain graph
    assert evaluate.judged(clips, videos, {"disc": disc()})["motion"] >= 0.8
