"""An ONNX graph → a TensorRT engine, with either library: full TensorRT on the GPU that the engine is for,
TensorRT-RTX anywhere for chosen GPUs.

The network is strongly typed, so the graph's types decide the precision; the heavy layers' are checked before
anything is built, and afterwards what can be seen of the engine. The work is done in a process of its own, see
:mod:`._child`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import onnx_ir as ir

from dit_deploy.bundle import Component
from dit_deploy.bundle.engine import Precision, Profile
from dit_deploy.errors import BackendError, Cancelled, DitDeployError, InputError
from dit_deploy.exporters.builders import _child
from dit_deploy.exporters.builders.flavours import Flavour, check_option, check_targets, library, title
from dit_deploy.exporters.builders.layers import HeavyLayer, check_weights, precisions
from dit_deploy.exporters.builders.profiles import input_shapes
from dit_deploy.exporters.builders.progress import Progress
from dit_deploy.exporters.builders.refusal import SourceNames, advice, explain
from dit_deploy.files import sync_folder
from dit_deploy.text import one_line

__all__ = ["Attention", "BuildReport", "Flavour", "build", "check_options"]

#: How attention layers are built: with a fused kernel or not at all, taken apart into products and softmax, or
#: taken apart where there is no kernel.
Attention = Literal["fused", "decomposed", "auto"]

#: Names of TensorRT's levels of hardware compatibility.
HardwareCompatibility = Literal["ampere_plus", "same_compute_capability"]

_OPTIMIZATION_LEVELS = range(6)


@dataclass(frozen=True)
class BuildReport:
    """What came of a build.

    Args:
        flavour, version: the library.
        seconds: from reading the graph to the engine on disk.
        size: of the engine in bytes.
        layers: type of layer → how many, of the network as it was parsed.
        heavy: the layers that cost time, with the precision of each.
        engine_layers: type of layer and output → how many, of the built engine; empty where there is no GPU to load
            it on. TensorRT-RTX compiles nearly all of a network into one of them.
        memory: bytes of ``weights`` and ``activation`` that the library announced for the engine.
        warnings: what it said besides, a line each.
    """

    flavour: Flavour
    version: str
    seconds: float
    size: int
    layers: dict[str, int]
    heavy: tuple[HeavyLayer, ...]
    engine_layers: dict[str, int]
    memory: dict[str, int]
    warnings: tuple[str, ...]

    def precisions(self) -> dict[str, dict[str, int]]:
        """Return kind of heavy layer → precision → how many."""
        return precisions(self.heavy)


def check_options(
    flavour: Flavour,
    *,
    compute_capabilities: Sequence[str] = (),
    strip_weights: bool = False,
    refittable: bool = False,
    version_compatible: bool = False,
    hardware_compatibility: HardwareCompatibility | None = None,
    workspace_bytes: int | None = None,
    timing_cache: Path | None = None,
    optimization_level: int | None = None,
) -> None:
    """Hold the options of :func:`build` against what the library can do, before any work is done.

    Raises:
        InputError: an option is none of this library's, or out of range, or a compute capability is unknown.
        BackendError: the library is missing or needs a GPU that is not there, or the timing cache cannot be written.
    """
    found = library(flavour)
    check_targets(flavour, tuple(compute_capabilities))
    for option, value in (
        ("strip_weights", strip_weights),
        ("refittable", refittable),
        ("version_compatible", version_compatible),
        ("hardware_compatibility", hardware_compatibility),
        ("workspace_bytes", workspace_bytes),
        ("timing_cache", timing_cache),
        ("optimization_level", optimization_level),
    ):
        check_option(flavour, option, value)
    if (strip_weights or refittable) and found.gpu is None:
        # Seen with TensorRT-RTX 1.7.1: "graph_jit.cpp: CHECK(status == CUDA_SUCCESS) failed" for every graph.
        asked = "strip_weights" if strip_weights else "refittable"
        raise BackendError(
            f"{asked}: {title(flavour)} prepares refitting on a GPU, and here is none: {found.gpu_note}; "
            "build without it, or on a machine with an NVIDIA GPU"
        )
    if hardware_compatibility not in (None, *get_args(HardwareCompatibility)):
        raise InputError(
            f"hardware_compatibility: {hardware_compatibility!r} came, "
            f"expected {' or '.join(get_args(HardwareCompatibility))}"
        )
    if workspace_bytes is not None and workspace_bytes < 1:
        raise InputError(f"workspace_bytes: {workspace_bytes} came, expected a positive number of bytes")
    if optimization_level is not None and optimization_level not in _OPTIMIZATION_LEVELS:
        raise InputError(f"optimization_level: {optimization_level} came, expected 0 … {_OPTIMIZATION_LEVELS[-1]}")
    if timing_cache is not None:
        _check_writable(timing_cache)


def build(
    onnx_path: Path,
    out_path: Path,
    *,
    flavour: Flavour,
    component: Component,
    profiles: Sequence[Profile],
    precision: Precision | None = None,
    kept: Collection[str] = (),
    attention: Attention = "fused",
    compute_capabilities: Sequence[str] = (),
    strip_weights: bool = False,
    refittable: bool = False,
    version_compatible: bool = False,
    hardware_compatibility: HardwareCompatibility | None = None,
    workspace_bytes: int | None = None,
    timing_cache: Path | None = None,
    optimization_level: int | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
) -> BuildReport:
    """Build the graph in ``onnx_path`` into the engine ``out_path``.

    Args:
        onnx_path: the graph; its external data is found beside it.
        out_path: a file in an existing folder. It is replaced at the end, all at once; on failure it stays as it was.
        component: declares the graph's inputs, which are the engine's.
        profiles: sizes that the engine takes, one or several.
        precision: what was asked for; the heavy layers are held against it. ``None``: no check.
        kept: nodes that were left in another precision on purpose, by the node's name or its layer's or weight's.
        attention: see :data:`Attention`.
        compute_capabilities: ``("8.9", "12.0")``, of TensorRT-RTX; none means those that it takes by itself, 8.0 and
            later.
        strip_weights: leave the weights out of the engine: it is refitted from the graph where it is loaded.
        refittable: its weights can be replaced.
        version_compatible: later versions of the library can load it.
        hardware_compatibility: other GPUs can load it.
        workspace_bytes: memory on the GPU that one layer may use while it runs.
        timing_cache: a file, made where there is none, that makes the next build faster.
        optimization_level: 0 (builds fastest) … 5 (runs fastest).
        progress: called with (phase, step, steps) in this thread.
        stop: asked a few times a second; the build ends where it is true.

    Raises:
        InputError: see :func:`check_options`; a profile does not fit the component.
        BackendError: the library is missing, refuses the graph, crashes, is killed, or computes heavy layers in
            another precision; the message names the node, and what to try.
        Cancelled: ``stop`` said so.
    """
    check_options(
        flavour,
        compute_capabilities=compute_capabilities,
        strip_weights=strip_weights,
        refittable=refittable,
        version_compatible=version_compatible,
        hardware_compatibility=hardware_compatibility,
        workspace_bytes=workspace_bytes,
        timing_cache=timing_cache,
        optimization_level=optimization_level,
    )
    if not profiles:
        raise InputError("profiles: none came, expected the sizes that the engine is to take")
    if not onnx_path.is_file():
        raise BackendError(f"{onnx_path}: there is no such graph")
    partial = out_path.with_name(f".{out_path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    request = {
        "task": "build",
        "path": str(onnx_path),
        "partial": str(partial),
        "profiles": [input_shapes(component, profile) for profile in profiles],
        "precision": precision,
        "kept": sorted({*kept, *SourceNames(onnx_path).named(kept)}),
        "quantized": _quantized_layers(onnx_path) if precision in ("int8", "fp8") else None,
        "attention": attention,
        "compute_capabilities": list(compute_capabilities),
        "strip_weights": strip_weights,
        "refittable": refittable,
        "version_compatible": version_compatible,
        "hardware_compatibility": hardware_compatibility,
        "workspace_bytes": workspace_bytes,
        "timing_cache": None if timing_cache is None else str(timing_cache),
        "optimization_level": optimization_level,
    }
    named = f"{title(flavour)} {library(flavour).version}"
    try:
        try:
            answer = _child.run(flavour, request, on_progress=progress, stop=stop)
        except _child.Ended as error:
            raise BackendError(f"{named} {error}, on {onnx_path.name}. Try {advice(str(error))}") from error
        if answer["event"] != "built":
            raise _failure(onnx_path, named, answer)
        engine_layers, notes = _look_at(flavour, partial) if library(flavour).gpu is not None else ({}, [])
        if flavour == "tensorrt-rtx" and precision not in (None, "fp32") and not strip_weights:
            notes += _check_weights(onnx_path, answer["memory"], str(precision))
        os.replace(partial, out_path)
        sync_folder(out_path.parent)
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
    return BuildReport(
        flavour=flavour,
        version=answer["version"],
        seconds=answer["seconds"],
        size=answer["size"],
        layers=answer["layers"],
        heavy=tuple(HeavyLayer(**layer) for layer in answer["heavy"]),
        engine_layers=engine_layers,
        memory=answer["memory"],
        warnings=tuple(one_line(warning) for warning in (*answer["warnings"], *notes)),
    )


def _failure(path: Path, named: str, answer: dict[str, Any]) -> DitDeployError:
    """Return the error that a worker's answer stands for."""
    if answer["event"] == "stopped":
        return Cancelled("the build was stopped; nothing was written")
    if answer["event"] == "refused":
        return BackendError(explain(path, named, answer["details"]))
    kinds: dict[str, type[DitDeployError]] = {"InputError": InputError}
    return kinds.get(answer["kind"], BackendError)(f"{path.name}: {answer['message']}")


