"""What sampling makes of small errors, on runners whose error is known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dit_deploy import Bundle
from dit_deploy.parity.amplification import Amplification
from dit_deploy.parity.engine import Drawn, EngineParity, compare_with_plain, plain_pictures
from dit_deploy.parity.limits import LIMITS
from dit_deploy.runtimes import Runner
from tests.parity.altered import Changed, plain_runner

MISSED = EngineParity(40.0, 35.0, 0.9, 20.0, 0.1, limit=45.0, pictures=8, steps=20, ran="here")


def off(bundle: Bundle, name: str, error: float) -> Runner:
    """Return a component whose output is off by ``error`` of its largest value, everywhere."""

    def change(outputs: Mapping[str, np.ndarray], _inputs: object) -> None:
        for array in outputs.values():
            array += np.float32(error) * np.abs(array).max()

    return Changed(plain_runner(bundle, name), change)


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


@pytest.fixture(scope="module")
def plain(bundle: Bundle) -> Drawn:
    return plain_pictures(bundle, class_labels=[1, 4], num_inference_steps=3, threads=1)


@pytest.mark.parametrize(
    ("amplified", "components", "margin"),
    [
        (None, None, -5.0),  # nothing else was measured
        (46.0, None, -5.0),  # of a calm model the limit stays what it is
        (35.0, 5e-3, 20 * math.log10(2)),
        (35.0, 1.25e-2, 20 * math.log10(0.8)),  # pictures of a restless model, but the engine is off by more
        (35.0, 0.0, math.inf),
        (35.0, math.inf, -5.0),
    ],
)
def test_what_passes(amplified: float | None, components: float | None, margin: float) -> None:
    found = replace(MISSED, allowed=1e-2, amplified=amplified, components=components)
    assert found.margin == pytest.approx(margin)
    assert found.passed == (margin >= 0)
    written = found.to_dict()
    assert written["passed"] == found.passed and written["psnr"] == 40.0
    assert ("amplified" in written) == (amplified is not None)
    assert ("are off by 0.005" in str(found)) == (components == 5e-3)


def test_the_engines_error_is_measured_on_the_plain_graphs_inputs(bundle: Bundle, plain: Drawn) -> None:
    """Steps and guidance would multiply it; each component is beside its plain one, so it is what it is."""
    for denoiser, decoder in ((0.004, 0.0), (0.002, 0.006)):
        runners = {"denoiser": off(bundle, "denoiser", denoiser), "vae_decoder": off(bundle, "vae_decoder", decoder)}
        found = compare_with_plain(bundle, plain, "fp16", runners=runners, limit=200.0, threads=1)
        judged = Amplification(bundle, plain, "fp16", 0.5, threads=1).weigh(found, runners)
        assert judged.components == pytest.approx(max(denoiser, decoder), rel=1e-2)
        assert judged.amplified is not None and judged.amplified < judged.limit
        assert judged.passed and (judged.psnr, judged.limit) == (found.psnr, 200.0)


def test_the_limit_holds_for_a_calm_model(bundle: Bundle, plain: Drawn) -> None:
    """Predictions off by what is allowed leave its pictures within the limit, so an engine beyond it is at fault."""
    runners = {"denoiser": off(bundle, "denoiser", 0.2)}
    found = compare_with_plain(bundle, plain, "fp16", runners=runners, limit=50.0, threads=1)
    judged = Amplification(bundle, plain, "fp16", 1e-4, threads=1).weigh(found, runners)
    assert judged.amplified is not None and judged.amplified > judged.limit > judged.psnr
    assert judged.components is None and not judged.passed


def test_a_restless_models_engine_fails_by_its_components(bundle: Bundle, plain: Drawn) -> None:
    runners = {"denoiser": off(bundle, "denoiser", 0.02)}
    found = compare_with_plain(bundle, plain, "fp16", runners=runners, limit=200.0, threads=1)
    judged = Amplification(bundle, plain, "fp16", 0.01, threads=1).weigh(found, runners)
    assert judged.components == pytest.approx(0.02, rel=1e-2) and not judged.passed
    assert judged.margin == pytest.approx(-6.02, abs=0.1)  # twice what is allowed


def test_larger_errors_leave_fewer_decibels(bundle: Bundle, plain: Drawn) -> None:
    """A hundred times the error is 40 dB where a sampling this short answers in proportion."""
    decibels = [Amplification(bundle, plain, "fp16", allowed, threads=1).psnr() for allowed in (1e-4, 1e-2)]
    assert 30 < decibels[0] - decibels[1] < 50
    assert Amplification(bundle, plain, "fp16", 1e-2, threads=1).psnr() == decibels[1]  # the same, drawn again


def test_nothing_is_drawn_for_an_engine_within_its_limit(bundle: Bundle, plain: Drawn) -> None:
    for found in (replace(MISSED, psnr=46.0), replace(MISSED, psnr=-math.inf, failure="the denoiser gave NaN")):
        assert Amplification(bundle, plain, "fp16", 1e-2, threads=1).weigh(found, {}) is found


def test_coarser_precisions_are_allowed_more() -> None:
    allowed = [LIMITS[name].prediction for name in ("fp32", "fp16", "bf16", "int8")]
    assert allowed == sorted(allowed) and all(row.prediction <= row.component for row in LIMITS.values())
