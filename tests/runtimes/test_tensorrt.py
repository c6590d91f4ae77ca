"""The TensorRT runner on a fake of both libraries and of the driver; what needs a GPU skips where there is none."""

from __future__ import annotations

import ctypes
import gc
import shutil
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dit_deploy import Bundle, Pipeline
from dit_deploy.bundle import EngineComponent, EngineWriter, Target, graph_digest
from dit_deploy.bundle.engine import Profile, SizeRange
from dit_deploy.bundle.solver import solver_component
from dit_deploy.errors import BackendError, DitDeployError, InputError
from dit_deploy.exporters.solver_graph import write_solver
from dit_deploy.extras import importable
from dit_deploy.runtimes import cuda
from dit_deploy.runtimes.choose import Choice
from dit_deploy.runtimes.cuda import CudaDevice
from dit_deploy.runtimes.device_loop import DeviceSteps
from dit_deploy.runtimes.runner import BindingPool
from dit_deploy.runtimes.tensorrt import TensorRTRunner
from tests.runtimes.fakes import FakeDriver, fake_engine, fake_tensorrt

FLAVOURS = ("tensorrt", "tensorrt-rtx")
REQUEST: dict[str, Any] = {"class_labels": [3, 11], "num_inference_steps": 5, "seed": 7, "output_type": "latent"}


class World:
    """A machine with a fake GPU, on which a bundle's components run as fake engines."""

    def __init__(self, folder: Path, bundle: Bundle, flavour: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.bundle, self.flavour = folder, bundle, flavour
        self.driver = FakeDriver()
        self.device = CudaDevice(self.driver)
        rtx = flavour == "tensorrt-rtx"
        self.library = fake_tensorrt(self.driver, rtx=rtx)
        monkeypatch.setitem(sys.modules, flavour.replace("-", "_"), self.library)
        self.solver_onnx = write_solver(bundle.manifest, folder / "solver.onnx")

    def runner(self, name: str = "denoiser", options: dict[str, Any] | None = None, **engine: Any) -> TensorRTRunner:
        if name == "solver":
            onnx, component = self.solver_onnx, solver_component(self.bundle.manifest)
        else:
            onnx, component = self.bundle.component_path(name), self.bundle.component(name)
        path = fake_engine(self.folder / "fp16" / f"{name}.engine", onnx, **engine)
        return TensorRTRunner(path, component, flavour=self.flavour, device=self.device, **(options or {}))

    def pipeline(self, **engine: Any) -> Pipeline:
        runners = {
            "denoiser": self.runner("denoiser", **engine),
            "solver": self.runner("solver", {"cuda_graphs": False}),
        }
        return Pipeline(self.bundle, runners=runners)


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


@pytest.fixture(scope="module")
def expected(bundle: Bundle) -> np.ndarray:
    return Pipeline(bundle, threads=1)(**REQUEST).latents


@pytest.fixture(params=FLAVOURS)
def world(request: pytest.FixtureRequest, tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, bundle, request.param, monkeypatch)


@pytest.fixture
def full(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, bundle, "tensorrt", monkeypatch)


@pytest.fixture
def rtx(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, bundle, "tensorrt-rtx", monkeypatch)


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max())


def test_a_whole_run_is_the_hosts(world: World, expected: np.ndarray) -> None:
    pipe = world.pipeline()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            assert close(pipe(**REQUEST).latents, expected)
    engine = pipe.pool("denoiser").runner.engine  # type: ignore[attr-defined]
    if world.flavour == "tensorrt":
        # the first call has a run to warm up, one to compare with, and a replay; then there are only replays
        assert world.driver.launches == 1 + 4 + 5
        assert len(engine.contexts) == 1
    else:
        assert world.driver.launches == 0
        assert [context.config.cuda_graph_strategy.name for context in engine.contexts] == [
            "DISABLED",
            "WHOLE_GRAPH_CAPTURE",
        ]


def test_buffers_and_contexts_are_made_once_and_freed(world: World) -> None:
    pipe = world.pipeline()
    pipe(**REQUEST)
    before = world.driver.allocations
    pipe(**REQUEST)
    per_run = world.driver.allocations - before
    assert per_run == 4 + 3 + 4  # samples, saved ones, zeros, noise, m_0; coefficients, channels, ones, magnitude
    del pipe
    gc.collect()
    assert not world.driver.held
    assert not world.driver.graphs


