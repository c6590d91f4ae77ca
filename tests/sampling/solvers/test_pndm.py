"""PNDM against diffusers, with and without the Runge-Kutta warm-up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dit_deploy.errors import InputError
from dit_deploy.sampling import solver_table
from tests.sampling.reference import STEPS, check, compare, make_scheduler, run_scheduler, run_table, torch

NAME = "PNDMScheduler"
SKIP = {"skip_prk_steps": True}
CASES: dict[str, dict[str, Any]] = {
    "PRK": {},
    "PRK v": {"prediction_type": "v_prediction"},
    "PRK linspace": {"timestep_spacing": "linspace", "set_alpha_to_one": True},
    "PLMS": SKIP,
    "PLMS v": {**SKIP, "prediction_type": "v_prediction", "set_alpha_to_one": True},
    "PLMS offset": {**SKIP, "steps_offset": 1, "beta_schedule": "scaled_linear"},
    "PLMS trailing": {**SKIP, "timestep_spacing": "trailing"},
}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("case", CASES)
def test_against_diffusers(case: str, steps: int) -> None:
    options = CASES[case]
    if not options.get("skip_prk_steps") and steps < 4:
        # diffusers cannot set 1 or 2 steps, and of 3 runs two
        with pytest.raises(ValueError, match="broadcast"):
            make_scheduler(NAME, options, steps, exact=False)
        with pytest.raises(InputError, match="at least 4 steps"):
            solver_table({"_class_name": NAME, **options}, steps)
        return
    check(NAME, options, steps)


def test_the_warm_up_of_whole_spacing_only() -> None:
    # halfway above the first trailing timestep there is no level; diffusers fails with an IndexError
    with pytest.raises(InputError, match="past the last one"):
        solver_table({"_class_name": NAME, **SKIP, "timestep_spacing": "leading", "steps_offset": 999}, 20)


@pytest.mark.parametrize("begin", [1, 8])
@pytest.mark.parametrize("options", [SKIP, {}])
def test_image_to_image(options: dict[str, Any], begin: int) -> None:
    # The reference is diffusers on the rest of the schedule, laid out as set_timesteps lays out a whole one. Cutting
    # the finished list, as its pipelines do, feeds the denoiser timesteps that are not the sample's.
    runs = []
    for exact in (True, False):
        scheduler = make_scheduler(NAME, options, 20, exact=exact)
        rest = scheduler._timesteps[: 20 - begin]
        if options:
            plan = np.concatenate([rest[:-1], rest[-2:-1], rest[-1:]])[::-1]
        else:
            pairs = rest[-4:].repeat(2) + np.tile([0, 1000 // 20 // 2], 4)
            scheduler.prk_timesteps = pairs[:-1].repeat(2)[1:-1][::-1].copy()
            scheduler.plms_timesteps = rest[:-3][::-1].copy()
            plan = np.concatenate([scheduler.prk_timesteps, scheduler.plms_timesteps])
        scheduler.timesteps = torch.from_numpy(plan.astype(np.int64))
        runs.append(run_scheduler(scheduler, exact=exact))
    table = solver_table({"_class_name": NAME, **options}, 20, begin=begin)
    compare(run_table(table), *runs)
    assert table.num_steps == 20 - begin
    level = float(make_scheduler(NAME, options, 20, exact=False).alphas_cumprod[int(table.timesteps[0])])
    assert table.start == pytest.approx((level**0.5, (1 - level) ** 0.5), rel=1e-6)
