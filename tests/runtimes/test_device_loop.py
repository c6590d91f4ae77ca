"""The loop on the device must equal the host's; the device is ONNX Runtime's memory on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dit_deploy import Bundle, Pipeline
from dit_deploy.bundle.solver import solver_component
from dit_deploy.errors import BackendError, Cancelled
from dit_deploy.exporters.solver_graph import write_solver
from dit_deploy.runtimes.device_loop import DeviceSteps, why_not
from dit_deploy.runtimes.onnxruntime import OnnxRuntimeRunner
from dit_deploy.runtimes.onnxruntime_device import OnnxRuntimeMemory
from dit_deploy.runtimes.runner import BindingPool
from dit_deploy.sampling import Guidance, SkipLayerGuidance, solver_table

RECTANGLE = {"height": 32, "width": 96}


class Counting(OnnxRuntimeMemory):
    """Counts what crosses between host and device, in bytes."""

    up = 0
    down = 0

    def upload(self, buffer: Any, array: np.ndarray) -> None:
        type(self).up += array.nbytes
        super().upload(buffer, array)

    def download(self, buffer: Any, out: np.ndarray) -> None:
        type(self).down += out.nbytes
        super().download(buffer, out)


MEMORY = Counting("cpu")


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


@pytest.fixture(scope="module")
def host(bundle: Bundle) -> Pipeline:
    return Pipeline(bundle, threads=1)


@pytest.fixture(scope="module")
def solver(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> OnnxRuntimeRunner:
    path = write_solver(bundle.manifest, tmp_path_factory.mktemp("solver") / "solver.onnx")
    return OnnxRuntimeRunner(path, solver_component(bundle.manifest), threads=1, device=MEMORY)


@pytest.fixture(scope="module")
def denoiser(bundle: Bundle) -> OnnxRuntimeRunner:
    path, component = bundle.component_path("denoiser"), bundle.component("denoiser")
    return OnnxRuntimeRunner(path, component, threads=1, device=MEMORY)


@pytest.fixture(scope="module")
def device(bundle: Bundle, denoiser: OnnxRuntimeRunner, solver: OnnxRuntimeRunner) -> Pipeline:
    return Pipeline(bundle, runners={"denoiser": denoiser, "solver": solver}, threads=1)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows that ran on the device, so that no test passes by comparing the host with itself."""
    rows: list[int] = []
    predict = DeviceSteps.predict

    def recorded(steps: DeviceSteps, row: int) -> None:
        rows.append(row)
        predict(steps, row)

    monkeypatch.setattr(DeviceSteps, "predict", recorded)
    return rows


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"guidance_scale": 1.0},
        {"guidance_channels": 3, **RECTANGLE},
        {"guidance_interval": (0.2, 0.8)},
        {"guidance_interval": (0.5, 1.0), "scheduler": "heun"},
        {"scheduler": "ddpm"},
        {"scheduler": {"_class_name": "DDPMScheduler", "variance_type": "learned_range", "clip_sample": False}},
        {"scheduler": "dpmsolver++"},
        {"scheduler": "dpmsolver++sde", "seed": [4, 5]},
        {"scheduler": "unipc"},
        {"scheduler": "euler-ancestral"},
        {"scheduler": "lms"},
        {"scheduler": "pndm"},
        {"scheduler": "lcm"},
        {"scheduler": "ddim", "eta": 0.7},
        {"image": np.random.RandomState(0).rand(2, 64, 64, 3).astype(np.float32), "strength": 0.6},
    ],
    ids=lambda arguments: ", ".join(map(str, arguments)) or "plain",
)
def test_the_picture_is_the_hosts(
    host: Pipeline, device: Pipeline, launched: list[int], arguments: dict[str, Any]
) -> None:
    request = {"class_labels": [3, 11], "num_inference_steps": 6, "seed": 7, "output_type": "numpy", **arguments}
    theirs, ours = host(**request), device(**request)
    assert launched
    # Where predicted samples are clipped, what is subtracted is some hundreds, and the latents are 1.
    limit = 1e-5 if arguments.get("scheduler") == "ddpm" else 1e-6
    assert np.abs(ours.latents - theirs.latents).max() <= limit * np.abs(theirs.latents).max()
    assert isinstance(ours.images, np.ndarray)
    assert isinstance(theirs.images, np.ndarray)
    assert np.abs(ours.images - theirs.images).max() <= 1e-5
    assert theirs.images.std() > 0.05