def _look_at(flavour: Flavour, path: Path) -> tuple[dict[str, int], list[str]]:
    """Return the layers of a built engine, and what there is to remark on them."""
    try:
        answer = _child.run(flavour, {"task": "inspect", "path": str(path)})
    except _child.Ended as error:
        return {}, [f"the engine's layers cannot be listed: the library {error}"]
    if answer["event"] != "layers":
        return {}, [f"the engine's layers cannot be listed: {answer.get('message', '')}"]
    return answer["layers"], []


def _check_weights(path: Path, memory: dict[str, int], precision: str) -> list[str]:
    if "weights" not in memory:
        return ["the library does not say how large the engine's weights are, so their type is not checked"]
    stored = sum(value.const_value.nbytes for value in ir.load(path).graph.initializers.values() if value.const_value)
    check_weights(memory["weights"], stored, precision)
    return []


def _quantized_layers(path: Path) -> int:
    """Count the linear layers of a graph whose input and weight are both dequantised."""
    count = 0
    for node in ir.load(path).graph.all_nodes():
        if node.op_type in ("MatMul", "Gemm", "Conv", "ConvTranspose"):
            count += all(_dequantized(value) for value in node.inputs[:2])
    return count


def _dequantized(value: ir.Value | None) -> bool:
    while value is not None and (producer := value.producer()) is not None:
        if producer.op_type == "DequantizeLinear":
            return True
        if producer.op_type not in ("Transpose", "Reshape"):
            return False
        value = producer.inputs[0]
    return False


def _check_writable(path: Path) -> None:
    """Raise :class:`BackendError` where ``path`` could not be written after the build."""
    probe = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        why = "its folder is a file" if isinstance(error, FileExistsError) else error.strerror
        raise BackendError(f"timing cache: {path} cannot be written: {why}; name another file, or none") from error
