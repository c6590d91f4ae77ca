"""Parity of bundles that make videos of pictures: pictures of its own making, or brought; and what is wrong is found.

The model is the tests' own: two experts, and what is made of pictures is drawn from a posterior, before the noise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dit_deploy.bundle import Bundle
from dit_deploy.errors import InputError
from dit_deploy.parity import ParityReport, parity
from dit_deploy.parity.examples import example_picture
from dit_deploy.runtimes.torch import Sampled, TorchReference, TorchRunner
from tests.parity.altered import Changed, perturb, rebuild

STEPS = 4
COMPONENTS = {"denoiser", "denoiser_2", "vae_encoder", "vae_decoder", "image_conditions"}
MADE = "generation from a picture, what is made of the pictures: image_latents off by"


@pytest.fixture(scope="module")
def usual(video: Bundle, torch_video: TorchReference) -> ParityReport:
    return check(video, torch_video)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """A first and a last picture, of other sizes than the video's 24 × 20 pixels."""
    paths = [tmp_path / "first.png", tmp_path / "last.png"]
    example_picture(7, 48, 40).save(paths[0])
    example_picture(8, 36, 30).save(paths[1])
    return paths


def check(bundle: Bundle, reference: TorchReference, **arguments: Any) -> ParityReport:
    return parity(
        bundle, reference, **{"num_inference_steps": STEPS, "class_labels": [3, 1], "threads": 1, **arguments}
    )


def without_components(report: ParityReport) -> str:
    """Return where the generations alone go wrong first."""
    return str(replace(report, components=()).first_excess)


def test_a_picture_is_made_where_none_is_given(usual: ParityReport) -> None:
    assert usual.first_excess is None
    assert {row.component for row in usual.components} == COMPONENTS
    plain, given = usual.runs
    assert (plain.name, given.name) == ("generation", "generation from a picture")
    assert "image" not in plain.settings and plain.conditions == {}
    said = "coloured waves made here, 2 of 40×48 pixels, the same each time"
    assert given.settings["image"] == said and "last_image" not in given.settings
    assert set(given.conditions) == {"image_latents", "image_mask"}
    assert 0 < given.conditions["image_latents"] < 1e-5
    for run in usual.runs:
        assert (run.steps, len(run.accumulated), len(run.pictures)) == (STEPS, STEPS + 1, 2)
        assert 0 < max(run.accumulated) < 1e-5 and 0 < max(run.single_step) < 1e-5
        assert max(picture.largest for picture in run.pictures) < 0.01
    assert plain.images is not None and given.images is not None
    assert np.abs(plain.images - given.images).max() > 0.1, "the picture is of consequence"
    assert json.loads(json.dumps(usual.to_dict()))["runs"][1]["conditions"].keys() == given.conditions.keys()


def test_the_picture_made_here_is_the_same_each_time(
    video: Bundle, torch_video: TorchReference, usual: ParityReport
) -> None:
    again = check(video, torch_video)
    assert again.runs[1].images is not None and usual.runs[1].images is not None
    assert np.array_equal(again.runs[1].reference_images, usual.runs[1].reference_images)
    assert again.runs[1].settings == usual.runs[1].settings


def test_a_bundle_that_needs_a_picture_is_drawn_from_one_only(
    video: Bundle, torch_video: TorchReference, tmp_path: Path
) -> None:
    assert video.manifest.image_conditions is not None
    needed = video.manifest.image_conditions.model_copy(update={"required": True})
    bundle = rebuild(video, tmp_path / "needed", lambda folder: None, image_conditions=needed)
    reference = TorchReference(replace(torch_video.source, image_conditions=needed))
    report = check(bundle, reference, seed=[4, 9])
    assert report.first_excess is None
    assert [run.name for run in report.runs] == ["generation from a picture"]


