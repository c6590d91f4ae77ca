"""One engine, from the graph to the bytes on disk; runs in the worker's process, see :mod:`._worker`.

Flags and enumerations are asked of the library by name: their values differ between versions, and some exist in one
library only.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dit_deploy.errors import BackendError
from dit_deploy.exporters.builders.layers import check_layers, count_engine_layers, count_types, heavy_layers
from dit_deploy.exporters.builders.progress import monitor
from dit_deploy.files import replace_file

__all__ = ["Refused", "Stopped", "build", "inspect"]

#: Warnings that every graph of ours would bring, and that say nothing.
_NOISE = re.compile(r"Make sure input .* has Int64 binding|Profiling results in this builder pass")

_NO_ATTENTION_KERNEL = "Attention operation was not supported by a dedicated kernel"


class Refused(Exception):
    """The library does not take the graph; what it said is in ``details``."""

    def __init__(self, details: list[dict[str, Any]]) -> None:
        super().__init__()
        self.details = details


class Stopped(Exception):
    """Nobody waits for the engine any more."""


def build(
    request: dict[str, Any], progress: Callable[[str, int, int], None], stopped: Callable[[], bool]
) -> dict[str, Any]:
    """Build what ``request`` asks for into its file ``partial``, and return what is to be told of it."""
    began = time.perf_counter()
    trt = importlib.import_module(request["flavour"].replace("-", "_"))
    from polygraphy.backend.trt import util as polygraphy_util
    from polygraphy.logger import G_LOGGER

    G_LOGGER.module_severity = G_LOGGER.CRITICAL
    said = _recorder(trt)
    # Polygraphy makes a logger of its own unless there is one, and that one keeps nothing.
    polygraphy_util.TRT_LOGGER = said

    def go_on() -> None:
        if stopped():
            raise Stopped

    progress("Reading the graph", 0, 1000)
    builder, network, _parser = _parse(trt, request["path"], said, request["version_compatible"])
    go_on()
    layers = heavy_layers(network)
    types = count_types(network)
    if request["precision"] is not None:
        check_layers(layers, request["precision"], kept=set(request["kept"]), quantized=request["quantized"])
    attention = request["attention"]
    notes: list[str] = []
    if attention == "decomposed":
        _decompose_attention(trt, network)
    config = _configure(trt, builder, network, request, monitor(trt, progress, stopped), notes)
    data = _engine_bytes(builder, network, config, said)
    go_on()
    if data is None and attention == "auto" and any(_NO_ATTENTION_KERNEL in error for error in said.errors):
        said.errors.clear()
        _decompose_attention(trt, network)
        notes.append("attention is decomposed into products and softmax: there is no fused kernel for it")
        data = _engine_bytes(builder, network, config, said)
        go_on()
    if data is None:
        raise Refused([{"message": error} for error in said.errors])
    with open(request["partial"], "xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    if request["timing_cache"] is not None:
        notes += _save_timing_cache(config, Path(request["timing_cache"]))
    return {
        "version": str(trt.__version__),
        "seconds": time.perf_counter() - began,
        "size": len(memoryview(data)),
        "layers": types,
        "heavy": [asdict(layer) for layer in layers],
        "memory": said.memory,
        "warnings": notes + said.warnings,
    }


def _recorder(trt: Any) -> Any:
    """Return an ``ILogger`` that keeps errors, warnings, and the sizes that a finished engine is said to have."""

    class Recorder(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []
            self.memory: dict[str, int] = {}

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(message)
            elif severity == trt.ILogger.WARNING:
                if message not in self.warnings and len(self.warnings) < 50 and not _NOISE.search(message):
                    self.warnings.append(message)
            elif found := re.fullmatch(r"(?:Total|Max) (Weights|Activation|Scratch) Memory: (\d+) bytes", message):
                self.memory[found[1].lower()] = int(found[2])

    return Recorder()


def _parse(trt: Any, path: str, said: Any, version_compatible: bool) -> tuple[Any, Any, Any]:
    """Return (builder, network, parser); the parser owns what the network's weights are read from."""
    from polygraphy.backend.trt import CreateNetwork

    # From some version on there is no other kind, and with that no flag.
    flagged = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
    builder, network = CreateNetwork(strongly_typed=flagged)()
    with contextlib.suppress(AttributeError):
        trt.init_libnvinfer_plugins(said, "")
    # Not Polygraphy's loader for this one step: it drops the parser, and with it what the parser says of a node.
    parser = trt.OnnxParser(network, said)
    if version_compatible and hasattr(trt.OnnxParserFlag, "NATIVE_INSTANCENORM"):
        parser.set_flag(trt.OnnxParserFlag.NATIVE_INSTANCENORM)  # a plugin would bind it to a version
    parsed = parser.parse_from_file(path)
    faults = [_parser_error(parser.get_error(index)) for index in range(parser.num_errors)]
    if not parsed or faults:
        raise Refused(faults or [{"message": error} for error in said.errors])
    if network.num_outputs == 0:  # a file that is no ONNX parses into an empty network
        raise Refused([{"message": "the file holds no graph with outputs"}])
    return builder, network, parser