def test_latents_go_up_once_and_come_down_once(device: Pipeline, launched: list[int]) -> None:
    request = {"class_labels": [1, 2], "num_inference_steps": 20, "seed": 0, "output_type": "latent"}
    device(**request)  # allocates
    latents = 2 * 6 * 16 * 16 * 4
    Counting.up = Counting.down = 0
    device(**request)
    buffers = 4 + 3  # zeros for what a run allocates: samples, saved ones, zeros, noise and m_0
    steps = 20 * 200
    assert Counting.up <= latents * (1 + 2 + buffers) + steps + 1000  # the sample, its two copies
    assert Counting.down <= latents + 20 * 4
    assert len(launched) == 40


def test_the_callback_sees_each_step(host: Pipeline, device: Pipeline, launched: list[int]) -> None:
    seen: dict[str, list[np.ndarray]] = {"host": [], "device": []}
    for name, pipe in (("host", host), ("device", device)):

        def keep(step: int, steps: int, latents: np.ndarray, name: str = name) -> None:
            assert not latents.flags.writeable
            seen[name].append(latents.copy())

        pipe(class_labels=3, num_inference_steps=5, seed=1, scheduler="heun", callback=keep, output_type="latent")
    assert len(seen["host"]) == len(seen["device"]) == 5
    for ours, theirs in zip(seen["device"], seen["host"], strict=True):
        assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()
    with pytest.raises(Cancelled, match="after step 2 of 5"):
        device(class_labels=3, num_inference_steps=5, callback=lambda step, steps, latents: step < 1)
    assert launched


def test_buffers_serve_one_run_after_another(host: Pipeline, device: Pipeline) -> None:
    """What a run leaves in the buffers has no say in the next, of another size, sampler or guidance."""
    requests: list[dict[str, Any]] = [
        {"scheduler": "pndm", **RECTANGLE},
        {"scheduler": "unipc", "guidance_scale": 1.0},
        {"scheduler": "ddpm"},
        {"scheduler": "unipc"},
    ]
    for request in requests * 2:
        request = {"class_labels": [5, 6], "num_inference_steps": 4, "seed": 2, "output_type": "latent", **request}
        theirs, ours = host(**request).latents, device(**request).latents
        assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


@pytest.mark.parametrize("arguments", [{"guidance_rescale": 0.7}, {"guidance_batched": False}], ids=str)
def test_what_the_host_does_even_so(
    host: Pipeline, device: Pipeline, launched: list[int], arguments: dict[str, Any]
) -> None:
    request = {"class_labels": [3], "num_inference_steps": 4, "seed": 7, "output_type": "latent", **arguments}
    theirs, ours = host(**request).latents, device(**request).latents
    assert not launched
    np.testing.assert_array_equal(ours, theirs)


def test_why_not(denoiser: OnnxRuntimeRunner, solver: OnnxRuntimeRunner, host: Pipeline) -> None:
    table, guidance = solver_table({"_class_name": "DDIMScheduler"}, 4), Guidance(4.0)
    ours, graph = BindingPool(denoiser), BindingPool(solver)
    assert why_not(ours, graph, guidance, table) == ""
    assert "on the host" in why_not(host.pool("denoiser"), graph, guidance, table)
    assert "no solver graph" in why_not(ours, None, guidance, table)
    assert "rescale" in why_not(ours, graph, Guidance(4.0, rescale=0.1), table)
    assert "skip-layer" in why_not(ours, graph, Guidance(4.0, skip=SkipLayerGuidance((0,))), table)
    elsewhere = OnnxRuntimeRunner(solver._path, solver.component, threads=1, device=OnnxRuntimeMemory("cpu", 1))
    assert "device" in why_not(ours, BindingPool(elsewhere), guidance, table)


class Poisoned:
    """The denoiser on the device, whose prediction holds a NaN from the second step on."""

    def __init__(self, inner: OnnxRuntimeRunner) -> None:
        self._inner = inner
        self.component, self.device = inner.component, inner.device

    def bind(self, sizes: dict[str, int]) -> Any:
        binding, launches = self._inner.bind(sizes), [0]
        launch = binding.launch  # type: ignore[union-attr]

        def poisoned() -> None:
            launch()
            launches[0] += 1
            if launches[0] > 1:
                array = np.zeros((sizes["batch"], 6, 16, 16), np.float32)
                array[0, 0, 0, 0] = np.nan
                self.device.upload(binding.buffers["prediction"], array)  # type: ignore[union-attr]

        binding.launch = poisoned  # type: ignore[union-attr, method-assign]
        return binding


def test_nan_is_an_error_at_its_step(bundle: Bundle, denoiser: OnnxRuntimeRunner, solver: OnnxRuntimeRunner) -> None:
    pipe = Pipeline(bundle, runners={"denoiser": Poisoned(denoiser), "solver": solver})
    with pytest.raises(BackendError, match="the latents hold NaN or infinite values after step 2 of 3"):
        pipe(class_labels=1, num_inference_steps=3, seed=0)
