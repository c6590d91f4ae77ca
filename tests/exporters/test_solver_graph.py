"""The solver graph on ONNX Runtime, against the loop on the host and against diffusers' own classes."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from dit_deploy.bundle import Axis, Component, Manifest, Prediction, TensorSpec, shape_of
from dit_deploy.bundle.engine import Profile, SizeRange
from dit_deploy.bundle.solver import solver_component, solver_profile
from dit_deploy.exporters.solver_graph import make_solver, write_solver
from dit_deploy.sampling import Guidance, NoiseSource, SolverState, SolverTable, solver_table
from dit_deploy.sampling.solver_row import LAYOUT, OLDER, WIDTH, solver_rows
from tests.bundle.conftest import FIELDS
from tests.sampling.reference import LIMIT, Trajectory, denoiser, difference, make_scheduler, run_scheduler

#: One case for every family of samplers, and for each column of the table that is not always the same.
CASES: dict[str, tuple[dict[str, Any], float]] = {
    "DDIM": ({"_class_name": "DDIMScheduler", "clip_sample": False}, 0.0),
    "DDIM clipped, with noise": ({"_class_name": "DDIMScheduler", "clip_sample_range": 0.7}, 0.6),
    "DDPM": ({"_class_name": "DDPMScheduler"}, 0.0),
    "learned variance": (
        {"_class_name": "DDPMScheduler", "variance_type": "learned_range", "timestep_spacing": "linspace"},
        0.0,
    ),
    "DPM++ 2M": ({"_class_name": "DPMSolverMultistepScheduler"}, 0.0),
    "DPM++ 3M": ({"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3}, 0.0),
    "DPM++ SDE": ({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"}, 0.0),
    "UniPC": ({"_class_name": "UniPCMultistepScheduler", "solver_order": 3}, 0.0),
    "Euler": ({"_class_name": "EulerDiscreteScheduler"}, 0.0),
    "Euler ancestral": ({"_class_name": "EulerAncestralDiscreteScheduler"}, 0.0),
    "Heun": ({"_class_name": "HeunDiscreteScheduler"}, 0.0),
    "Heun clipped": ({"_class_name": "HeunDiscreteScheduler", "clip_sample": True}, 0.0),
    "LMS": ({"_class_name": "LMSDiscreteScheduler"}, 0.0),
    "PNDM": ({"_class_name": "PNDMScheduler"}, 0.0),
    "PLMS": ({"_class_name": "PNDMScheduler", "skip_prk_steps": True}, 0.0),
    "LCM": ({"_class_name": "LCMScheduler"}, 0.0),
    "flow Euler": ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}, 0.0),
    "flow Heun": ({"_class_name": "FlowMatchHeunDiscreteScheduler"}, 0.0),
}
CHANNELS, SHAPE = 3, (2, 3, 4, 5)


def manifest(learned: bool, *, channels: int = CHANNELS, frames: bool = False) -> Manifest:
    """A manifest of latents without patches, as the reference's denoiser has them."""
    batch = Axis(name="batch")
    grid = (Axis(name="patch_height"), Axis(name="patch_width"))
    axes = (batch, channels, *((Axis(name="patch_frames"),) if frames else ()), *grid)

    def tensor(name: str) -> TensorSpec:
        return TensorSpec(name=name, dtype="float32", axes=axes)

    component = Component(
        path="denoiser/model.onnx",
        inputs=(tensor("latents"), TensorSpec(name="timestep", dtype="float32", axes=(batch,))),
        outputs=(tensor("prediction"), *((tensor("variance"),) if learned else ())),
    )
    latents = FIELDS["latents"].model_copy(update={"channels": channels, "patch_size": 1})
    return Manifest.model_construct(
        components={"denoiser": component},
        latents=latents,
        prediction=Prediction(type="epsilon", learned_range_variance=learned),
    )


@functools.cache
def open_graph(learned: bool, channels: int, frames: bool) -> ort.InferenceSession:
    made = make_solver(manifest(learned, channels=channels, frames=frames))
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])


class GraphRun:
    """Runs the graph row by row; buffers are numpy arrays, and history is a list that gives each row what it names."""

    def __init__(self, table: SolverTable, guidance: Guidance, shape: tuple[int, ...], learned: bool) -> None:
        self.table, self.shape = table, shape
        self.rows = solver_rows(table, guidance)
        self.session = open_graph(learned, shape[1], len(shape) == 5)
        self.names = [output.name for output in self.session.get_outputs()]
        self.learned = learned
        self.mask = np.zeros(shape[1], np.float32)
        self.mask[: guidance.channels] = 1.0

    def reset(self, sample: np.ndarray) -> None:
        self.sample, self.saved = sample.astype(np.float32), np.zeros(self.shape, np.float32)
        self.history: list[np.ndarray] = []

    def advance(
        self, row: int, prediction: np.ndarray, variance: np.ndarray | None, noise: np.ndarray | None, copies: int = 2
    ) -> dict[str, np.ndarray]:
        """Run one row; ``prediction`` and ``variance`` are [predictions, *shape]."""
        zeros = np.zeros(self.shape, np.float32)
        feeds = {
            "sample": self.sample,
            "saved": self.saved,
            "noise": zeros if noise is None else noise,
            "prediction": prediction,
            "copies": np.ones((copies, self.shape[0]), np.float32),
            "guided_channels": self.mask,
            "coefficients": self.rows[row].coefficients,
        }
        if self.learned:
            feeds["variance"] = np.zeros_like(prediction) if variance is None else variance
        for place in range(OLDER):
            older = self.rows[row].older
            feeds[f"older_{place + 1}"] = self.history[older[place] - 1] if place < len(older) else zeros
        out = dict(zip(self.names, self.session.run(None, feeds), strict=True))
        self.sample, self.saved = out["next_sample"], out["next_saved"]
        self.history.insert(0, out["converted"])
        return out