def _parser_error(error: Any) -> dict[str, Any]:
    return {
        "message": error.desc(),
        "code": getattr(error.code(), "name", str(error.code())),
        "node": error.node_name(),
        "operator": error.node_operator(),
        "functions": list(error.local_function_stack() or ()),
    }


def _decompose_attention(trt: Any, network: Any) -> None:
    from polygraphy.backend.trt import SetDecomposableAttentions

    if not hasattr(trt, "IAttentionInputLayer"):
        raise BackendError("this version has no attention layer that could be decomposed; lower attention in the graph")
    SetDecomposableAttentions((None, network))()


def _configure(
    trt: Any, builder: Any, network: Any, request: dict[str, Any], progress_monitor: Any, notes: list[str]
) -> Any:
    from polygraphy.backend.trt import Profile

    profiles = []
    for shapes in request["profiles"]:
        profile = Profile()
        for name, (low, best, high) in shapes.items():
            profile.add(name, tuple(low), tuple(best), tuple(high))
        profiles.append(profile)
    given: dict[str, Any] = {
        "profiles": profiles,
        "progress_monitor": progress_monitor,
        "strip_plan": request["strip_weights"],
        "refittable": request["refittable"],
        "version_compatible": request["version_compatible"],
        "builder_optimization_level": request["optimization_level"],
    }
    if request["workspace_bytes"] is not None:
        given["memory_pool_limits"] = {trt.MemoryPoolType.WORKSPACE: request["workspace_bytes"]}
    if request["hardware_compatibility"] is not None:
        given["hardware_compatibility_level"] = getattr(
            trt.HardwareCompatibilityLevel, request["hardware_compatibility"].upper()
        )
    if request["flavour"] == "tensorrt-rtx":
        from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

        targets = [tuple(map(int, one.split("."))) for one in request["compute_capabilities"]]
        config = CreateConfigRTX(use_gpu=False, compute_capabilities=targets, **given)(builder, network)
    else:
        from polygraphy.backend.trt import CreateConfig

        config = CreateConfig(**given)(builder, network)
    if hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)  # float32 is asked where float32 is meant
    if request["strip_weights"] and not request["refittable"] and hasattr(trt.BuilderFlag, "REFIT_IDENTICAL"):
        config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)  # with the weights that it was built from
    if request["timing_cache"] is not None:
        _load_timing_cache(config, Path(request["timing_cache"]), notes)
    return config


def _engine_bytes(builder: Any, network: Any, config: Any, said: Any) -> Any | None:
    from polygraphy.backend.trt import EngineBytesFromNetwork
    from polygraphy.exception import PolygraphyException

    try:
        return EngineBytesFromNetwork((builder, network), config)()
    except PolygraphyException as error:
        if not said.errors:
            said.errors.append(str(error))
        return None


def _load_timing_cache(config: Any, path: Path, notes: list[str]) -> None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    cache = config.create_timing_cache(data)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        notes.append(f"the timing cache {path.name} is of another version or GPU, and starts anew")
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def _save_timing_cache(config: Any, path: Path) -> list[str]:
    """Write the timing cache. Of two builds that end together the later one's stays: a cache is not worth a lock."""
    cache = config.get_timing_cache()
    try:
        replace_file(path, bytes(cache.serialize()))
    except (OSError, AttributeError) as error:
        return [f"the timing cache was not kept: {error}"]
    return []


def inspect(flavour: str, path: str) -> dict[str, int]:
    """Return the layers of a built engine by type; it has to be loaded on a GPU for that."""
    trt = importlib.import_module(flavour.replace("-", "_"))
    runtime = trt.Runtime(_recorder(trt))
    with contextlib.suppress(AttributeError):
        runtime.engine_host_code_allowed = True  # a version-compatible engine carries code; this one we built
    engine = runtime.deserialize_cuda_engine(Path(path).read_bytes())
    if engine is None:
        return {}
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return count_engine_layers(json.loads(text))