def test_the_runner_serves_host_arrays_too(world: World, bundle: Bundle) -> None:
    """The VAE's halves, and every run that the loop on the device does not take."""
    theirs = Pipeline(bundle, threads=1)
    ours = Pipeline(bundle, runners={name: world.runner(name) for name in bundle.manifest.components})
    image = np.random.RandomState(0).rand(1, 64, 64, 3).astype(np.float32)
    request = {"class_labels": 3, "num_inference_steps": 3, "seed": 1, "image": image, "strength": 1.0}
    expected, found = (pipe(**request, output_type="numpy") for pipe in (theirs, ours))
    assert close(found.latents, expected.latents)
    assert isinstance(found.images, np.ndarray)
    assert np.abs(found.images - expected.images).max() <= 1e-5


@pytest.mark.parametrize("fault", ["captures_nothing", "capture_fails", "fails_in_capture"])
def test_a_bad_capture_is_told_and_the_picture_is_right(full: World, expected: np.ndarray, fault: str) -> None:
    engine = {fault: True} if fault == "fails_in_capture" else {}
    pipe = full.pipeline(**engine)
    setattr(full.driver, fault, True)
    reason = "first replay is not the ordinary run" if fault == "captures_nothing" else "cannot be captured"
    with pytest.warns(RuntimeWarning, match=f"denoiser.engine of fp16 runs without a CUDA graph.*{reason}"):
        latents = pipe(**REQUEST).latents
    assert close(latents, expected)
    launches = full.driver.launches
    assert close(pipe(**REQUEST).latents, expected)
    assert full.driver.launches == launches


def test_rtxs_own_graph_is_not_trusted_either(rtx: World, expected: np.ndarray) -> None:
    pipe = rtx.pipeline(own_graph_is_empty=True)
    with pytest.warns(RuntimeWarning, match="first replay is not the ordinary run"):
        latents = pipe(**REQUEST).latents
    assert close(latents, expected)


def test_without_cuda_graphs(world: World, expected: np.ndarray) -> None:
    runners = {name: world.runner(name, {"cuda_graphs": False}) for name in ("denoiser", "solver")}
    assert close(Pipeline(world.bundle, runners=runners)(**REQUEST).latents, expected)
    assert world.driver.launches == 0


def test_sizes_have_their_own_graphs(full: World, bundle: Bundle) -> None:
    theirs, ours = Pipeline(bundle, threads=1), full.pipeline()
    sizes = [{}, {"height": 32, "width": 96}, {"guidance_interval": (0.3, 0.7)}, {}]
    for size in sizes * 2:
        request = REQUEST | size
        assert close(ours(**request).latents, theirs(**request).latents)


def test_threads_share_a_runner(world: World, bundle: Bundle) -> None:
    pipe, theirs = world.pipeline(), Pipeline(bundle, threads=1)
    requests = [REQUEST | {"seed": seed} for seed in range(4)]
    expected = [theirs(**request).latents for request in requests]
    found: list[Any] = [None] * 4

    def draw(index: int) -> None:
        found[index] = pipe(**requests[index]).latents

    threads = [threading.Thread(target=draw, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ours, other in zip(found, expected, strict=True):
        assert close(ours, other)


def test_profiles_choose_the_context(full: World) -> None:
    def profile(low: int, high: int) -> Profile:
        grid = SizeRange(minimum=low, optimum=low, maximum=high)
        return Profile(
            sizes={"batch": SizeRange(minimum=1, optimum=2, maximum=4), "patch_height": grid, "patch_width": grid}
        )

    runner = full.runner(options={"profiles": (profile(2, 4), profile(4, 16))}, profiles=2)
    sizes = {"batch": 2, "patch_width": 8}
    assert runner.bind({**sizes, "patch_height": 8})._context.profile == 1
    assert runner.bind({"batch": 2, "patch_width": 3, "patch_height": 2})._context.profile == 0
    with pytest.raises(InputError, match=r"no profile of this engine holds .*patch_height 17"):
        runner.bind({**sizes, "patch_height": 17})


def test_without_profiles_the_engine_is_asked(full: World) -> None:
    runner = full.runner(profiles=2, largest=4)
    assert runner.bind({"batch": 1, "patch_width": 1, "patch_height": 1})._context.profile == 0
    assert runner.bind({"batch": 5, "patch_width": 1, "patch_height": 1})._context.profile == 1
    with pytest.raises(BackendError, match=r"no profile holds latents \[9, 6, 4, 4\]"):
        runner.bind({"batch": 9, "patch_width": 1, "patch_height": 1})


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"version": "9.9"}, r"another version of TensorRT(-RTX)? built it, here is 10\.0\.fake"),
        ({"compute_capability": [9, 0]}, r"built for another GPU than Fake RTX 4090 \(8\.9\)"),
    ],
)
def test_engines_of_other_machines(world: World, engine: dict[str, Any], message: str) -> None:
    with pytest.raises(BackendError, match=message) as raised:
        world.runner(**engine)
    assert "\n" not in str(raised.value)
    assert "denoiser.engine of fp16" in str(raised.value)