def test_pictures_that_are_brought(video: Bundle, torch_video: TorchReference, files: list[Path]) -> None:
    """One first picture stands for both samples, whose posterior is then one draw."""
    report = check(video, torch_video, image=files[:1], last_image=files[1:])
    assert report.first_excess is None
    assert (report.runs[1].settings["image"], report.runs[1].settings["last_image"]) == ("first.png", "last.png")
    each = check(video, torch_video, image=files, last_image=[Image.open(file) for file in files])
    assert each.first_excess is None
    assert each.runs[1].settings["image"] == "first.png, last.png"
    assert each.runs[1].settings["last_image"] == "a picture of 40×48 pixels, a picture of 30×36 pixels"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": ["nowhere.png"]}, "image: nowhere.png does not exist"),
        ({"image": ["first.png"] * 3}, "image: 3 pictures came, 1 or 2 expected"),
        ({"last_image": ["last.png"]}, "last_image: came without an image"),
        ({"height": 22}, "height: 22 came, expected a multiple of 4 pixels"),
        ({"num_frames": 4}, "num_frames: 4 came, which does not fit this model"),
    ],
)
def test_bad_input_is_refused_before_any_work(
    video: Bundle,
    torch_video: TorchReference,
    files: list[Path],
    arguments: dict[str, Any],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(files[0].parent)
    said: list[str] = []
    with pytest.raises(InputError, match=message):
        check(video, torch_video, progress=said.append, **arguments)
    assert said == []


def test_what_a_bundle_has_no_use_for_is_refused(
    bundle: Bundle,
    reference: TorchReference,
    video: Bundle,
    torch_video: TorchReference,
    files: list[Path],
    tmp_path: Path,
) -> None:
    with pytest.raises(InputError, match="last_image: this bundle takes none"):
        parity(bundle, reference, last_image=files[:1])
    plain = rebuild(video, tmp_path / "plain", lambda folder: None, image_conditions=None)
    with pytest.raises(InputError, match="image: this bundle takes none"):
        parity(plain, TorchReference(replace(torch_video.source, image_conditions=None)), image=files[:1])


def test_image_to_image_from_a_picture_that_is_brought(
    bundle: Bundle, reference: TorchReference, files: list[Path]
) -> None:
    report = check(bundle, reference, image=files[:1], num_inference_steps=2)
    assert report.first_excess is None
    assert report.runs[1].name == "image-to-image"
    assert report.runs[1].settings["image"] == "first.png"
    with pytest.raises(InputError, match="image: 3 pictures came, 1 or 2 expected"):
        check(bundle, reference, image=[files[0]] * 3)


def altered(video: Bundle, folder: Path, component: str, initializer: str) -> Bundle:
    def change(copied: Path) -> None:
        perturb(copied / component / "model.onnx", initializer, 1.05)

    return rebuild(video, folder / "altered", change)


def test_altered_weights_of_what_reads_pictures_are_found_there(
    video: Bundle, torch_video: TorchReference, tmp_path: Path
) -> None:
    report = check(altered(video, tmp_path, "image_conditions", "encoder.conv.weight"), torch_video)
    assert str(report.first_excess).startswith("image conditions at batch 2, ")
    assert {row.component for row in report.components if row.relative > 1e-4} == {"image_conditions"}
    assert without_components(report).startswith(MADE)


def test_an_altered_second_expert_is_found_in_its_steps(
    video: Bundle, torch_video: TorchReference, tmp_path: Path
) -> None:
    report = check(altered(video, tmp_path, "denoiser_2", "mix.weight"), torch_video)
    assert {row.component for row in report.components if row.relative > 1e-4} == {"denoiser_2"}
    run = report.runs[0]
    first = next(step for step, timestep in enumerate(run.timesteps) if timestep < 700)
    assert 0 < first < STEPS, "both experts have a part"
    assert max(run.single_step[:first]) < 1e-5 < min(run.single_step[first:])
    assert without_components(report).startswith(f"generation, step {first + 1} of {STEPS}: latents off by")


def test_an_altered_scheduler_is_found_in_the_trajectory(
    video: Bundle, torch_video: TorchReference, tmp_path: Path
) -> None:
    def change(folder: Path) -> None:
        path = folder / "scheduler" / "scheduler_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "shift": 3.1}))

    report = check(rebuild(video, tmp_path / "altered", change), torch_video)
    assert str(report.first_excess).startswith(f"generation, step 1 of {STEPS}: latents off by")


class Mirrored(TorchReference):
    """Is given the picture the other way round."""

    def sample(self, *arguments: Any, image: Any = None, **more: Any) -> Sampled:
        turned = None if image is None else [one.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for one in image]
        return super().sample(*arguments, image=turned, **more)


def test_another_picture_is_found_in_what_is_made_of_it(video: Bundle, torch_video: TorchReference) -> None:
    report = check(video, Mirrored(torch_video.source))
    assert str(report.first_excess).startswith(MADE)
    plain, given = report.runs
    assert max(plain.accumulated) < 1e-5, "the run without it is right"
    blind = replace(report, runs=[replace(given, conditions={})])
    assert str(blind.first_excess).startswith(f"generation from a picture, step 1 of {STEPS}: latents off by")


def test_a_picture_that_becomes_no_finite_number_is_a_result(video: Bundle, torch_video: TorchReference) -> None:
    def spoil(outputs: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
        if inputs["given"].any():
            outputs["image_latents"][...] = np.nan

    runner = Changed(TorchRunner(torch_video, "image_conditions", video.component("image_conditions")), spoil)
    report = check(video, torch_video, runners={"image_conditions": runner})
    plain, given = report.runs
    assert plain.failure == "" and "image_conditions's image_latents holds NaN" in given.failure
    assert without_components(report).startswith(
        "generation from a picture, what is made of the pictures: image_latents"
    )
    assert json.dumps(report.to_dict(), allow_nan=False)
