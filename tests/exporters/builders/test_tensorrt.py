"""Engines built by TensorRT-RTX without a GPU, and everything that can be wrong with one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dit_deploy.bundle import Bundle, Component
from dit_deploy.bundle.engine import Profile, SizeRange
from dit_deploy.errors import BackendError, Cancelled, InputError
from dit_deploy.exporters.builders import flavours, tensorrt
from dit_deploy.exporters.builders.flavours import Gpu, Library, library
from dit_deploy.exporters.builders.layers import HeavyLayer
from dit_deploy.exporters.builders.profiles import Extent, plan_profiles
from dit_deploy.exporters.builders.tensorrt import BuildReport, build, check_options
from dit_deploy.targets import TENSORRT_RTX_TARGETS
from tests.exporters.builders import graphs


@pytest.fixture(scope="module")
def rtx() -> Library:
    """TensorRT-RTX, where it is installed."""
    try:
        return library("tensorrt-rtx")
    except BackendError as error:
        pytest.skip(str(error))


@pytest.fixture
def make(rtx: Library, tmp_path: Path) -> Callable[..., BuildReport]:
    """Build a graph of :mod:`graphs` for 8.9 with all sizes free, into ``tmp_path / "out.engine"``."""

    def made(graph: Callable[..., Component], *args: Any, options: dict[str, Any] | None = None, **named: Any):
        component = graph(tmp_path / "model.onnx", *args, **named)
        given = {"compute_capabilities": ["8.9"], "profiles": [profile_for(component)]} | (options or {})
        return build(
            tmp_path / "model.onnx", tmp_path / "out.engine", flavour="tensorrt-rtx", component=component, **given
        )

    return made


def profile_for(component: Component) -> Profile:
    names = set().union(*(spec.axis_names() for spec in component.inputs))
    ends = {name: graphs.AXES[name] for name in sorted(names)}
    return Profile(sizes={name: SizeRange(minimum=a, optimum=b, maximum=c) for name, (a, b, c) in ends.items()})


def left_over(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".") or path.suffix == ".engine"]


def test_an_engine(make: Callable[..., BuildReport], rtx: Library, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    report = make(
        graphs.linear,
        options={"precision": "fp16", "progress": lambda *step: seen.append(step), "stop": lambda: False},
    )
    assert (tmp_path / "out.engine").stat().st_size == report.size > 10_000
    assert left_over(tmp_path) == ["out.engine"]
    assert report.version == rtx.version
    assert report.heavy == (HeavyLayer("node_first", "matmul", "fp16"), HeavyLayer("node_second", "matmul", "fp16"))
    assert report.precisions() == {"matmul": {"fp16": 2}}
    assert report.layers["MATRIX_MULTIPLY"] == 2
    assert report.layers["CAST"] >= 2
    # The library's own word on the engine it built: two weights of 64 × 64 in two bytes each.
    assert 2 * 64 * 64 * 2 <= report.memory["weights"] < 2 * 64 * 64 * 4
    assert report.warnings == ()
    assert seen[0] == ("Reading the graph", 0, 1000)
    assert [step for _, step, _ in seen] == sorted(step for _, step, _ in seen)


def test_the_same_graph_gives_the_same_engine(make: Callable[..., BuildReport], tmp_path: Path) -> None:
    made = set()
    for capabilities in (["8.9"], ["8.9"], ["8.0"]):
        make(graphs.linear, options={"compute_capabilities": capabilities})
        made.add((tmp_path / "out.engine").read_bytes())
    assert len(made) == 2


def test_attention(make: Callable[..., BuildReport]) -> None:
    report = make(graphs.attention, options={"precision": "fp16", "compute_capabilities": ["8.0", "12.0"]})
    assert report.precisions() == {"matmul": {"fp16": 3}, "attention": {"fp16": 1}}
    assert report.heavy[-1].name == "node_attention"


def test_attention_in_fp32_is_refused_or_decomposed(make: Callable[..., BuildReport], tmp_path: Path) -> None:
    with pytest.raises(BackendError) as caught:
        make(graphs.attention, graphs.FLOAT, options={"precision": "fp32"})
    message = str(caught.value)
    assert "node node_attention (Attention; blocks.3 in the source model)" in message
    assert "Attention operation was not supported by a dedicated kernel" in message
    assert "Try fp16 or bf16" in message
    assert "\n" not in message
    assert left_over(tmp_path) == []
    report = make(graphs.attention, graphs.FLOAT, options={"precision": "fp32", "attention": "decomposed"})
    assert report.warnings == ()
    report = make(graphs.attention, graphs.FLOAT, options={"precision": "fp32", "attention": "auto"})
    assert report.warnings == ("attention is decomposed into products and softmax: there is no fused kernel for it",)
    assert report.precisions()["attention"] == {"fp32": 1}


def test_unsupported_operator(make: Callable[..., BuildReport]) -> None:
    with pytest.raises(BackendError) as caught:
        make(graphs.one_node, "Det")
    assert "model.onnx: node node_odd (Det; blocks.3.attn in the source model): UNSUPPORTED_NODE" in str(caught.value)
    assert "Try another export of this operator" in str(caught.value)


def test_mixed_types(make: Callable[..., BuildReport]) -> None:
    def mixed(path: Path) -> Component:
        node = graphs.helper.make_node("MatMul", ["x", "blocks.3.to_q.weight"], ["y"], name="node_mixed")
        return graphs.write(path, [node], ("batch", 64), [graphs.weight("to_q", 64, 64, dtype=np.float16)])

    with pytest.raises(BackendError) as caught:
        make(mixed)
    assert "node node_mixed (MatMul; weights blocks.3.to_q.weight)" in str(caught.value)
    assert "must have same input types" in str(caught.value)
    assert "Try a Cast" in str(caught.value)


def test_asymmetric_quantisation(make: Callable[..., BuildReport]) -> None:
    with pytest.raises(BackendError, match=r"node node_quantize \(QuantizeLinear\).*Try symmetric int8"):
        make(graphs.quantized, 3)


def test_float32_products_for_turing(make: Callable[..., BuildReport]) -> None:
    with pytest.raises(
        BackendError, match=r"node node_(first|second) \(MatMul;.*FP32 GEMM.*Try fp16, which 7\.5 needs"
    ):
        make(graphs.linear, graphs.FLOAT, options={"compute_capabilities": ["7.5"]})
    make(graphs.linear, graphs.HALF, options={"compute_capabilities": ["7.5"]})


def test_too_little_workspace(make: Callable[..., BuildReport]) -> None:
    with pytest.raises(BackendError, match=r"within workspace limit.*Try a larger workspace, or narrower profiles"):
        make(graphs.attention, options={"workspace_bytes": 1 << 10})


def test_no_graph_at_all(make: Callable[..., BuildReport]) -> None:
    def garbage(path: Path) -> Component:
        component = graphs.linear(path)
        path.write_bytes(b"no protobuf")
        return component

    with pytest.raises(BackendError, match=r"Try exporting it again"):
        make(garbage)


def test_a_native_crash_is_an_error(make: Callable[..., BuildReport], rtx: Library, tmp_path: Path) -> None:
    """TensorRT-RTX 1.7.1 ends the process on attention over the graph's own input."""
    (tmp_path / "out.engine").write_bytes(b"before")
    if rtx.version.startswith("1.7.1."):
        with pytest.raises(BackendError, match=r"crashed \(SIG.*, on model.onnx. Try another precision"):
            make(graphs.attention, direct=True)
        assert (tmp_path / "out.engine").read_bytes() == b"before"
        assert left_over(tmp_path) == ["out.engine"]
    else:
        pytest.skip(f"known of TensorRT-RTX 1.7.1, here is {rtx.version}")


