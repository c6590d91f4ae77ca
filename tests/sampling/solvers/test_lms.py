"""LMS against diffusers."""

from __future__ import annotations

from typing import Any

import pytest

from dit_deploy.sampling import solver_table
from tests.sampling.reference import STEPS, check, compare, make_scheduler, run_scheduler, run_table

NAME = "LMSDiscreteScheduler"
CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "v": {"prediction_type": "v_prediction"},
    "sample": {"prediction_type": "sample"},
    "leading": {"timestep_spacing": "leading", "steps_offset": 1},
    "trailing": {"timestep_spacing": "trailing"},
    "Karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True, "beta_schedule": "scaled_linear"},
}
#: compared at 50 and 250 steps with float32 diffusers too, which is slow there
PLAIN = {"default"}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("case", CASES)
def test_against_diffusers(case: str, steps: int) -> None:
    check(NAME, CASES[case], steps, plain=steps <= 20 or case in PLAIN)


@pytest.mark.parametrize("begin", [1, 8, 19])
def test_image_to_image(begin: int) -> None:
    # The reference is diffusers on the rest of the schedule as if it were a whole one. With set_begin_index alone it
    # takes the first of four weights for a step that has one output, about twice the step.
    runs = []
    for exact in (True, False):
        scheduler = make_scheduler(NAME, {}, 20, exact=exact)
        first = scheduler.timesteps[begin]
        scheduler.timesteps, scheduler.sigmas = scheduler.timesteps[begin:], scheduler.sigmas[begin:]
        scale = solver_table({"_class_name": NAME}, 20).initial_noise_scale
        type(scheduler).init_noise_sigma, kept = scale, type(scheduler).init_noise_sigma
        try:
            runs.append(run_scheduler(scheduler, exact=exact))
        finally:
            type(scheduler).init_noise_sigma = kept
    table = solver_table({"_class_name": NAME}, 20, begin=begin)
    assert table.timesteps[0] == pytest.approx(float(first))
    assert table.start == (1.0, pytest.approx(float(scheduler.sigmas[0])))
    compare(run_table(table), *runs)