def test_files_that_are_no_engine(world: World) -> None:
    path = world.runner().what and world.folder / "fp16" / "denoiser.engine"
    component = world.bundle.component("denoiser")
    data = path.read_bytes()
    for content, message in ((data[:-9], "cut short, or no engine"), (b"", "is empty")):
        path.write_bytes(content)
        with pytest.raises(BackendError, match=message):
            TensorRTRunner(path, component, flavour=world.flavour, device=world.device)
    path.unlink()
    with pytest.raises(BackendError, match=r"denoiser\.engine cannot be read: No such file"):
        TensorRTRunner(path, component, flavour=world.flavour, device=world.device)


def test_an_engine_of_another_signature(world: World) -> None:
    path = fake_engine(world.folder / "fp16" / "denoiser.engine", world.bundle.component_path("vae_decoder"))
    with pytest.raises(BackendError, match="has inputs and outputs images, latents, expected class_labels, "):
        TensorRTRunner(path, world.bundle.component("denoiser"), flavour=world.flavour, device=world.device)


def test_no_driver_and_no_library(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda._driver.cache_clear()
    cuda.open_device.cache_clear()
    path = fake_engine(tmp_path / "e" / "denoiser.engine", bundle.component_path("denoiser"))
    component = bundle.component("denoiser")
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # importing it fails
    with pytest.raises(BackendError, match=r"TensorRT is not installed; pip install 'dit-deploy\[tensorrt\]'"):
        TensorRTRunner(path, component, flavour="tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt(FakeDriver()))

    def not_found(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr("dit_deploy.runtimes.cuda.ctypes.CDLL", not_found)
    with pytest.raises(BackendError, match="there is no NVIDIA driver on this machine"):
        TensorRTRunner(path, component, flavour="tensorrt")


def test_a_gpu_without_room(full: World) -> None:
    full.driver.memory = 60_000
    pool = BindingPool(full.runner())
    with (
        pytest.raises(BackendError, match=r"Fake RTX 4090 has no \d+ MB left"),
        pool.borrow(batch=64, patch_height=8, patch_width=8) as binding,
    ):
        binding.run()


class TestRuntimeCache:
    def file(self, world: World) -> Path:
        return world.folder / "cache" / "rtx-10.0.fake-Fake-RTX-4090-fp16-denoiser.cache"

    def run(self, world: World) -> TensorRTRunner:
        runner = world.runner(options={"cache": world.folder / "cache"})
        with BindingPool(runner).borrow(batch=1, patch_height=2, patch_width=2) as binding:
            binding.run()
        return runner

    def test_is_kept_and_given_back(self, rtx: World) -> None:
        (rtx.folder / "cache").mkdir()
        self.run(rtx)
        kept = self.file(rtx).read_bytes()
        assert kept.startswith(b"cache of")
        runner = rtx.runner(options={"cache": rtx.folder / "cache"})
        assert runner.cache is not None
        assert runner.cache.native.content == kept
        assert [path.name for path in self.file(rtx).parent.iterdir()] == [self.file(rtx).name]

    def test_one_that_does_not_fit_is_replaced(self, rtx: World) -> None:
        (rtx.folder / "cache").mkdir()
        self.file(rtx).write_bytes(b"of another driver")
        self.run(rtx)
        assert self.file(rtx).read_bytes().startswith(b"cache of")

    def test_a_folder_without_permission_costs_time_only(self, rtx: World) -> None:
        self.run(rtx)  # there is no such folder
        assert not self.file(rtx).exists()

    def test_the_full_library_has_none(self, full: World) -> None:
        (full.folder / "cache").mkdir()
        assert self.run(full).cache is None
        assert not list((full.folder / "cache").iterdir())


def test_an_engine_of_a_bundle_stays_on_the_device(
    world: World, expected: np.ndarray, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From ``engine.json`` to latents: both artefacts are opened, the loop is the device's, RTX's cache is kept."""
    bundle = Bundle.open(shutil.copytree(tiny_bundle, tmp_path / "copied"))
    solver = write_solver(bundle.manifest, tmp_path / "graph.onnx")
    built = {}
    with EngineWriter(bundle, "fast") as writer:
        for name, onnx in (("denoiser", bundle.component_path("denoiser")), ("solver", solver)):
            fake_engine(writer.file(f"{name}.engine"), onnx)
            graph = graph_digest(bundle.manifest, name)
            built[name] = EngineComponent(path=f"{name}.engine", kind="tensorrt", graph=graph)
        engine = writer.finish(
            components=built,
            backend=world.flavour,
            backend_version="10.0.fake",
            precision="fp16",
            target=Target(device="cuda", compute_capabilities=("8.9",)),
            key_parts={},
            seconds=0.0,
        )
    monkeypatch.setattr("dit_deploy.runtimes.pipeline.choose_engine", lambda *_: Choice("fast", "as asked", engine))
    monkeypatch.setattr("dit_deploy.runtimes.tensorrt.open_device", lambda: world.device)
    ran: list[int] = []
    advance = DeviceSteps.advance
    monkeypatch.setattr(DeviceSteps, "advance", lambda self, row, noise: (ran.append(row), advance(self, row, noise)))
    pipe = Pipeline(bundle, "fast")
    assert close(pipe(**REQUEST).latents, expected)
    assert ran == list(range(5))
    caches = [path.name for path in (bundle.path / "engines" / ".cache").glob("*.cache")]
    if world.flavour == "tensorrt":
        assert caches == []
    else:
        assert "rtx-10.0.fake-Fake-RTX-4090-fast-denoiser.cache" in caches


@pytest.mark.skipif(not importable("tensorrt_rtx"), reason="tensorrt-rtx is not installed")
def test_the_real_library_says_what_is_wrong(bundle: Bundle, tmp_path: Path) -> None:
    """RTX's own logger and words; without a driver it takes no engine, so that is where this ends on such a machine."""
    device = CudaDevice(FakeDriver())
    component = bundle.component("denoiser")
    path = tmp_path / "fp16" / "denoiser.engine"
    path.parent.mkdir()
    path.write_bytes(b"no engine at all" * 100)
    with pytest.raises(BackendError, match=r"TensorRT-RTX refuses denoiser\.engine of fp16: ") as raised:
        TensorRTRunner(path, component, flavour="tensorrt-rtx", device=device)
    assert "\n" not in str(raised.value)
    expected = "there is no NVIDIA driver" if _no_gpu() else "cut short, or no engine"
    assert expected in str(raised.value)


def _no_gpu() -> str:
    try:
        cuda._driver()
    except BackendError as error:
        return str(error)
    return ""


@pytest.mark.gpu
@pytest.mark.skipif(bool(_no_gpu()), reason=_no_gpu() or "there is a driver")
class TestOnAGpu:
    def test_memory_and_graphs(self) -> None:
        device = cuda.open_device()
        source = np.random.RandomState(0).standard_normal((3, 1000)).astype(np.float32)
        buffer = device.allocate(source.shape, np.float32)
        found = np.ones_like(source)
        device.download(buffer, found)
        assert not found.any()
        device.upload(buffer, source)
        ones = [ctypes.c_uint64(buffer.address), ctypes.c_ubyte(1), ctypes.c_size_t(4), ctypes.c_void_p(device.stream)]
        graph = device.capture(lambda: device._call("cuMemsetD8Async", *ones))
        device.download(buffer, found)
        np.testing.assert_array_equal(found, source)  # a capture computes nothing
        graph.launch()
        device.download(buffer, found)
        assert found[0, 0].tobytes() == b"\1\1\1\1"
        np.testing.assert_array_equal(found.ravel()[1:], source.ravel()[1:])

    @pytest.mark.parametrize("flavour", FLAVOURS)
    def test_a_real_engine(self, flavour: str, tiny_bundle: Path, tmp_path: Path) -> None:
        from dit_deploy.exporters.builders import build_engine

        bundle = Bundle.open(shutil.copytree(tiny_bundle, tmp_path / "copied"))
        try:
            build_engine(bundle, backend=flavour, precision="fp16", name="fast", check=False)
            pipe = Pipeline(bundle, "fast")
        except DitDeployError as error:
            pytest.skip(str(error))
        theirs = Pipeline(bundle, "onnx")
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # a capture that was given up
            for scheduler in ("ddim", "unipc", "ddpm"):
                request = REQUEST | {"scheduler": scheduler}
                for _ in range(2):
                    found, expected = pipe(**request).latents, theirs(**request).latents
                    assert np.abs(found - expected).max() <= 3e-2 * np.abs(expected).max()
