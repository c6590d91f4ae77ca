"""What a report says of given numbers: the limits from both sides, and the words for the first excess."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from itertools import pairwise

import pytest
from rich.console import Console

from dit_deploy.errors import InputError
from dit_deploy.parity import LIMITS, ComponentError, ParityReport, PictureError, Run
from dit_deploy.parity.limits import limits_for
from dit_deploy.parity.numerals import decibels, scientific, significant

COMPONENT = ComponentError("vae_decoder", "images", {"batch": 2, "latent_height": 8}, (2, 3, 8), 1e-5, 5e-5, 1.0)
PICTURE = PictureError(label=3, name="dress", psnr=80.0, ssim=0.999, largest=0.5)
RUN = Run(
    name="generation",
    implementation="diffusers DiTPipeline",
    settings={"seed": 0},
    timesteps=(750.0, 500.0, 250.0, 0.0),
    accumulated=(0.0, 1e-6, 2e-6, 3e-6, 4e-6),
    single_step=(1e-6, 1e-6, 1e-6, 1e-6),
    pictures=(PICTURE,),
)
REPORT = ParityReport({"bundle": "tiny"}, LIMITS["fp32"], [COMPONENT], [RUN])


def with_run(**changes: object) -> ParityReport:
    return replace(REPORT, runs=[replace(RUN, **changes)])  # type: ignore[arg-type]


def test_within_the_limits() -> None:
    assert REPORT.passed
    assert replace(REPORT, components=[replace(COMPONENT, relative=1e-4)]).passed, "the limit itself is within"
    assert with_run(accumulated=(0.0, 1e-3, 1e-3, 1e-3, 1e-3)).passed
    assert with_run(pictures=(replace(PICTURE, psnr=60.0, largest=1.0),)).passed
    assert with_run(pictures=(replace(PICTURE, psnr=math.inf),)).passed


@pytest.mark.parametrize("relative", [1.01e-4, math.inf, math.nan])
def test_a_component_beyond(relative: float) -> None:
    excess = replace(REPORT, components=[COMPONENT, replace(COMPONENT, relative=relative)]).first_excess
    assert str(excess).startswith("vae decoder at batch 2, latent height 8: images")


def test_drift() -> None:
    excess = with_run(accumulated=(0.0, 5e-5, 2e-4, 5e-4, 3.1e-3)).first_excess
    assert excess == (
        "generation, step 4 of 4: latents off by 0.0031 of their largest value, the limit is 0.001; "
        "no step up to there adds more than 1e-06 alone: the error accumulated, from step 2 on"
    )


def test_one_bad_step() -> None:
    excess = with_run(accumulated=(0.0, 0.0, 4e-3, 4e-3, 4e-3), single_step=(0.0, 4e-3, 0.0, 0.0)).first_excess
    assert str(excess).startswith("generation, step 2 of 4: latents off by 0.004")
    assert str(excess).endswith("step 2 alone adds 0.004: the denoiser errs there")


def test_other_noise() -> None:
    excess = with_run(accumulated=(1.4, 1.4, 1.4, 1.4, 1.4)).first_excess
    assert str(excess).startswith("generation, before the first step: latents off by 1.4")


def test_pictures_beyond() -> None:
    far = with_run(pictures=(PICTURE, replace(PICTURE, largest=1.2)))
    assert far.first_excess == "generation, the picture of dress differs by up to 1.2/255, the limit is 1/255"
    blurred = with_run(pictures=(replace(PICTURE, name="", psnr=59.9),))
    assert blurred.first_excess == "generation, the picture of class 3 has a PSNR of 59.9 dB, the limit is 60 dB"


def test_an_engine_that_broke_off() -> None:
    assert with_run(failure="the decoder failed").first_excess == "generation, the decoder failed"


def test_limits() -> None:
    assert list(LIMITS) == ["fp32", "fp16", "bf16", "int8", "fp8"]
    assert (LIMITS["fp8"].psnr, LIMITS["fp8"].component) == (LIMITS["int8"].psnr, LIMITS["int8"].component)
    rows = [row for row in LIMITS.values() if row.precision != "fp8"]
    for stricter, looser in pairwise(rows):
        assert stricter.component < looser.component
        assert stricter.latents < looser.latents
        assert stricter.psnr > looser.psnr
        assert stricter.picture < looser.picture
    with pytest.raises(InputError, match="limits are set for fp32"):
        limits_for("fp4")


def test_the_table_shows_the_verdict_and_every_row() -> None:
    for report, words in (
        (REPORT, "within the limits of fp32"),
        (with_run(failure="gone"), "beyond the limits of fp32"),
    ):
        stream = io.StringIO()
        Console(file=stream, width=100).print(report.table())
        assert words in stream.getvalue()
        for text in ("vae_decoder", "5.00e-05", "generation", "80.0 dB", "PSNR 60 dB"):
            assert text in stream.getvalue()


def test_numerals() -> None:
    assert scientific(1.44e-6) == "1.4 × 10⁻⁶"
    assert scientific(1e-4) == "10⁻⁴"
    assert scientific(0.0) == "0"
    assert scientific(math.inf) == scientific(math.nan) == "not finite"
    assert significant(0.000243) == "0.00024"
    assert significant(12345.6) == "12,346"
    assert significant(2.5e-7) == "2.5 × 10⁻⁷"
    assert (decibels(45.04), decibels(math.inf), decibels(-math.inf)) == ("45.0 dB", "equal", "not finite")
