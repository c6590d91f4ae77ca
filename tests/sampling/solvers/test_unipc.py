"""UniPC against diffusers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dit_deploy.errors import InputError
from dit_deploy.sampling import solver_table
from tests.sampling.reference import LIMIT, STEPS, check, difference, make_scheduler, run_scheduler, run_table

NAME = "UniPCMultistepScheduler"
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
END = {"final_sigmas_type": "sigma_min"}
CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "order 1": {"solver_order": 1},
    "order 3": {"solver_order": 3},
    "bh1": {"solver_type": "bh1", **END},
    "bh1 order 3": {"solver_type": "bh1", "solver_order": 3, **END},
    "v": {"prediction_type": "v_prediction"},
    "sample": {"prediction_type": "sample", "solver_order": 3},
    "noise": {"predict_x0": False, **END},
    "noise of v": {"predict_x0": False, "prediction_type": "v_prediction", **END},
    "noise of sample": {"predict_x0": False, "prediction_type": "sample", "timestep_spacing": "trailing", **END},
    "some uncorrected": {"disable_corrector": [0, 1, 5], "solver_order": 3},
    "full order to the end": {"lower_order_final": False, "solver_order": 3, **END},
    "leading": {"timestep_spacing": "leading", "steps_offset": 1},
    "trailing": {"timestep_spacing": "trailing"},
    "Karras": {"use_karras_sigmas": True},
    "Karras to sigma_min": {"use_karras_sigmas": True, **END},
    "own ends": {"use_karras_sigmas": True, "sigma_min": 0.05, "sigma_max": 50.0},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True},
    "zero SNR": {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"},
    "flow": FLOW,
    "shifted flow": {**FLOW, "flow_shift": 5.0, "solver_order": 3, **END},
    "Karras flow": {**FLOW, "use_karras_sigmas": True},
    "names of other solvers": {"solver_type": "midpoint"},
}
#: compared at 250 steps with float32 diffusers too, which is the slower and mostly the noisier reference there
PLAIN = {"default", "order 3", "v"}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("case", CASES)
def test_against_diffusers(case: str, steps: int) -> None:
    check(NAME, CASES[case], steps, plain=steps < 250 or case in PLAIN)


@pytest.mark.parametrize("steps", [2, 20])
def test_flow_arguments(steps: int) -> None:
    own = np.linspace(1.0, 1 / steps, steps).tolist()
    check(NAME, {**FLOW, "flow_shift": 2.0}, steps, sigmas=own)
    check(NAME, {**FLOW, "use_dynamic_shifting": True}, steps, mu=0.9)
    check(NAME, {**FLOW, "use_dynamic_shifting": True, "time_shift_type": "linear"}, steps, mu=1.7, sigmas=own)
    check(NAME, {**FLOW, "shift_terminal": 0.05}, steps)


@pytest.mark.parametrize("begin", [1, 8, 19])
def test_image_to_image(begin: int) -> None:
    for options in ({"solver_order": 3}, {"disable_corrector": [9]}, FLOW):
        check(NAME, options, 20, begin=begin)


@pytest.mark.parametrize("steps", STEPS)
def test_bh1_to_zero(steps: int) -> None:
    # diffusers multiplies an infinite B(h) by 0 in the last step, whose limit is the predicted x₀
    options = {"solver_type": "bh1"}
    theirs = run_scheduler(make_scheduler(NAME, options, steps, exact=True), exact=True)
    assert not np.isfinite(theirs.samples.pop()).any()
    ours = run_table(solver_table({"_class_name": NAME, **options}, steps))
    last = ours.samples.pop()
    assert np.isfinite(last).all()
    assert not theirs.samples or difference(ours, theirs) <= LIMIT


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver_p": "DDIMScheduler"}, "solver_p='DDIMScheduler' is not supported: only None"),
        ({"predict_x0": False}, "final_sigmas_type='zero' is not supported"),
        ({"lower_order_final": False}, "final_sigmas_type='zero' is not supported"),
        ({"solver_order": 0}, "solver_order=0"),
        ({"disable_corrector": 3}, "disable_corrector=3"),
        ({"shift_terminal": 0.1}, "shift_terminal=0.1 is not supported: only with use_flow_sigmas"),
        ({**FLOW, "use_beta_sigmas": True}, "use_beta_sigmas=True is not supported: not together"),
        ({**FLOW, "use_dynamic_shifting": True}, "use_dynamic_shifting=True .*mu must be given"),
        ({"prediction_type": "flow_prediction"}, "flow_prediction needs use_flow_sigmas=True"),
    ],
)
def test_unsupported(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        solver_table({"_class_name": NAME, **options}, 20)
