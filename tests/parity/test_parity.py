"""The comparison on a bundle that is right, and on others that are wrong in a known place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dit_deploy.bundle import Axis, Bundle, Profile, SizeRange
from dit_deploy.errors import BackendError, InputError
from dit_deploy.parity import LIMITS, ParityReport, parity
from dit_deploy.parity.components import example_inputs, sizes_to_try
from dit_deploy.runtimes.torch import TorchReference, TorchRunner
from tests.parity.altered import Changed, latents_only, perturb, rebuild
from tests.runtimes.engines import add_engine

STEPS = 4


def check(bundle: Bundle, reference: TorchReference, **arguments: Any) -> ParityReport:
    return parity(bundle, reference, **{"num_inference_steps": STEPS, "class_labels": [3], "threads": 1, **arguments})


def test_a_good_bundle_passes(report: ParityReport) -> None:
    assert report.first_excess is None
    assert report.passed
    assert report.limits is LIMITS["fp32"]
    assert {row.component for row in report.components} == {"denoiser", "vae_encoder", "vae_decoder"}
    assert {row.output for row in report.components} >= {"prediction", "variance", "mean", "std", "images"}
    assert len({row.shape for row in report.components if row.output == "prediction"}) == 4
    assert 0 < max(row.relative for row in report.components) < 1e-4
    generation, image_to_image = report.runs
    assert generation.implementation == "diffusers DiTPipeline"
    assert (generation.steps, len(generation.accumulated)) == (10, 11)
    assert (image_to_image.steps, len(image_to_image.accumulated)) == (6, 7)
    for run in report.runs:
        assert 0 < max(run.accumulated) < 1e-4
        assert 0 < max(run.single_step) < 1e-4
        assert [picture.label for picture in run.pictures] == [3, 16]
        assert all(picture.psnr > 90 and picture.ssim > 0.999999 for picture in run.pictures)
    assert report.notes == []


def test_the_report_survives_json(report: ParityReport, bundle: Bundle, tmp_path: Path) -> None:
    copy = rebuild(bundle, tmp_path / "copy", lambda folder: None)
    document = json.loads(copy.write_parity("onnx", report.to_dict()).read_text())
    assert document == report.to_dict()
    assert document["passed"] is True
    assert document["subject"]["source sha256"] == document["subject"]["reference sha256"]
    assert document["runs"][0]["settings"]["class_labels"] == [3, 16]


@pytest.mark.parametrize(
    ("component", "initializer", "excess"),
    [
        (
            "denoiser",
            "blocks.1.mlp_out.weight",
            "denoiser at batch 2, patch height 4, patch width 4: prediction off by",
        ),
        ("vae_decoder", "vae.decoder.mid_block.resnets.0.conv1.weight", "vae decoder at batch 2"),
    ],
)
def test_altered_weights_fail_where_they_are(
    bundle: Bundle, reference: TorchReference, tmp_path: Path, component: str, initializer: str, excess: str
) -> None:
    def change(folder: Path) -> None:
        perturb(folder / component / "model.onnx", initializer, 1.05)

    report = check(rebuild(bundle, tmp_path / "altered", change), reference)
    assert not report.passed
    assert str(report.first_excess).startswith(excess)
    assert str(report.first_excess).endswith("the limit is 0.0001")
    assert {row.component for row in report.components if row.relative > 1e-4} == {component}


def test_another_scheduler_fails_in_the_trajectory(bundle: Bundle, reference: TorchReference, tmp_path: Path) -> None:
    def change(folder: Path) -> None:
        path = folder / "scheduler" / "scheduler_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "beta_end": 0.0201}))

    report = check(rebuild(bundle, tmp_path / "altered", change), reference)
    assert str(report.first_excess).startswith(f"generation, step 1 of {STEPS}: latents off by")
    assert "the error accumulated" in str(report.first_excess), "the denoiser itself is right"


def test_values_that_are_not_finite_are_a_result(bundle: Bundle, reference: TorchReference) -> None:
    def change(outputs: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
        if 0 < inputs["timestep"][0] < 400:
            outputs["prediction"][...] = np.nan

    runner = Changed(TorchRunner(reference, "denoiser", bundle.component("denoiser")), change)
    report = check(bundle, reference, runners={"denoiser": runner})
    run = report.runs[0]
    assert "hold NaN" in run.failure
    assert run.images is None
    assert not np.isfinite(run.accumulated[-1])
    assert json.dumps(report.to_dict(), allow_nan=False)
    excess = str(replace(report, components=()).first_excess)
    assert excess.startswith("generation, step 3 of 4: latents with values that are not finite; step 3 alone")


def test_one_bad_step_is_told_from_drift(bundle: Bundle, reference: TorchReference) -> None:
    def at_once(outputs: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
        if inputs["timestep"][0] == 500:
            outputs["prediction"][...] *= 1.5

    runner = Changed(TorchRunner(reference, "denoiser", bundle.component("denoiser")), at_once)
    report = replace(check(bundle, reference, runners={"denoiser": runner}), components=())
    assert "step 2 of 4: latents off by" in str(report.first_excess)
    assert "step 2 alone adds" in str(report.first_excess)


def test_another_checkpoint_is_noted(bundle: Bundle, tmp_path: Path) -> None:
    from tests.models import make_pipeline

    report = check(bundle, TorchReference.open(make_pipeline(tmp_path / "other", seed=1)))
    assert not report.passed
    assert "not the checkpoint that this bundle was made from" in report.notes[0]


def test_a_bundle_without_a_vae(bundle: Bundle, reference: TorchReference, tmp_path: Path) -> None:
    bare = rebuild(bundle, tmp_path / "latents", lambda folder: None, components=("denoiser",))
    report = check(bare, TorchReference(latents_only(reference.source)))
    assert report.passed
    assert [run.name for run in report.runs] == ["generation"]
    assert report.runs[0].pictures == ()
    assert report.runs[0].implementation.startswith("the loop")


@pytest.mark.parametrize("scheduler", ["DDPMScheduler", "heun"])
def test_other_schedulers(bundle: Bundle, reference: TorchReference, scheduler: str) -> None:
    report = check(bundle, reference, scheduler=scheduler, height=96, seed=[7])
    assert report.first_excess is None
    assert [run.steps for run in report.runs] == [STEPS, 2]


@pytest.mark.parametrize("scheduler", ["lms", "pndm"])
def test_where_diffusers_begins_wrong_image_to_image_is_left_out(
    bundle: Bundle, reference: TorchReference, scheduler: str
) -> None:
    report = check(bundle, reference, scheduler=scheduler)
    assert report.first_excess is None
    assert [run.name for run in report.runs] == ["generation"]
    (note,) = report.notes
    assert "Image-to-image was not compared" in note
    assert report.engine == "onnx"


def test_an_engine_is_held_against_its_own_precision(bundle: Bundle, reference: TorchReference, tmp_path: Path) -> None:
    copy = Bundle.open(shutil.copytree(bundle.path, tmp_path / "copy"))
    engine = add_engine(copy, "fast", precision="int8")
    lines: list[str] = []
    report = check(copy, reference, progress=lines.append)
    assert (report.engine, report.limits.precision, report.passed) == ("fast", "int8", True)
    version = engine.record.backend_version
    assert report.subject["engine"] == f"fast (int8, ONNX Runtime {version} with CPUExecutionProvider)"
    assert lines[0] == "engine fast: the one that fits"
    assert check(copy, reference, engine="onnx").limits.precision == "fp32"
    assert check(copy, reference, engine="fast", precision="fp16").limits.precision == "fp16"


def test_bad_arguments(bundle: Bundle, reference: TorchReference) -> None:
    with pytest.raises(InputError, match="precision: 'fp17' came; limits are set for fp32, fp16, bf16, int8"):
        check(bundle, reference, precision="fp17")
    with pytest.raises(InputError, match="class_labels: 18 is outside"):
        check(bundle, reference, class_labels=[18])
    other = replace(
        reference.source, scheduler_config={**reference.source.scheduler_config, "_class_name": "HeunDiscreteScheduler"}
    )
    with pytest.raises((BackendError, InputError), match="scheduler"):
        check(bundle, TorchReference(other))
    other = replace(
        reference.source, family="pixart", latents=reference.source.latents.model_copy(update={"channels": 8})
    )
    with pytest.raises(InputError, match=r"reference: it is pixart with 8 latent channels .*, this bundle dit with 6 "):
        check(bundle, TorchReference(other))


def test_progress_is_lines(bundle: Bundle, reference: TorchReference) -> None:
    lines: list[str] = []
    check(bundle, reference, progress=lines.append)
    assert lines[0] == "comparing vae encoder"
    assert "generation in PyTorch" in lines
    assert len(lines) == len(set(lines))


def test_sizes_stay_in_what_a_component_takes(bundle: Bundle) -> None:
    component, typical = bundle.component("denoiser"), {"batch": 2, "patch_height": 4, "patch_width": 4}
    assert sizes_to_try(component, typical) == [
        {"batch": 2, "patch_height": 4, "patch_width": 4},
        {"batch": 1, "patch_height": 1, "patch_width": 1},
        {"batch": 3, "patch_height": 2, "patch_width": 4},
        {"batch": 1, "patch_height": 5, "patch_width": 5},
    ]

    def fixed(axis: int | Axis) -> int | Axis:
        return axis if isinstance(axis, int) else axis.model_copy(update={"minimum": 4, "maximum": 4})

    narrow = component.model_copy(
        update={"inputs": tuple(s.model_copy(update={"axes": tuple(map(fixed, s.axes))}) for s in component.inputs)}
    )
    assert sizes_to_try(narrow, typical) == [{"batch": 4, "patch_height": 4, "patch_width": 4}]


def test_sizes_stay_in_an_engines_profiles(bundle: Bundle) -> None:
    component, typical = bundle.component("denoiser"), {"batch": 2, "patch_height": 4, "patch_width": 4}

    def profile(batch: tuple[int, int], size: tuple[int, int]) -> Profile:
        return Profile(
            sizes={
                name: SizeRange(minimum=low, optimum=low, maximum=high)
                for name, (low, high) in (("batch", batch), ("patch_height", size), ("patch_width", size))
            }
        )

    wide = sizes_to_try(component, typical)
    assert sizes_to_try(component, typical, [profile((1, 8), (1, 8))]) == wide
    two = [profile((2, 2), (4, 4)), profile((1, 1), (1, 1))]
    tried = sizes_to_try(component, typical, two)
    assert tried == [
        {"batch": 2, "patch_height": 4, "patch_width": 4},
        {"batch": 1, "patch_height": 1, "patch_width": 1},
    ]


def test_inputs_span_their_ranges(bundle: Bundle) -> None:
    sizes = {"batch": 64, "patch_height": 1, "patch_width": 1}
    feeds = example_inputs(bundle.component("denoiser"), sizes, "training_index", seed=0)
    assert (feeds["timestep"].min(), feeds["timestep"].max()) == (0, 999)
    assert set(feeds["class_labels"]) == set(range(18)), "the null class included"
    again = example_inputs(bundle.component("denoiser"), sizes, "training_index", seed=0)
    assert all(np.array_equal(feeds[name], again[name]) for name in feeds)
