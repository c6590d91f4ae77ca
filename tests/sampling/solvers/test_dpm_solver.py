"""DPM-Solver and DPM-Solver++ against diffusers."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from dit_deploy.errors import InputError
from dit_deploy.sampling import solver_table
from tests.sampling.reference import STEPS, check, make_scheduler

NAME = "DPMSolverMultistepScheduler"
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
#: dpmsolver needs a last sigma above 0
CASES: dict[str, dict[str, Any]] = {
    **{
        f"{algorithm} {order} {kind}": {
            "algorithm_type": algorithm,
            "solver_order": order,
            "solver_type": kind,
            "final_sigmas_type": "zero" if algorithm.endswith("++") else "sigma_min",
        }
        for algorithm, order, kind in product(
            ("dpmsolver++", "sde-dpmsolver++", "dpmsolver", "sde-dpmsolver"), (1, 2, 3), ("midpoint", "heun")
        )
        if (algorithm, order) != ("sde-dpmsolver", 3) and not (order != 2 and kind == "heun")
    },
    "v": {"prediction_type": "v_prediction"},
    "sample": {"prediction_type": "sample"},
    "noise of v": {"prediction_type": "v_prediction", "algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
    "sigma_min": {"final_sigmas_type": "sigma_min", "solver_order": 3},
    "Euler at the end": {"final_sigmas_type": "sigma_min", "euler_at_final": True, "lower_order_final": False},
    "full order to the end": {"final_sigmas_type": "sigma_min", "lower_order_final": False, "solver_type": "heun"},
    "leading": {"timestep_spacing": "leading", "steps_offset": 1},
    "trailing": {"timestep_spacing": "trailing"},
    "Karras": {"use_karras_sigmas": True},
    "Karras to sigma_min": {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min"},
    "Karras cosine": {
        "use_karras_sigmas": True,
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": "v_prediction",
    },
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True},
    "Lu": {"use_lu_lambdas": True},
    "clipped lambda": {"lambda_min_clipped": -5.1, "beta_schedule": "squaredcos_cap_v2"},
    "zero SNR": {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"},
    "flow": FLOW,
    "shifted flow": {**FLOW, "flow_shift": 3.0, "solver_order": 3},
    "SDE flow": {**FLOW, "algorithm_type": "sde-dpmsolver++"},
    "names of other solvers": {"solver_type": "bh2"},
}
#: compared at 250 steps with float32 diffusers too, which is the slower and mostly the noisier reference there
PLAIN = {"dpmsolver++ 1 midpoint", "dpmsolver++ 2 midpoint", "sde-dpmsolver++ 2 midpoint", "Karras"}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("case", CASES)
def test_against_diffusers(case: str, steps: int) -> None:
    check(NAME, CASES[case], steps, plain=steps < 250 or case in PLAIN)


@pytest.mark.parametrize("begin", [1, 8, 19])
def test_image_to_image(begin: int) -> None:
    for options in ({"solver_order": 3}, {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True}, FLOW):
        check(NAME, options, 20, begin=begin)


def test_dynamic_shifting() -> None:
    check(NAME, {**FLOW, "use_dynamic_shifting": True}, 20, mu=0.8)


def test_the_empty_last_step_of_heun() -> None:
    # Karras sigmas end at sigma_min, and so does the schedule: diffusers divides 0 by 0 with Heun, and at order 3
    # without lower_order_final
    options = {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min", "solver_type": "heun"}
    scheduler = make_scheduler(NAME, options, 20, exact=False)
    assert float(scheduler.sigmas[-1]) == pytest.approx(float(scheduler.sigmas[-2]), rel=1e-6)
    table = solver_table({"_class_name": NAME, **options}, 20)
    last = np.zeros(table.sample.shape[1])
    last[0] = 1.0
    np.testing.assert_allclose(table.sample[-1], last, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm_type": "deis"}, "algorithm_type='deis' is not supported: one of dpmsolver"),
        ({"algorithm_type": "dpmsolver"}, "final_sigmas_type='zero' is not supported: .*needs sigma_min"),
        ({"algorithm_type": "sde-dpmsolver", "solver_order": 3}, "solver_order=3 is not supported: .* 1 to 2"),
        ({"solver_order": 4}, "solver_order=4 is not supported"),
        ({"prediction_type": "flow_prediction"}, "flow_prediction needs use_flow_sigmas=True"),
        ({**FLOW, "use_karras_sigmas": True}, "use_karras_sigmas=True is not supported: not together"),
        ({"use_karras_sigmas": True, "use_beta_sigmas": True}, "only one of"),
        ({"final_sigmas_type": "half"}, "final_sigmas_type='half'"),
    ],
)
def test_unsupported(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        solver_table({"_class_name": NAME, **options}, 20)


@pytest.mark.parametrize("spacing", ["linspace", "leading"])
def test_too_many_steps_for_the_spacing(spacing: str) -> None:
    # rounding makes two timesteps one: diffusers yields NaN
    with pytest.raises(InputError, match=r"fewer steps|no finite step"):
        solver_table({"_class_name": NAME, "timestep_spacing": spacing}, 1000)