def test_fp16_asked_is_fp16_got(make: Callable[..., BuildReport]) -> None:
    with pytest.raises(BackendError, match=r"fp16 was asked, but 1 of 2 heavy.*node_second \(matmul, fp32\)"):
        make(graphs.linear, forgotten=True, options={"precision": "fp16"})
    for name in ("node_second", "blocks.3.to_out.weight", "blocks.3.to_out"):
        report = make(graphs.linear, forgotten=True, options={"precision": "fp16", "kept": [name]})
        assert report.precisions() == {"matmul": {"fp16": 1, "fp32": 1}}


def test_the_library_tells_the_size_of_the_weights_it_uses(make: Callable[..., BuildReport]) -> None:
    """What :func:`check_weights` relies on: it is the built engine's size that is told, not the graph's."""
    report = make(graphs.stored_in_half)
    assert report.memory["weights"] == pytest.approx(128 * 128 * 4, rel=0.1)


def test_int8_asked_is_int8_got(make: Callable[..., BuildReport]) -> None:
    report = make(graphs.quantized, options={"precision": "int8"})
    assert report.precisions() == {"matmul": {"int8": 1, "fp16": 1}}
    with pytest.raises(BackendError, match="int8 was asked, but not one of 2 heavy layers is quantised"):
        make(graphs.linear, options={"precision": "int8"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compute_capabilities": ["9.0"]}, "'9.0' came, TensorRT-RTX .* builds for 7.5, 8.0, 8.6, 8.9, 12.0, 12.1"),
        ({"compute_capabilities": ["8.9", "8.9"]}, "8.9, 8.9 came, one of them twice"),
        ({"timing_cache": Path("cache")}, "timing_cache: TensorRT-RTX has no such option: .* runtime cache"),
        ({"optimization_level": 3}, "optimization_level: TensorRT-RTX has no such option"),
        ({"version_compatible": True}, "version_compatible: TensorRT-RTX has no such option"),
        ({"hardware_compatibility": "ampere_plus"}, "hardware_compatibility: TensorRT-RTX has no such option"),
        ({"workspace_bytes": 0}, "workspace_bytes: 0 came"),
    ],
)
def test_options_refused(rtx: Library, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_options("tensorrt-rtx", **options)


@pytest.mark.parametrize("option", ["strip_weights", "refittable"])
def test_refitting_wants_a_gpu(rtx: Library, option: str) -> None:
    if rtx.gpu is not None:
        pytest.skip("there is a GPU here")
    with pytest.raises(BackendError, match=f"{option}: TensorRT-RTX prepares refitting on a GPU, and here is none"):
        check_options("tensorrt-rtx", **{option: True})


def test_targets_are_the_library_s(rtx: Library) -> None:
    assert rtx.compute_capabilities == TENSORRT_RTX_TARGETS


def test_no_profile(make: Callable[..., BuildReport]) -> None:
    with pytest.raises(InputError, match="profiles: none came"):
        make(graphs.linear, options={"profiles": []})


def test_full_tensorrt_says_what_is_missing() -> None:
    flavours.library.cache_clear()
    try:
        found = library("tensorrt")
    except BackendError as error:
        message = str(error)
    else:
        pytest.skip(f"TensorRT {found.version} and {found.gpu} are here")
    assert message.startswith("TensorRT cannot build here: ")
    assert "pip install 'dit-deploy[tensorrt]'" in message or "it builds on the GPU that the engine is for" in message
    assert "\n" not in message


def test_stop(make: Callable[..., BuildReport], tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        make(graphs.attention, options={"stop": lambda: True})
    assert left_over(tmp_path) == []


def test_interrupt(make: Callable[..., BuildReport], tmp_path: Path) -> None:
    def interrupted(phase: str, step: int, steps: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(graphs.attention, options={"progress": interrupted})
    assert left_over(tmp_path) == []


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_the_worker_is_killed(make: Callable[..., BuildReport], tmp_path: Path) -> None:
    def kill(phase: str, step: int, steps: int) -> None:
        for pid in children(os.getpid()):
            if b"dit_deploy.exporters.builders" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)

    with pytest.raises(
        BackendError, match=r"was killed, as happens where memory runs out.*Try a smaller maximum batch"
    ):
        make(graphs.attention, options={"progress": kill})
    assert left_over(tmp_path) == []


def children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        yield from map(int, (task / "children").read_text().split())


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_the_caller_is_killed(make: Callable[..., BuildReport], tmp_path: Path) -> None:
    """The worker does not outlive whoever waits for it."""
    make(graphs.attention)
    (tmp_path / "out.engine").unlink()
    code = f"""
import importlib.util, os, sys
sys.path.insert(0, {os.getcwd()!r})
import dit_deploy
for name in ("dit_deploy.exporters", "dit_deploy.exporters.builders"):  # without torch, which takes seconds
    sys.modules[name] = importlib.util.module_from_spec(importlib.util.find_spec(name))
from pathlib import Path
from tests.exporters.builders import graphs, test_tensorrt as here
from dit_deploy.exporters.builders.tensorrt import build
folder = Path({str(tmp_path)!r})
component = graphs.attention(folder / "model.onnx")
def tell(*step):
    print(*here.children(os.getpid()), flush=True)
    os.kill(os.getpid(), 9)
build(folder / "model.onnx", folder / "out.engine", flavour="tensorrt-rtx", component=component,
      profiles=[here.profile_for(component)], compute_capabilities=["8.9"], progress=tell)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    workers = [int(pid) for pid in done.stdout.split()]
    assert workers
    deadline = time.monotonic() + 120
    while any(Path(f"/proc/{pid}/cmdline").exists() for pid in workers):
        assert time.monotonic() < deadline, "the worker is still there"
        time.sleep(0.05)
    assert left_over(tmp_path) == []


def test_a_denoiser_with_planned_profiles(rtx: Library, tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    component = bundle.manifest.components["denoiser"]
    profiles = plan_profiles(bundle.manifest, [Extent(64, 64), Extent(32, 96)])["denoiser"]
    report = build(
        bundle.path / component.path,
        tmp_path / "denoiser.engine",
        flavour="tensorrt-rtx",
        component=component,
        profiles=profiles,
        precision="fp32",
        attention="auto",
        compute_capabilities=["8.9", "12.0"],
    )
    # Counted in the ONNX graph by hand: two blocks of attention and six products each, and what stands around them.
    assert report.precisions()["attention"] == {"fp32": 2}
    assert set(report.precisions()["matmul"]) == {"fp32"}
    assert report.size > 100_000


@pytest.fixture
def stand_in(rtx: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    """TensorRT-RTX under the name of full TensorRT: their interfaces are the same where the builder uses them."""
    package = tmp_path / "stand-in" / "tensorrt"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from tensorrt_rtx import *\n__version__ = '10.14.0'\n")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    known = frozenset({"workspace_bytes", "timing_cache", "optimization_level", "hardware_compatibility"})
    found = Library("10.14.0", (), known, Gpu("none, in truth", "8.9"), "")
    monkeypatch.setattr(flavours, "library", lambda flavour: found)
    monkeypatch.setattr(tensorrt, "library", lambda flavour: found)
    return found


def test_full_tensorrt_takes_the_same_way(stand_in: Library, tmp_path: Path) -> None:
    component = graphs.linear(tmp_path / "model.onnx")
    cache = tmp_path / "caches" / "timing.cache"
    for _ in range(2):
        report = build(
            tmp_path / "model.onnx",
            tmp_path / "out.engine",
            flavour="tensorrt",
            component=component,
            profiles=[profile_for(component)],
            precision="fp16",
            timing_cache=cache,
            optimization_level=2,
            workspace_bytes=1 << 30,
        )
        assert report.version == "10.14.0"
        assert report.size == (tmp_path / "out.engine").stat().st_size
        assert cache.stat().st_size > 0
        assert [path.name for path in cache.parent.iterdir()] == ["timing.cache"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compute_capabilities": ["8.9"]}, "compute_capabilities: TensorRT has no such option: it builds for the GPU"),
        ({"version_compatible": True}, "version_compatible: TensorRT has no such option: version 10.14.0 does not"),
        ({"optimization_level": 9}, "optimization_level: 9 came, expected 0 … 5"),
        ({"hardware_compatibility": "all"}, "'all' came, expected ampere_plus or same_compute_capability"),
    ],
)
def test_options_of_full_tensorrt(stand_in: Library, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_options("tensorrt", **options)


def test_timing_cache_that_cannot_be_written(stand_in: Library, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BackendError, match=r"timing cache: .* cannot be written: its folder is a file"):
        check_options("tensorrt", timing_cache=tmp_path / "file" / "timing.cache")


@pytest.mark.gpu
@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt-rtx"])
def test_on_a_gpu(flavour: flavours.Flavour, tmp_path: Path) -> None:
    """The built engine's layers are listed, and a stripped engine has no weights in it."""
    try:
        found = library(flavour)
    except BackendError as error:
        pytest.skip(str(error))
    if found.gpu is None:
        pytest.skip(found.gpu_note)
    if found.compute_capabilities and found.gpu.compute_capability not in found.compute_capabilities:
        pytest.skip(f"{found.gpu} loads no engine of TensorRT-RTX")
    component = graphs.attention(tmp_path / "model.onnx")
    sizes = []
    for strip in (False, True):
        report = build(
            tmp_path / "model.onnx",
            tmp_path / "out.engine",
            flavour=flavour,
            component=component,
            profiles=[profile_for(component)],
            precision="fp16",
            strip_weights=strip,
        )
        sizes.append(report.size)
        assert strip or report.engine_layers
    assert sizes[0] - sizes[1] > 3 * 64 * 64  # bytes, of three weights in two bytes each
