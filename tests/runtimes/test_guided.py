"""What the denoiser is fed: the timestep in the unit that the manifest declares, and blocks to leave out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dit_deploy.bundle import Axis, Component, Prediction, TensorSpec
from dit_deploy.runtimes import BindingPool
from dit_deploy.runtimes.conditions import Conditions
from dit_deploy.runtimes.guided import GuidedDenoiser
from dit_deploy.runtimes.plan import prediction_type, timestep_scale
from dit_deploy.sampling import Guidance, SkipLayerGuidance, SolverState, solver_table

SHAPE = (1, 2, 4, 4)
LATENTS = (Axis(name="batch"), SHAPE[1], *(Axis(name=f"patch_{side}", multiple=2) for side in ("height", "width")))


class FakeRunner:
    """A denoiser that keeps the timesteps it was fed and predicts zeros; its own runner, binding and pool entry."""

    component = Component(
        path="denoiser/model.onnx",
        inputs=(
            TensorSpec(name="latents", dtype="float32", axes=LATENTS),
            TensorSpec(name="timestep", dtype="float32", axes=LATENTS[:1]),
        ),
        outputs=(TensorSpec(name="prediction", dtype="float32", axes=LATENTS),),
    )

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
    with GuidedDenoiser(BindingPool(runner), Conditions({}, {}, 1), Guidance(1.0), SHAPE, scale) as denoiser:
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


class BlockBinding:
    """A denoiser of three blocks: predicts the sum of 1, 2 and 4 of those it keeps, and 10 where ``given`` is 1."""

    def __init__(self, batch: int, batches: list[int]) -> None:
        self._batches = batches
        self.inputs: dict[str, NDArray[Any]] = {
            "latents": np.zeros((batch, *SHAPE[1:]), np.float32),
            "timestep": np.zeros(batch, np.float32),
            "given": np.zeros(batch, np.int64),
            "skip_layers": np.zeros((batch, 3), np.int64),
        }
        self.outputs: dict[str, NDArray[Any]] = {"prediction": np.zeros((batch, *SHAPE[1:]), np.float32)}

    def run(self) -> None:
        self._batches.append(len(self.inputs["given"]))
        sums = (1 - self.inputs["skip_layers"]) @ np.array([1, 2, 4]) + 10 * self.inputs["given"]
        self.outputs["prediction"][:] = sums[:, None, None, None]


class BlockRunner:
    """Binds :class:`BlockBinding`, and keeps the batch of each call."""

    component = Component(
        path="denoiser/model.onnx",
        inputs=(
            TensorSpec(name="latents", dtype="float32", axes=LATENTS),
            TensorSpec(name="given", dtype="int64", axes=(Axis(name="batch"),)),
            TensorSpec(name="skip_layers", dtype="int64", axes=(Axis(name="batch"), 3)),
        ),
        outputs=(TensorSpec(name="prediction", dtype="float32", axes=(Axis(name="batch"), *SHAPE[1:])),),
    )

    def __init__(self) -> None:
        self.batches: list[int] = []

    def bind(self, sizes: Mapping[str, int]) -> BlockBinding:
        return BlockBinding(sizes["batch"], self.batches)


@pytest.mark.parametrize(("batched", "halves"), [(True, [2]), (False, [1, 1])])
def test_a_third_call_leaves_blocks_out(batched: bool, halves: list[int]) -> None:
    table = solver_table({"_class_name": "FlowMatchEulerDiscreteScheduler"}, 4)
    state, runner = SolverState(table, SHAPE), BlockRunner()
    state.reset(np.zeros(SHAPE, np.float32))
    conditions = Conditions(
        {"given": np.ones(1, np.int64), "skip_layers": np.zeros((1, 3), np.int64)},
        {"given": np.zeros(1, np.int64)},
        1,
        {"skip_layers": np.array([[0, 1, 0]])},
    )
    guidance = Guidance(3.0, batched=batched, skip=SkipLayerGuidance((1,), 0.5, start=0.0, stop=0.6))
    found = []
    with GuidedDenoiser(BindingPool(runner), conditions, guidance, SHAPE) as denoiser:
        for row in range(len(table)):
            found.append(float(denoiser(state, row)[0].max()))
    # 7 + 3 · (17 - 7), and where blocks are left out 0.5 · (17 - 15) more
    assert found == [37.0, 38.0, 38.0, 37.0]
    assert runner.batches == [*halves, *halves, 1, *halves, 1, *halves]
