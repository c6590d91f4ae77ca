"""Figures of an engine against the plain graphs, on runners whose error is known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from dit_deploy import Bundle
from dit_deploy.bundle import Component
from dit_deploy.parity.engine import compare_with_plain, plain_pictures, spread_labels
from dit_deploy.runtimes import Binding
from dit_deploy.runtimes.onnxruntime import OnnxRuntimeRunner


class Brighter:
    """A VAE decoder whose pictures are off by a known amount, where that leaves them in 0 … 1."""

    def __init__(self, bundle: Bundle, by: float) -> None:
        self._inner = OnnxRuntimeRunner(
            bundle.component_path("vae_decoder"), bundle.component("vae_decoder"), threads=1
        )
        self._by = by

    @property
    def component(self) -> Component:
        return self._inner.component

    def bind(self, sizes: Mapping[str, int]) -> Binding:
        binding = self._inner.bind(sizes)
        run = binding.run

        def brighter() -> None:
            run()
            images = binding.outputs["images"]
            np.clip(images, 0.0, 1.0, out=images)  # as the pipeline does, so that nothing of the error is clipped
            images += np.where(images > 0.5, -self._by, self._by).astype(np.float32)

        binding.run = brighter  # type: ignore[method-assign]
        return binding


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


def test_decibels_are_those_of_a_known_error(bundle: Bundle) -> None:
    plain = plain_pictures(bundle, class_labels=[1, 4], num_inference_steps=2, threads=1)
    found = compare_with_plain(bundle, plain, "int8", runners={"vae_decoder": Brighter(bundle, 0.01)}, threads=1)
    assert found.psnr == pytest.approx(40.0, abs=1e-3)  # every pixel off by 1/100: 10 · log₁₀(1 / 0.0001)
    assert found.worst == pytest.approx(40.0, abs=1e-3)
    assert found.picture == pytest.approx(2.55, abs=1e-3)
    assert found.latents == 0.0
    assert found.passed
    assert (found.pictures, found.steps, found.limit) == (2, 2, 30.0)
    strict = compare_with_plain(
        bundle, plain, "int8", runners={"vae_decoder": Brighter(bundle, 0.01)}, limit=41.0, threads=1
    )
    assert not strict.passed
    assert "below the limit of 41 dB" in str(strict)


def test_equal_pictures_and_broken_ones(bundle: Bundle) -> None:
    plain = plain_pictures(bundle, class_labels=[2], num_inference_steps=1, threads=1)
    same = compare_with_plain(bundle, plain, "fp32", threads=1)
    assert same.passed
    assert same.to_dict()["psnr"] is None  # infinite, which JSON cannot hold
    broken = compare_with_plain(
        bundle, plain, "fp32", runners={"vae_decoder": Brighter(bundle, float("nan"))}, threads=1
    )
    assert not broken.passed
    assert "NaN" in broken.to_dict()["failure"]


def test_labels_are_spread_without_the_null_class(bundle: Bundle) -> None:
    assert spread_labels(bundle, 4) == [0, 5, 10, 16]
    assert spread_labels(bundle, 50) == list(range(17))
