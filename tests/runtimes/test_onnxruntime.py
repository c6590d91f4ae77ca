"""ONNX Runtime's providers, and CUDA graphs on a session that plays the part of one with CUDA."""

from __future__ import annotations

import sys
import threading
import time
import types
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from dit_deploy import Bundle, Pipeline
from dit_deploy.bundle.solver import solver_component
from dit_deploy.errors import BackendError
from dit_deploy.exporters.solver_graph import write_solver
from dit_deploy.runtimes import providers
from dit_deploy.runtimes.onnxruntime import OnnxRuntimeRunner
from dit_deploy.runtimes.onnxruntime_device import OnnxRuntimeMemory
from dit_deploy.runtimes.providers import CPU, CUDA
from dit_deploy.runtimes.runner import BindingPool

RTX = "NvTensorRTRTXExecutionProvider"
SIZES = {"batch": 2, "patch_height": 3, "patch_width": 2}


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


def runner(bundle: Bundle, **options: Any) -> OnnxRuntimeRunner:
    return OnnxRuntimeRunner(bundle.component_path("denoiser"), bundle.component("denoiser"), threads=1, **options)


class TestProviders:
    @pytest.mark.skipif(CUDA in ort.get_available_providers(), reason="this ONNX Runtime has CUDA")
    def test_one_that_this_onnxruntime_lacks_is_an_error(self, bundle: Bundle) -> None:
        with pytest.raises(BackendError, match=rf"has no {CUDA} \(the one installed computes on the CPU; install"):
            runner(bundle, providers=(CUDA, CPU))

    def test_one_that_does_not_start_is_an_error(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[Any] = []

        class Session:
            """ONNX Runtime logs that CUDA's libraries are missing, and goes on with the CPU."""

            def __init__(self, path: Any, options: Any, providers: list[Any], enable_fallback: int) -> None:
                asked.extend(providers)
                assert enable_fallback == 0

            def get_providers(self) -> list[str]:
                return [CPU]

        monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
        monkeypatch.setattr(ort, "InferenceSession", Session)
        with pytest.raises(BackendError, match=f"{CUDA} does not start on this machine, so model.onnx of denoiser"):
            runner(bundle, providers=((CUDA, {"device_id": 1}), CPU))
        assert asked[0] == (CUDA, {"use_tf32": "0", "device_id": 1, "enable_cuda_graph": "1"})
        # without CUDA graphs it was tried too, as those may have been the reason
        assert asked[2][1]["enable_cuda_graph"] == "0"

    def test_a_plugin_that_is_not_installed(self, bundle: Bundle) -> None:
        with pytest.raises(BackendError, match=f"{RTX} is not installed; pip install onnxruntime-ep-nv-tensorrt-rtx"):
            runner(bundle, providers=(RTX, CPU))

    def test_a_plugin_is_registered_once(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        module = types.ModuleType("onnxruntime_ep_nv_tensorrt_rtx")
        module.get_library_path = lambda: Path("library.so")  # type: ignore[attr-defined]
        module.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(providers, "_registered", set())
        registered: list[Any] = []
        monkeypatch.setattr(ort, "register_execution_provider_library", lambda *given: registered.append(given))

        def device(name: str, kind: str) -> Any:
            return types.SimpleNamespace(
                ep_name=name, device=types.SimpleNamespace(type=types.SimpleNamespace(name=kind))
            )

        devices = [device(RTX, "CPU"), device("Other", "GPU"), device(RTX, "GPU"), device(RTX, "GPU")]
        monkeypatch.setattr(ort, "get_ep_devices", lambda: devices)

        class Options:
            added: Any = None

            def add_provider_for_devices(self, chosen: Any, options: Any) -> None:
                self.added = chosen, options

        class Session:
            def __init__(self, model: Any, options: Options) -> None:
                self.options = options

            def get_providers(self) -> list[str]:
                return [RTX, CPU]

        monkeypatch.setattr(ort, "InferenceSession", Session)
        for _ in range(2):
            options = Options()
            providers.open_session(b"", options, [(RTX, {"depth": 2}), CPU], "a graph")
            assert options.added == ([devices[2]], {"depth": "2"})
        assert registered == [(RTX, "library.so")]
        devices.clear()
        with pytest.raises(BackendError, match=f"{RTX} finds no GPU"):
            providers.open_session(b"", Options(), [RTX], "a graph")

    def test_a_refused_graph_is_one_line(self, tmp_path: Path, bundle: Bundle) -> None:
        (tmp_path / "model.onnx").write_bytes(b"no graph")
        with pytest.raises(BackendError, match=r"ONNX Runtime refuses model\.onnx of") as raised:
            OnnxRuntimeRunner(tmp_path / "model.onnx", bundle.component("denoiser"))
        assert "\n" not in str(raised.value)


def test_what_cuda_said_is_the_message() -> None:
    text = (
        "Error in execution: /src/cuda_call.cc:154 std::conditional_t<THRW, void, Status> CudaCall(ERRTYPE) [with THRW "
        "= true] CUDA failure 900: operation not permitted when stream is capturing ; GPU=0 ; hostname=here ; expr=f()"
    )
    assert providers.first_line(RuntimeError(text)) == (
        "CUDA failure 900: operation not permitted when stream is capturing"
    )
    assert providers.first_line(RuntimeError("no such file\nmore")) == "no such file"


class GraphMemory(OnnxRuntimeMemory):
    """The CPU's memory, said to have CUDA graphs."""

    captures = True  # type: ignore[assignment]


class GraphSession:
    """A session that treats ``gpu_graph_id`` as ONNX Runtime's CUDA provider does, with a fault to choose."""

    def __init__(self, session: ort.InferenceSession, fault: str) -> None:
        self._session, self._fault = session, fault
        self.seen: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def io_binding(self) -> Any:
        return self._session.io_binding()

    def run_with_iobinding(self, io: Any, options: Any = None) -> None:
        if options is None:  # a binding on the host
            self._session.run_with_iobinding(io)
            return
        number = options.get_run_config_entry("gpu_graph_id")
        replayed = number in self.seen
        self.seen.append(number)
        if number != "-1" and self._fault == "fails":
            raise RuntimeError("capture failed")
        if not (number != "-1" and replayed and self._fault == "empty"):
            self._session.run_with_iobinding(io, options)


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[GraphSession]:
    """Every session opened, each told its fault by :data:`FAULT`."""
    made: list[GraphSession] = []

    def opened(self: OnnxRuntimeRunner, *, graphs: bool) -> Any:
        made.append(GraphSession(original(self, graphs=graphs), FAULT[0] if graphs else ""))
        return made[-1]

    original = OnnxRuntimeRunner._open
    monkeypatch.setattr(OnnxRuntimeRunner, "_open", opened)
    return made


FAULT = [""]


def results(pool: BindingPool, seed: int, **sizes: int) -> np.ndarray:
    random = np.random.RandomState(seed)
    with pool.borrow(**(SIZES | sizes)) as binding:
        binding.inputs["latents"][:] = random.standard_normal(binding.inputs["latents"].shape)
        binding.inputs["timestep"][:] = 500
        binding.run()
        return binding.outputs["prediction"].copy()


def test_each_size_has_a_graph_of_its_own(bundle: Bundle, sessions: list[GraphSession]) -> None:
    FAULT[0] = ""
    ours, theirs = BindingPool(runner(bundle, device=GraphMemory("cpu"))), BindingPool(runner(bundle))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed, batch in ((0, 2), (1, 2), (2, 1), (3, 2)):
            np.testing.assert_array_equal(results(ours, seed, batch=batch), results(theirs, seed, batch=batch))
    # an ordinary run to compare with, one that captures, a replay; then replays
    assert sessions[0].seen == ["-1", "1", "1", "1", "-1", "2", "2", "1"]


def test_each_thread_captures_and_compares(bundle: Bundle, sessions: list[GraphSession]) -> None:
    """CUDA graphs of ONNX Runtime belong to the thread that captured them."""
    FAULT[0] = ""
    ours, theirs = BindingPool(runner(bundle, device=GraphMemory("cpu"))), BindingPool(runner(bundle))
    results(ours, 0)
    found: list[np.ndarray] = []
    thread = threading.Thread(target=lambda: found.extend((results(ours, 1), results(ours, 2))))
    thread.start()
    thread.join()
    for seed, array in enumerate(found, start=1):
        np.testing.assert_array_equal(array, results(theirs, seed))
    assert sessions[0].seen == ["-1", "1", "1"] * 2 + ["1"]


def test_nothing_else_runs_while_a_thread_captures(
    bundle: Bundle, sessions: list[GraphSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where what another thread allocates or runs breaks the capture and itself."""
    FAULT[0] = ""
    inside: list[bool] = []  # of what is under way: whether it captures
    broken: list[str] = []
    captured = threading.local()

    def enter(capturing: bool) -> None:
        broken.extend(["something else ran during a capture"] * bool(inside and (capturing or any(inside))))
        inside.append(capturing)
        time.sleep(0.02 if capturing else 0.002)

    def run(self: GraphSession, io: Any, options: Any = None) -> None:
        number = options.get_run_config_entry("gpu_graph_id")
        mine = captured.__dict__.setdefault("numbers", set())
        enter(capturing := number != "-1" and number not in mine)
        mine.add(number)
        self._session.run_with_iobinding(io, options)
        inside.remove(capturing)

    def upload(value: ort.OrtValue, array: np.ndarray) -> None:
        enter(False)
        original(value, array)
        inside.remove(False)

    original = ort.OrtValue.update_inplace
    monkeypatch.setattr(GraphSession, "run_with_iobinding", run)
    monkeypatch.setattr(ort.OrtValue, "update_inplace", upload)
    ours, theirs = BindingPool(runner(bundle, device=GraphMemory("cpu"))), BindingPool(runner(bundle))
    found: dict[int, np.ndarray | BaseException] = {}

    def work(seed: int) -> None:
        try:
            for _ in range(3):
                found[seed] = results(ours, seed, batch=1 + seed % 2)
        except BaseException as error:
            found[seed] = error

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not broken
    monkeypatch.undo()
    for seed, array in found.items():
        np.testing.assert_array_equal(array, results(theirs, seed, batch=1 + seed % 2))
    assert len(found) == len(threads)


def test_sizes_beyond_what_a_session_holds_run_without(bundle: Bundle, sessions: list[GraphSession]) -> None:
    FAULT[0] = ""
    ours = BindingPool(runner(bundle, device=GraphMemory("cpu")), capacity=1)
    for batch in range(1, 19):
        results(ours, 0, batch=batch)
    assert {number for number in sessions[0].seen if number != "-1"} == {str(number) for number in range(1, 17)}
    assert sessions[0].seen[-1] == "-1"


@pytest.mark.parametrize(
    ("fault", "reason"), [("empty", "first replay is not the ordinary run"), ("fails", "cannot be captured")]
)
def test_a_bad_graph_is_told_and_given_up(
    bundle: Bundle, sessions: list[GraphSession], fault: str, reason: str
) -> None:
    FAULT[0] = fault
    ours, theirs = BindingPool(runner(bundle, device=GraphMemory("cpu"))), BindingPool(runner(bundle))
    with pytest.warns(RuntimeWarning, match=f"denoiser runs without a CUDA graph.*{reason}"):
        found = results(ours, 0)
    np.testing.assert_array_equal(found, results(theirs, 0))
    np.testing.assert_array_equal(results(ours, 1), results(theirs, 1))
    assert set(sessions[-1].seen) == {"-1"}


def test_the_loop_with_graphs(bundle: Bundle, sessions: list[GraphSession], tmp_path: Path) -> None:
    FAULT[0] = ""
    memory = GraphMemory("cpu")
    path, component = write_solver(bundle.manifest, tmp_path / "solver.onnx"), solver_component(bundle.manifest)
    solver = OnnxRuntimeRunner(path, component, threads=1, device=memory, cuda_graphs=False)
    pipe = Pipeline(bundle, runners={"denoiser": runner(bundle, device=memory), "solver": solver})
    request: dict[str, Any] = {"class_labels": [1], "num_inference_steps": 4, "seed": 0, "output_type": "latent"}
    expected = Pipeline(bundle, threads=1)(**request).latents
    for _ in range(2):
        assert np.abs(pipe(**request).latents - expected).max() <= 1e-6 * np.abs(expected).max()
    assert sessions[1].seen == ["-1", *["1"] * (2 + 3 + 4)]


@pytest.mark.gpu
@pytest.mark.skipif(CUDA not in ort.get_available_providers(), reason="this ONNX Runtime has no CUDA")
def test_on_a_gpu(bundle: Bundle, tmp_path: Path) -> None:
    path, component = write_solver(bundle.manifest, tmp_path / "solver.onnx"), solver_component(bundle.manifest)
    solver = OnnxRuntimeRunner(path, component, providers=(CUDA, CPU), cuda_graphs=False)
    pipe = Pipeline(bundle, runners={"denoiser": runner(bundle, providers=(CUDA, CPU)), "solver": solver})
    for scheduler in ("ddim", "unipc", "euler-ancestral"):
        request: dict[str, Any] = {"class_labels": [1, 2], "num_inference_steps": 8, "seed": 0, "scheduler": scheduler}
        expected = Pipeline(bundle, "onnx")(**request, output_type="latent").latents
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # no CUDA graph is given up
            found = pipe(**request, output_type="latent").latents
        assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()


@pytest.mark.gpu
@pytest.mark.skipif(CUDA not in ort.get_available_providers(), reason="this ONNX Runtime has no CUDA")
def test_threads_that_begin_at_once_on_a_gpu(bundle: Bundle) -> None:
    """Each captures its graph while the others would allocate, run and wait."""
    pipe = Pipeline(bundle, runners={"denoiser": runner(bundle, providers=(CUDA, CPU))})

    def draw(seed: int) -> np.ndarray:
        return pipe(class_labels=[1], num_inference_steps=8, seed=seed, output_type="latent").latents

    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(draw, range(6)))
    for seed, latents in enumerate(found):
        expected = draw(seed)
        assert np.abs(latents - expected).max() <= 1e-5 * np.abs(expected).max()
