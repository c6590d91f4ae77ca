"""DDPM against diffusers, and its learned range against the paper's own formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dit_deploy.errors import InputError
from dit_deploy.sampling import NoiseSource, solver_table
from tests.sampling.reference import (
    LIMIT,
    SHAPE,
    STEPS,
    Trajectory,
    check,
    denoiser,
    difference,
    make_scheduler,
    run_table,
)

NAME = "DDPMScheduler"
CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "not clipped": {"clip_sample": False},
    "v": {"prediction_type": "v_prediction", "clip_sample_range": 3.0},
    "sample": {"prediction_type": "sample", "clip_sample": False},
    "small log": {"variance_type": "fixed_small_log", "timestep_spacing": "linspace"},
    "unnamed": {"variance_type": None},
    "large": {"variance_type": "fixed_large", "timestep_spacing": "trailing"},
    "offset": {"steps_offset": 1, "variance_type": "fixed_large"},
    "sigmoid": {"beta_schedule": "sigmoid"},
    "laplace": {"beta_schedule": "laplace", "prediction_type": "v_prediction"},
}
LEARNED = {"variance_type": "learned_range", "timestep_spacing": "linspace", "clip_sample": False}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("case", CASES)
def test_against_diffusers(case: str, steps: int) -> None:
    check(NAME, CASES[case], steps)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
def test_learned_range(spacing: str, steps: int) -> None:
    check(NAME, {**LEARNED, "timestep_spacing": spacing}, steps, channels=6)


@pytest.mark.parametrize("begin", [1, 12])
def test_image_to_image(begin: int) -> None:
    check(NAME, {"clip_sample": False}, 20, begin=begin)
    check(NAME, LEARNED, 20, begin=begin, channels=6)


def test_large_log_is_the_large_variance() -> None:
    # diffusers takes the square root of a negative logarithm there
    scheduler = make_scheduler(NAME, {"variance_type": "fixed_large_log"}, 10, exact=False)
    assert np.isnan(float(scheduler._get_variance(scheduler.timesteps[0]) ** 0.5))
    log, plain = (
        solver_table({"_class_name": NAME, "variance_type": kind}, 10) for kind in ("fixed_large_log", "fixed_large")
    )
    np.testing.assert_array_equal(log.sample, plain.sample)


def test_learned_variance_without_a_range_is_refused() -> None:
    with pytest.raises(InputError, match=r"variance_type='learned' is not supported: one of fixed_small"):
        solver_table({"_class_name": NAME, "variance_type": "learned"}, 10)


def test_the_original_250_steps() -> None:
    """GaussianDiffusion of Dhariwal & Nichol 2021 as DiT uses it, in float64, written from its formulas."""
    betas = np.linspace(0.0001, 0.02, 1000)
    used, levels = [], []
    last = 1.0
    products = np.cumprod(1 - betas)
    kept = {round(i * 999 / 249) for i in range(250)}  # space_timesteps("250")
    respaced = []
    for timestep, product in enumerate(products):
        if timestep in kept:
            respaced.append(1 - product / last)
            used.append(timestep)
            levels.append(product)
            last = product
    beta, level = np.array(respaced), np.array(levels)
    before = np.append(1.0, level[:-1])
    posterior = beta * (1 - before) / (1 - level)
    log_posterior = np.log(np.append(posterior[1], posterior[1:]))

    source = NoiseSource(5)
    sample = source.draw(SHAPE).astype(np.float64)
    samples = []
    for row, i in enumerate(reversed(range(250))):
        epsilon, variance = np.split(denoiser(sample, used[i], row, 6).astype(np.float64), 2, axis=1)
        clean = np.sqrt(1 / level[i]) * sample - np.sqrt(1 / level[i] - 1) * epsilon
        mean = beta[i] * np.sqrt(before[i]) / (1 - level[i]) * clean
        mean += (1 - before[i]) * np.sqrt(1 - beta[i]) / (1 - level[i]) * sample
        fraction = (variance + 1) / 2
        log_variance = fraction * np.log(beta[i]) + (1 - fraction) * log_posterior[i]
        sample = mean if i == 0 else mean + np.exp(0.5 * log_variance) * source.draw(SHAPE)
        samples.append(sample)
    theirs = Trajectory([float(t) for t in reversed(used)], samples, source.draw((40,)))

    ours = run_table(solver_table({"_class_name": NAME, **LEARNED}, 250), channels=6)
    assert ours.timesteps == theirs.timesteps
    np.testing.assert_array_equal(ours.next_noise, theirs.next_noise)
    assert difference(ours, theirs) <= LIMIT