def pairs(row: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predictions and variances [2, *shape], and noise."""
    random = np.random.RandomState(row)
    prediction = random.standard_normal((2, *shape)).astype(np.float32)
    variance = np.tanh(random.standard_normal((2, *shape))).astype(np.float32)
    return prediction, variance, random.standard_normal(shape).astype(np.float32)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize(
    "guidance",
    [
        Guidance(4.0),
        Guidance(4.0, channels=2),
        Guidance(7.5, interval=(0.2, 0.7)),
        Guidance(1.0),
    ],
    ids=["all", "two channels", "interval", "off"],
)
@pytest.mark.parametrize("case", CASES)
def test_the_graph_is_the_loop_on_the_host(case: str, guidance: Guidance) -> None:
    config, eta = CASES[case]
    table = solver_table(config, 12, eta=eta)
    learned = table.needs_variance
    host, graph = SolverState(table, SHAPE), GraphRun(table, guidance, SHAPE, learned)
    start = 5.0 * np.random.RandomState(99).standard_normal(SHAPE)
    host.reset(start)
    graph.reset(start)
    for row in range(len(table)):
        prediction, variance, noise = pairs(row, SHAPE)
        guided = guidance.active(int(table.step[row]), table.num_steps)
        assert graph.rows[row].guided == guided
        once = guidance.combine(prediction[0], prediction[1]) if guided else prediction[0].copy()
        before = np.abs(host.sample).max()
        host.advance(row, once, variance[0] if learned else None, noise if table.uses_noise[row] else None)
        given = slice(None) if guided else slice(0, 1)
        out = graph.advance(row, prediction[given], variance[given], noise if graph.rows[row].noise else None)
        # Relative to the largest number that went into the sum, as rounding is.
        scale = max(np.abs(host.sample).max(), before * np.abs(table.sample[row, 0]), np.abs(once).max())
        assert np.abs(out["next_sample"] - host.sample).max() <= 1e-6 * scale, row
        assert np.isfinite(out["magnitude"]).all()
        if row + 1 < len(table):
            expected = host.model_input(row + 1)
            np.testing.assert_allclose(out["model_input"][0], expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
            np.testing.assert_array_equal(out["model_input"][0], out["model_input"][1])
            np.testing.assert_array_equal(out["next_timestep"], np.full((2, 2), table.timesteps[row + 1], np.float32))


@pytest.mark.parametrize("case", CASES)
def test_the_graph_against_diffusers(case: str) -> None:
    """The same denoiser and noise as in tests/sampling; the reference is the class with its step in float64."""
    config, eta = CASES[case]
    options = {key: value for key, value in config.items() if key != "_class_name"}
    table = solver_table(config, 20, eta=eta)
    channels = 6 if table.needs_variance else 3
    scheduler = make_scheduler(config["_class_name"], options, 20, exact=True)
    with_eta = {"eta": eta} if config["_class_name"] == "DDIMScheduler" else {}
    theirs = run_scheduler(scheduler, exact=True, channels=channels, **with_eta)

    graph = GraphRun(table, Guidance(1.0), SHAPE, table.needs_variance)
    source, noise, samples = NoiseSource(5), None, []
    graph.reset(source.draw(SHAPE) * np.float32(table.initial_noise_scale))
    model_input = graph.sample * np.float32(table.input_scale[0])
    for row in range(len(table)):
        output = denoiser(model_input, table.timesteps[row], row, channels)
        for _ in range(table.noise_draws[row]):
            noise = source.draw(SHAPE)
        variance = output[None, :, 3:] if table.needs_variance else None
        out = graph.advance(row, output[None, :, :3], variance, noise if graph.rows[row].noise else None, copies=1)
        model_input = out["model_input"][0]
        samples.append(out["next_sample"].astype(np.float64))
    assert difference(Trajectory(table.timesteps.tolist(), samples, theirs.next_noise), theirs) <= LIMIT


def test_video_latents_have_one_axis_more() -> None:
    shape = (2, 3, 2, 4, 5)
    table = solver_table({"_class_name": "DPMSolverMultistepScheduler"}, 6)
    guidance = Guidance(3.0, channels=1)
    host, graph = SolverState(table, shape), GraphRun(table, guidance, shape, False)
    start = np.random.RandomState(1).standard_normal(shape)
    host.reset(start)
    graph.reset(start)
    for row in range(len(table)):
        prediction = pairs(row, shape)[0]
        host.advance(row, guidance.combine(prediction[0], prediction[1]))
        out = graph.advance(row, prediction, None, None)
    assert relative(out["next_sample"], host.sample) <= 1e-6
    assert out["model_input"].shape == (2, *shape)


@pytest.mark.parametrize("where", ["sample", "conditional", "unconditional"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_magnitude_tells_what_is_not_finite(where: str, value: float) -> None:
    # a clipping sampler: Min and Max may drop a NaN, depending on the backend
    graph = GraphRun(solver_table({"_class_name": "DDIMScheduler"}, 4), Guidance(4.0), SHAPE, False)
    graph.reset(np.ones(SHAPE))
    prediction = pairs(0, SHAPE)[0]
    {"sample": graph.sample, "conditional": prediction[0], "unconditional": prediction[1]}[where][1, 2, 3, 4] = value
    assert not np.isfinite(graph.advance(0, prediction, None, None)["magnitude"]).any()


def test_a_dead_input_has_no_say() -> None:
    """Whatever finite values lie in the buffers of unused older outputs and unused noise, the result is the same."""
    graph = GraphRun(solver_table({"_class_name": "DDIMScheduler"}, 4), Guidance(4.0), SHAPE, False)
    prediction = pairs(0, SHAPE)[0]
    results = []
    for noise in (None, np.full(SHAPE, 3e38, np.float32)):
        graph.reset(np.ones(SHAPE))
        results.append(graph.advance(0, prediction, None, noise)["next_sample"])
    np.testing.assert_array_equal(*results)


def test_the_file_declares_what_the_component_does(tmp_path: Path) -> None:
    for learned in (False, True):
        component = solver_component(manifest(learned))
        model = onnx.load(write_solver(manifest(learned), tmp_path / "solver.onnx"))
        for specs, values in ((component.inputs, model.graph.input), (component.outputs, model.graph.output)):
            assert [spec.name for spec in specs] == [value.name for value in values]
        assert ("variance" in {value.name for value in model.graph.input}) is learned
        assert (tmp_path / "solver.onnx").stat().st_size < 10_000


def test_axes_are_named_as_in_exported_graphs() -> None:
    patched = manifest(False)
    latents = patched.components["denoiser"].input("latents")
    doubled = latents.model_copy(
        update={"axes": (*latents.axes[:2], *(Axis(name=f"patch_{side}", multiple=2) for side in ("height", "width")))}
    )
    denoiser_component = patched.components["denoiser"].model_copy(update={"inputs": (doubled,)})
    made = make_solver(patched.model_copy(update={"components": {"denoiser": denoiser_component}}))
    dims = [dim.dim_param or dim.dim_value for dim in made.graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["batch", CHANNELS, "2*patch_height", "2*patch_width"]


def test_rows_that_no_graph_takes() -> None:
    table = solver_table({"_class_name": "LMSDiscreteScheduler"}, 6)
    with pytest.raises(ValueError, match="guidance rescale"):
        solver_rows(table, Guidance(4.0, rescale=0.5))
    wide = np.concatenate([table.sample, np.ones((6, 1))], axis=1)
    more = SolverTable(
        **{
            **{name: getattr(table, name) for name in table.__dataclass_fields__},
            "sample": wide,
            "saved": np.concatenate([table.saved, np.zeros((6, 1))], axis=1),
        }
    )
    with pytest.raises(ValueError, match=r"row 3 multiplies 4 older outputs, a solver graph takes 3"):
        solver_rows(more, Guidance(4.0))


def test_the_layout_is_the_vector() -> None:
    table = solver_table({"_class_name": "UniPCMultistepScheduler", "solver_order": 3}, 8)
    row = solver_rows(table, Guidance(4.0), timestep_scale=0.5)[4]
    assert row.coefficients.shape == (WIDTH,)
    parts = dict(zip(LAYOUT, np.split(row.coefficients, np.cumsum(list(LAYOUT.values()))[:-1]), strict=True))
    assert parts["guidance"] == 3.0
    assert parts["timestep"] == np.float32(table.timesteps[5] * 0.5)
    assert parts["clip"] == np.finfo(np.float32).max
    assert parts["sample_row"][5] == np.float32(table.sample[4, 4 + row.older[0]])


def test_one_profile_holds_what_the_denoisers_hold() -> None:
    def profile(low: int, best: int, high: int) -> Profile:
        sizes = {
            name: SizeRange(minimum=low, optimum=best, maximum=high)
            for name in ("batch", "patch_height", "patch_width")
        }
        return Profile(sizes=sizes)

    wide = solver_profile([profile(2, 4, 8), profile(6, 8, 16)])
    for sizes in (
        {"batch": 1, "patch_height": 2, "patch_width": 16},
        {"batch": 16, "patch_height": 7, "patch_width": 9},
    ):
        for copies in (1, 2):
            assert wide.holds({**sizes, "copies": copies, "predictions": 3 - copies})
    component = solver_component(manifest(True))
    largest = {name: one.maximum for name, one in wide.sizes.items()}
    assert [shape_of(spec, largest) for spec in component.inputs]
