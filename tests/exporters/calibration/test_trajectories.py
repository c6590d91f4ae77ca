"""What is kept of a sampling run: every part of the schedule, every picture, and exactly what the denoiser saw."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dit_deploy import Bundle
from dit_deploy.bundle import Component, TensorSpec
from dit_deploy.errors import BundleError, InputError, IntegrityError
from dit_deploy.exporters.calibration import Trajectories, decode_latents, plan, sample_trajectories, trajectories
from dit_deploy.runtimes import Pipeline
from dit_deploy.runtimes.torch import TorchReference

SAMPLES, STEPS, NULL = 5, 4, 17


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


@pytest.fixture(scope="module")
def drawn(bundle: Bundle) -> Trajectories:
    return sample_trajectories(bundle, plan(bundle, samples=SAMPLES, evaluations=STEPS, steps=STEPS, seed=3), threads=1)


def as_bytes(drawn: Trajectories) -> list[bytes]:
    return [array.tobytes() for feeds in drawn.feeds for array in feeds.values()] + [drawn.latents.tobytes()]


def test_feeds_are_what_the_source_is_fed(drawn: Trajectories, tiny_source: Path) -> None:
    labels = drawn.settings.conditions["class_labels"]
    expected = TorchReference.open(tiny_source).sample(
        labels, num_inference_steps=STEPS, guidance_scale=4.0, seed=[3 + i for i in range(SAMPLES)]
    )
    assert len(drawn.evaluations) == len(expected.evaluations) == STEPS
    for kept, reference in zip(drawn.evaluations, expected.evaluations, strict=True):
        latents = kept.feeds["latents"]
        np.testing.assert_allclose(latents[:SAMPLES], reference.sample, rtol=1e-3, atol=1e-3)
        np.testing.assert_array_equal(latents[SAMPLES:], latents[:SAMPLES])
        np.testing.assert_array_equal(kept.feeds["timestep"], np.full(2 * SAMPLES, reference.timestep))
        np.testing.assert_array_equal(kept.feeds["class_labels"], [*labels, *[NULL] * SAMPLES])
    np.testing.assert_allclose(drawn.latents, expected.latents, rtol=1e-3, atol=1e-3)


def test_latents_are_the_pipelines(drawn: Trajectories, bundle: Bundle) -> None:
    output = Pipeline(bundle, "onnx", threads=1)(
        class_labels=list(drawn.settings.conditions["class_labels"]),
        num_inference_steps=STEPS,
        seed=[3 + i for i in range(SAMPLES)],
        output_type="numpy",
    )
    np.testing.assert_allclose(drawn.latents, output.latents, rtol=1e-4, atol=1e-4)
    images = decode_latents(bundle, drawn.latents, threads=1)
    np.testing.assert_allclose(images.transpose(0, 2, 3, 1), output.images, atol=1e-4)


def test_the_same_seed_gives_the_same_bytes(drawn: Trajectories, bundle: Bundle) -> None:
    assert as_bytes(sample_trajectories(bundle, drawn.settings, threads=1)) == as_bytes(drawn)
    other = sample_trajectories(bundle, replace(drawn.settings, seed=4), threads=1)
    assert not np.array_equal(other.latents, drawn.latents)


def test_every_stratum_and_every_label_is_kept_equally(bundle: Bundle) -> None:
    settings = replace(plan(bundle, samples=18, evaluations=6, steps=11), pictures=3)
    drawn = sample_trajectories(bundle, settings, threads=1)
    assert [kept.step for kept in drawn.evaluations] == [0, 2, 4, 6, 8, 10]
    assert [kept.stratum for kept in drawn.evaluations] == list(range(6))
    assert Counter(one for kept in drawn.evaluations for one in kept.pictures) == dict.fromkeys(range(18), 1)
    labels: set[int] = set()
    for kept in drawn.evaluations:
        assert {len(array) for array in kept.feeds.values()} == {2 * 3}
        assert len(set(kept.feeds["timestep"])) == 1
        expected = [settings.conditions["class_labels"][one] for one in kept.pictures]
        assert kept.feeds["class_labels"].tolist() == [*expected, *[NULL] * 3]
        labels.update(expected)
    assert labels == set(range(17))
    timesteps = [kept.feeds["timestep"][0] for kept in drawn.evaluations]
    assert timesteps == sorted(timesteps, reverse=True) and timesteps[-1] < 100 < 800 < timesteps[0]


def test_groups_give_what_one_batch_gives(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = plan(bundle, samples=5, evaluations=3, steps=3)
    reports: list[tuple[str, int, int]] = []
    at_once = sample_trajectories(bundle, settings, threads=1)
    monkeypatch.setattr(trajectories, "_PATCHES_A_CALL", 2 * 2 * 16)  # two pictures
    grouped = sample_trajectories(bundle, settings, threads=1, progress=lambda *report: reports.append(report))
    assert [(kept.step, kept.pictures) for kept in grouped.evaluations] == [
        (step, pictures) for step in range(3) for pictures in ((0, 1), (2, 3), (4,))
    ]
    np.testing.assert_allclose(grouped.latents, at_once.latents, rtol=1e-4, atol=1e-4)
    first = [kept.feeds["latents"][: len(kept.pictures)] for kept in grouped.evaluations if kept.step == 0]
    np.testing.assert_array_equal(np.concatenate(first), at_once.evaluations[0].feeds["latents"][:5])
    assert reports[0] == ("sampling", 0, 9) and reports[-1] == ("sampling", 9, 9)
    assert [done for _, done, _ in reports] == sorted(done for _, done, _ in reports)


def test_a_step_of_two_evaluations_is_kept_with_both(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    heun = {"_class_name": "HeunDiscreteScheduler", "beta_schedule": "linear"}
    monkeypatch.setattr(Bundle, "scheduler_config", lambda self: heun)
    drawn = sample_trajectories(bundle, plan(bundle, samples=2, evaluations=3, steps=3), threads=1)
    assert Counter(kept.step for kept in drawn.evaluations) == {0: 2, 1: 2, 2: 1}


def test_without_guidance_there_is_one_half(bundle: Bundle) -> None:
    drawn = sample_trajectories(bundle, plan(bundle, samples=3, evaluations=2, steps=2, guidance_scale=1.0), threads=1)
    assert [len(feeds["latents"]) for feeds in drawn.feeds] == [3, 3]


def test_altered_weights_are_not_run(bundle: Bundle, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(bundle.path, tmp_path / "copy")
    weights = tmp_path / "copy" / "denoiser" / "model.onnx.data"
    data = bytearray(weights.read_bytes())
    data[1000] ^= 1
    weights.write_bytes(data)
    copy = Bundle.open(tmp_path / "copy")
    with pytest.raises(IntegrityError, match="was altered"):
        sample_trajectories(copy, plan(copy, samples=2, evaluations=2), threads=1)


class TestPlan:
    def test_defaults(self, bundle: Bundle) -> None:
        settings = plan(bundle)
        assert (settings.samples, settings.evaluations, settings.steps, settings.seed) == (16, 16, 50, 0)
        assert settings.guidance_scale == 4.0
        assert settings.pictures == 16  # 16 patches: all of it is 8192
        assert len(set(settings.conditions["class_labels"])) == 16

    def test_a_large_picture_gets_fewer(self, bundle: Bundle) -> None:
        latents = bundle.manifest.latents.model_copy(
            update={"height": 64, "width": 64}
        )  # 256 patches: DiT-XL/2 at 256²
        manifest = bundle.manifest.model_copy(update={"latents": latents})
        settings = plan(SimpleNamespace(manifest=manifest, component=bundle.component))  # type: ignore[arg-type]
        assert (settings.samples, settings.steps, settings.pictures) == (8, 16, 1)

    def test_a_model_of_few_steps_is_sampled_in_as_many(self, bundle: Bundle) -> None:
        scheduler = bundle.manifest.scheduler.model_copy(update={"num_inference_steps": 4})
        manifest = bundle.manifest.model_copy(update={"scheduler": scheduler})
        settings = plan(SimpleNamespace(manifest=manifest, component=bundle.component))  # type: ignore[arg-type]
        assert (settings.evaluations, settings.steps) == (4, 4)

    def test_labels_are_spread_over_all_classes(self, bundle: Bundle) -> None:
        few = plan(bundle, samples=4).conditions["class_labels"]
        assert few == (2, 6, 10, 14)
        many = Counter(plan(bundle, samples=40).conditions["class_labels"])
        assert set(many) == set(range(17)) and max(many.values()) - min(many.values()) <= 1
        assert NULL not in many  # the unguided half is in every evaluation

    def test_every_picture_has_its_turn(self, bundle: Bundle) -> None:
        for samples in (1, 5, 16, 40):
            for evaluations in (1, 3, 16):
                settings = plan(bundle, samples=samples, evaluations=evaluations)
                kept = Counter(one for i in range(evaluations) for one in settings.kept_pictures(i))
                assert set(kept) == set(range(samples))
                assert len({len(settings.kept_pictures(i)) for i in range(evaluations)}) == 1

    @pytest.mark.parametrize(("evaluations", "steps"), [(1, 1), (1, 9), (2, 9), (5, 5), (7, 50), (50, 50)])
    def test_strata_are_distinct_and_have_both_ends(self, bundle: Bundle, evaluations: int, steps: int) -> None:
        kept = plan(bundle, evaluations=evaluations, steps=steps).kept_steps()
        assert len(set(kept)) == evaluations and kept == sorted(kept)
        if evaluations > 1:
            assert (kept[0], kept[-1]) == (0, steps - 1)
            assert max(np.diff(kept)) - min(np.diff(kept)) <= 1

    def other_condition(self, bundle: Bundle, **fields: Any) -> Any:
        denoiser = bundle.component("denoiser")
        spec = TensorSpec(name="style", axes=denoiser.input("timestep").axes, **fields)
        changed = Component(path=denoiser.path, inputs=(*denoiser.inputs, spec), outputs=denoiser.outputs)
        return SimpleNamespace(manifest=bundle.manifest, component=lambda name: changed)

    def test_any_condition_with_a_range_is_spread(self, bundle: Bundle) -> None:
        other = self.other_condition(bundle, dtype="int32", minimum=2, maximum=5)
        assert plan(other, samples=6).conditions["style"] == (2, 3, 4, 5, 2, 3)

    def test_a_condition_without_a_range_has_to_be_given(self, bundle: Bundle) -> None:
        for fields in ({"dtype": "float32", "minimum": 0, "maximum": 1}, {"dtype": "int64"}):
            other = self.other_condition(bundle, **fields)
            with pytest.raises(InputError, match="style has no declared range of integers"):
                plan(other, samples=2)
        settings = plan(other, conditions={"style": [7, 8, 9]})
        assert settings.samples == 3 and settings.conditions["style"] == (7, 8, 9)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"samples": 0}, "samples: 0 came, expected an integer of at least 1"),
            ({"samples": 2.5}, "samples: 2.5 came"),
            ({"evaluations": True}, "evaluations: True came"),
            ({"evaluations": 8, "steps": 4}, "steps: 4 came, expected an integer of at least 8"),
            ({"seed": -1}, "seed: -1 came"),
            ({"conditions": {"class_labels": [1]}, "samples": 2}, "class_labels: 1 values came for 2 pictures"),
            ({"conditions": {"prompt": [1]}}, r"'prompt' is no condition of this denoiser; it has \['class_labels'\]"),
        ],
    )
    def test_bad_arguments(self, bundle: Bundle, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            plan(bundle, **arguments)

    def test_no_such_component(self, bundle: Bundle) -> None:
        with pytest.raises(BundleError, match="has no component"):
            bundle.component("text_encoder")
