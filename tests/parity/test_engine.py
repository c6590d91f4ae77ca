"""Figures of an engine against the plain graphs, on runners whose error is known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from dit_deploy import Bundle
from dit_deploy.parity.engine import compare_with_plain, plain_pictures, spread_labels
from dit_deploy.runtimes import Runner
from tests.parity.altered import Changed, plain_runner


def brighter(bundle: Bundle, by: float) -> Runner:
    """Return a VAE decoder whose pictures are off by a known amount, where that leaves them in 0 … 1."""

    def change(outputs: Mapping[str, np.ndarray], _inputs: object) -> None:
        images = outputs["images"]
        np.clip(images, 0.0, 1.0, out=images)  # as the pipeline does, so that nothing of the error is clipped
        images += np.where(images > 0.5, -by, by).astype(np.float32)

    return Changed(plain_runner(bundle, "vae_decoder"), change)


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


def test_decibels_are_those_of_a_known_error(bundle: Bundle) -> None:
    plain = plain_pictures(bundle, class_labels=[1, 4], num_inference_steps=2, threads=1)
    found = compare_with_plain(bundle, plain, "int8", runners={"vae_decoder": brighter(bundle, 0.01)}, threads=1)
    assert found.psnr == pytest.approx(40.0, abs=1e-3)  # every pixel off by 1/100: 10 · log₁₀(1 / 0.0001)
    assert found.worst == pytest.approx(40.0, abs=1e-3)
    assert found.picture == pytest.approx(2.55, abs=1e-3)
    assert found.latents == 0.0
    assert found.passed
    assert (found.pictures, found.steps, found.limit) == (2, 2, 30.0)
    strict = compare_with_plain(
        bundle, plain, "int8", runners={"vae_decoder": brighter(bundle, 0.01)}, limit=41.0, threads=1
    )
    assert not strict.passed
    assert "below the limit of 41 dB" in str(strict)


def test_equal_pictures_and_broken_ones(bundle: Bundle) -> None:
    plain = plain_pictures(bundle, class_labels=[2], num_inference_steps=1, threads=1)
    same = compare_with_plain(bundle, plain, "fp32", threads=1)
    assert same.passed
    assert same.to_dict()["psnr"] is None  # infinite, which JSON cannot hold
    broken = compare_with_plain(
        bundle, plain, "fp32", runners={"vae_decoder": brighter(bundle, float("nan"))}, threads=1
    )
    assert not broken.passed
    assert "NaN" in broken.to_dict()["failure"]


def test_labels_are_spread_without_the_null_class(bundle: Bundle) -> None:
    assert spread_labels(bundle, 4) == [0, 5, 10, 16]
    assert spread_labels(bundle, 50) == list(range(17))
