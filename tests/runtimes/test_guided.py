"""The timestep reaches the denoiser in the unit that the manifest declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dit_deploy.bundle import Prediction
from dit_deploy.runtimes import BindingPool
from dit_deploy.runtimes.conditions import Conditions
from dit_deploy.runtimes.guided import GuidedDenoiser
from dit_deploy.runtimes.plan import prediction_type, timestep_scale
from dit_deploy.sampling import Guidance, SolverState, solver_table

SHAPE = (1, 2, 4, 4)


class FakeRunner:
    """A denoiser that keeps the timesteps it was fed and predicts zeros; its own runner, binding and pool entry."""

    component: Any = None

    def __init__(self) -> None:
        self.seen: list[float] = []
        self.inputs: dict[str, NDArray[Any]] = {
            "latents": np.zeros(SHAPE, np.float32),
            "timestep": np.zeros(1, np.float32),
        }
        self.outputs = {"prediction": np.zeros(SHAPE, np.float32)}

    def bind(self, sizes: Mapping[str, int]) -> FakeRunner:
        return self

    def run(self) -> None:
        self.seen.append(float(self.inputs["timestep"][0]))


@pytest.mark.parametrize(("unit", "divisor"), [("training_index", 1.0), ("sigma", 500.0)])
def test_timesteps_are_fed_in_the_declared_unit(unit: Any, divisor: float) -> None:
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 500}
    table = solver_table(config, 4)
    scale = timestep_scale(config, Prediction(type="flow_prediction", timestep_unit=unit))
    state, runner = SolverState(table, SHAPE), FakeRunner()
    state.reset(np.zeros(SHAPE, np.float32))
    with GuidedDenoiser(BindingPool(runner), Conditions({}, {}, 1), Guidance(1.0), SHAPE, 2, scale) as denoiser:
        for row in range(len(table)):
            denoiser(state, row)
    assert runner.seen[0] == 500.0 / divisor
    assert np.allclose(runner.seen, table.timesteps / divisor, rtol=1e-6)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"_class_name": "DDIMScheduler"}, "epsilon"),
        ({"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}, "v_prediction"),
        ({"_class_name": "EulerDiscreteScheduler", "prediction_type": "original_sample"}, "sample"),
        ({"_class_name": "FlowMatchHeunDiscreteScheduler"}, "flow_prediction"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "prediction_type": "epsilon"}, "flow_prediction"),
    ],
)
def test_what_a_config_takes_the_output_for(config: dict[str, Any], expected: str) -> None:
    assert prediction_type(config) == expected
