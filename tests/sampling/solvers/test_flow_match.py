"""Flow matching against diffusers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dit_deploy.errors import InputError
from dit_deploy.sampling import solver_table
from tests.sampling.reference import STEPS, check

EULER, HEUN = "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "default": (EULER, {}),
    "shifted": (EULER, {"shift": 3.0}),
    "stochastic": (EULER, {"shift": 3.0, "stochastic_sampling": True}),
    "inverted": (EULER, {"invert_sigmas": True, "shift": 2.0}),
    "Karras": (EULER, {"use_karras_sigmas": True}),
    "exponential": (EULER, {"use_exponential_sigmas": True, "shift": 3.0}),
    "beta": (EULER, {"use_beta_sigmas": True, "shift": 3.0}),
    "short training": (EULER, {"num_train_timesteps": 250, "shift": 1.5}),
    "Heun": (HEUN, {}),
    "shifted Heun": (HEUN, {"shift": 3.0}),
}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("case", CASES)
def test_against_diffusers(case: str, steps: int) -> None:
    name, options = CASES[case]
    check(name, options, steps)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_dynamic_shifting(kind: str, steps: int) -> None:
    options = {"use_dynamic_shifting": True, "time_shift_type": kind, "shift": 3.0}
    own = np.linspace(1.0, 1 / steps, steps).tolist()  # FLUX
    check(EULER, options, steps, mu=1.15)
    check(EULER, options, steps, mu=0.7, sigmas=own)
    if steps > 1:  # diffusers divides 0 by 0 for one step from sigma 1
        check(EULER, {**options, "shift_terminal": 0.1}, steps, mu=0.7, sigmas=own)


@pytest.mark.parametrize("steps", [1, 4])
def test_own_sigmas(steps: int) -> None:
    own = np.linspace(1.0, 1 / steps, steps).tolist()
    check(EULER, {"shift": 1.0}, steps, sigmas=own)
    check(EULER, {"shift": 3.0}, steps, sigmas=own, mu=1.15)  # FLUX schnell passes a mu that has no effect


@pytest.mark.parametrize("begin", [1, 8, 19])
@pytest.mark.parametrize("name", [EULER, HEUN])
def test_image_to_image(name: str, begin: int) -> None:
    check(name, {"shift": 3.0}, 20, begin=begin)


def test_unsupported() -> None:
    config = {"_class_name": EULER}
    with pytest.raises(InputError, match=r"use_dynamic_shifting=True is not supported: mu must be given"):
        solver_table({**config, "use_dynamic_shifting": True}, 4)
    with pytest.raises(InputError, match=r"time_shift_type='cubic' is not supported: one of exponential, linear"):
        solver_table({**config, "time_shift_type": "cubic"}, 4)
    with pytest.raises(
        InputError, match=r"unknown option use_dynamic_shifting=True; it has num_train_timesteps, shift"
    ):
        solver_table({"_class_name": HEUN, "use_dynamic_shifting": True}, 4)
    with pytest.raises(InputError, match=r"2 or more steps"):
        solver_table({**config, "shift_terminal": 0.1}, 1)
    with pytest.raises(InputError, match=r"sigmas: FlowMatchHeunDiscreteScheduler has no use for it"):
        solver_table({"_class_name": HEUN}, 2, sigmas=[1.0, 0.5])
    for bad in ([1.0], [0.5, 1.0], [1.5, 0.5], [1.0, float("nan")], [0.5, 0.0]):
        with pytest.raises(InputError, match=r"sigmas: expected num_inference_steps = 2 falling numbers"):
            solver_table(config, 2, sigmas=bad)
