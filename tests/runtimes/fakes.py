"""NVIDIA's driver and TensorRT as far as the runners use them, on a machine that has neither.

Device memory is memory of this process, so that addresses are real ones and a stale one shows. A stream computes at
once, or records while it captures, and a graph computes what was recorded. An engine is a JSON file that names an ONNX
graph, which ONNX Runtime computes from and to the addresses that the context was given.
"""

from __future__ import annotations

import ctypes
import enum
import json
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

__all__ = ["FakeDriver", "fake_engine", "fake_tensorrt"]

OUT_OF_MEMORY, CAPTURE_FAILED = 2, 900


class FakeDriver:
    """``libcuda``: functions take ctypes arguments and return a status."""

    def __init__(self, *, gpus: int = 1, compute_capability: tuple[int, int] = (8, 9), memory: int = 1 << 30) -> None:
        self.gpus, self.compute_capability, self.memory = gpus, compute_capability, memory
        self.held: dict[int, Any] = {}
        self.allocations = 0
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.recording: list[Callable[[], None]] | None = None
        self.capture_fails = False
        self.captures_nothing = False
        self.launches = 0
        self._next = 1000

    def _handle(self) -> int:
        self._next += 1
        return self._next

    def queue(self, work: Callable[[], None]) -> None:
        """Do it now, or record it."""
        if self.recording is None:
            work()
        else:
            self.recording.append(work)

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return 0

    def cuGetErrorString(self, status: int, text: Any) -> int:  # noqa: N802
        text._obj.value = {OUT_OF_MEMORY: b"out of memory"}.get(status, b"a fake error")
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = self.gpus
        return 0

    def cuDeviceGet(self, device: Any, index: Any) -> int:  # noqa: N802
        device._obj.value = index.value
        return 0

    def cuDeviceGetName(self, text: Any, size: Any, device: Any) -> int:  # noqa: N802
        text.value = b"Fake RTX 4090"
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: Any, device: Any) -> int:  # noqa: N802
        value._obj.value = self.compute_capability[{75: 0, 76: 1}[attribute.value]]
        return 0

    def cuDevicePrimaryCtxRetain(self, context: Any, device: Any) -> int:  # noqa: N802
        context._obj.value = 1
        return 0

    def cuCtxSetCurrent(self, context: Any) -> int:  # noqa: N802
        return 0

    def cuStreamCreate(self, stream: Any, flags: Any) -> int:  # noqa: N802
        stream._obj.value = 2
        return 0

    def cuStreamSynchronize(self, stream: Any) -> int:  # noqa: N802
        assert self.recording is None, "waiting for a stream that captures"
        return 0

    def cuMemAlloc_v2(self, address: Any, size: Any) -> int:  # noqa: N802
        if sum(len(raw) for raw in self.held.values()) + size.value > self.memory:
            return OUT_OF_MEMORY
        raw = ctypes.create_string_buffer(b"\x7f" * (size.value + 255), size.value + 256)  # nothing is zero by itself
        aligned = -(-ctypes.addressof(raw) // 256) * 256
        self.held[aligned] = raw
        self.allocations += 1
        address._obj.value = aligned
        return 0

    def cuMemFree_v2(self, address: Any) -> int:  # noqa: N802
        ctypes.memset(ctypes.addressof(self.held[address.value]), 0x7F, len(self.held[address.value]))
        del self.held[address.value]
        return 0

    def cuMemsetD8Async(self, address: Any, value: Any, size: Any, stream: Any) -> int:  # noqa: N802
        self.queue(lambda: ctypes.memset(address.value, value.value, size.value) and None)
        return 0

    def cuMemcpyHtoDAsync_v2(self, target: Any, source: Any, size: Any, stream: Any) -> int:  # noqa: N802
        data = ctypes.string_at(source.value, size.value)
        self.queue(lambda: ctypes.memmove(target.value, data, len(data)) and None)
        return 0

    def cuMemcpyDtoHAsync_v2(self, target: Any, source: Any, size: Any, stream: Any) -> int:  # noqa: N802
        self.queue(lambda: ctypes.memmove(target.value, source.value, size.value) and None)
        return 0

    def cuStreamBeginCapture_v2(self, stream: Any, mode: Any) -> int:  # noqa: N802
        assert self.recording is None
        self.recording = []
        return 0

    def cuStreamEndCapture(self, stream: Any, graph: Any) -> int:  # noqa: N802
        recorded, self.recording = self.recording, None
        assert recorded is not None
        if self.capture_fails:
            return CAPTURE_FAILED
        graph._obj.value = self._handle()
        self.graphs[graph._obj.value] = [] if self.captures_nothing else recorded
        return 0

    def cuGraphInstantiateWithFlags(self, executable: Any, graph: Any, flags: Any) -> int:  # noqa: N802
        executable._obj.value = self._handle()
        self.graphs[executable._obj.value] = self.graphs[graph.value]
        return 0

    def cuGraphDestroy(self, graph: Any) -> int:  # noqa: N802
        del self.graphs[graph.value]
        return 0

    def cuGraphExecDestroy(self, executable: Any) -> int:  # noqa: N802
        del self.graphs[executable.value]
        return 0

    def cuGraphLaunch(self, executable: Any, stream: Any) -> int:  # noqa: N802
        self.launches += 1
        for work in self.graphs[executable.value]:
            work()
        return 0


def fake_engine(path: Path, onnx: Path, version: str = "10.0.fake", profiles: int = 1, **changes: Any) -> Path:
    """Write an engine for :func:`fake_tensorrt` and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"onnx": str(onnx), "version": version, "compute_capability": [8, 9], "profiles": profiles, **changes}
    path.write_text(json.dumps(record))
    return path


def factors(dim: str) -> tuple[int, str]:
    """Split ``2*patch_height``."""
    multiple, _, name = dim.rpartition("*")
    return int(multiple or 1), name


def fake_tensorrt(driver: FakeDriver, *, rtx: bool = False, version: str = "10.0.fake") -> types.ModuleType:
    """Return a module that has what the runner uses of ``tensorrt``, or with ``rtx`` of ``tensorrt_rtx``."""
    module = types.ModuleType("tensorrt_rtx" if rtx else "tensorrt")
    members = {"FLOAT": 1, "HALF": 2, "BF16": 3, "INT64": 4, "INT32": 5, "BOOL": 6}
    data_type = enum.Enum("DataType", members)  # type: ignore[misc]
    numpy_types = {np.dtype(np.float32): data_type["FLOAT"], np.dtype(np.int64): data_type["INT64"]}
    location = enum.Enum("TensorLocation", {"DEVICE": 0, "HOST": 1})  # type: ignore[misc]
    strategies = enum.Enum(  # type: ignore[misc]
        "ExecutionContextAllocationStrategy", {"STATIC": 0, "ON_PROFILE_CHANGE": 1, "USER_MANAGED": 2}
    )
    graph_strategy = enum.Enum("CudaGraphStrategy", {"DISABLED": 0, "WHOLE_GRAPH_CAPTURE": 1})  # type: ignore[misc]

    class Severity(enum.Enum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING = Severity.INTERNAL_ERROR, Severity.ERROR, Severity.WARNING

        def log(self, severity: Severity, message: str) -> None:
            raise NotImplementedError

    class RuntimeCache:
        def __init__(self) -> None:
            self.content = b""

        def deserialize(self, blob: Any) -> bool:
            fine = bytes(blob).startswith(b"cache")
            self.content = bytes(blob) if fine else self.content
            return fine

        def serialize(self) -> bytes:
            return self.content

    class RuntimeConfig:
        def __init__(self) -> None:
            self.cuda_graph_strategy = graph_strategy["DISABLED"]
            self.allocation = strategies["STATIC"]
            self.cache: RuntimeCache | None = None

        def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
            self.allocation = strategy

        def create_runtime_cache(self) -> RuntimeCache:
            return RuntimeCache()

        def set_runtime_cache(self, cache: RuntimeCache) -> bool:
            self.cache = cache
            return True

    class Context:
        def __init__(self, engine: Engine, config: RuntimeConfig) -> None:
            self.engine, self.config = engine, config
            self.shapes: dict[str, tuple[int, ...]] = {}
            self.addresses: dict[str, int] = {}
            self.memory: tuple[int, int] | None = None
            self.profile: int | None = None
            self.captured: dict[str, int] | None = None

        def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
            self.profile = profile
            return profile < self.engine.num_optimization_profiles

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            low, _, high = self.engine.get_tensor_profile_shape(name, self.profile or 0)
            if not all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True)):
                self.engine.logger.log(Severity.ERROR, f"{name} is outside the profile")
                return False
            self.shapes[name] = tuple(shape)
            return True

        def infer_shapes(self) -> list[str]:
            return [name for name in self.engine.inputs if name not in self.shapes]

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            sizes: dict[str, int] = {}
            for given, shape in self.shapes.items():
                for dim, size in zip(self.engine.inputs[given].shape, shape, strict=True):
                    if isinstance(dim, str):
                        multiple, free = factors(dim)
                        sizes[free] = size // multiple
            dims = self.engine.outputs[name].shape
            return tuple(dim if isinstance(dim, int) else factors(dim)[0] * sizes[factors(dim)[1]] for dim in dims)

        def update_device_memory_size_for_shapes(self) -> int:
            return 1000

        def set_device_memory(self, memory: int, size: int) -> None:
            assert size >= 1000
            self.memory = (memory, size)

        def set_tensor_address(self, name: str, address: int) -> bool:
            self.addresses[name] = address
            return address % 256 == 0

        def execute_async_v3(self, stream: int) -> bool:
            assert stream == 2
            if self.engine.record.get("fails_in_capture") and driver.recording is not None:
                self.engine.logger.log(Severity.ERROR, "operation not permitted when stream is capturing")
                return False
            user_managed = self.config.allocation is strategies["USER_MANAGED"]
            assert (self.memory is not None) == user_managed
            assert self.memory is None or self.memory[0] in driver.held
            addresses = dict(self.addresses)
            if self.config.cuda_graph_strategy is graph_strategy["WHOLE_GRAPH_CAPTURE"]:
                if self.engine.record.get("own_graph_is_empty") and self.captured is not None:
                    return True
                self.captured = addresses
            if self.config.cache is not None:
                self.config.cache.content = b"cache of " + repr(sorted(self.shapes.items())).encode()
            driver.queue(lambda: self.compute(addresses))
            return True

        def compute(self, addresses: dict[str, int]) -> None:
            self.engine.runs += 1
            arrays = {}
            for name, value in {**self.engine.inputs, **self.engine.outputs}.items():
                dtype = np.dtype(np.int64 if value.type == "tensor(int64)" else np.float32)
                shape = self.shapes.get(name) or self.get_tensor_shape(name)
                nbytes = int(np.prod(shape)) * dtype.itemsize
                assert addresses[name] in driver.held, f"{name} is at an address that is not held"
                assert nbytes <= len(driver.held[addresses[name]])
                raw = (ctypes.c_char * nbytes).from_address(addresses[name])
                arrays[name] = np.frombuffer(raw, dtype).reshape(shape)
            inputs = {name: arrays[name].copy() for name in self.engine.inputs}
            results = self.engine.session.run(None, inputs)
            for name, result in zip(self.engine.outputs, results, strict=True):
                np.copyto(arrays[name], result.reshape(arrays[name].shape))

    class Engine:
        def __init__(self, record: dict[str, Any], logger: Any) -> None:
            self.record, self.logger, self.runs = record, logger, 0
            options = ort.SessionOptions()
            options.intra_op_num_threads = 1
            self.session = ort.InferenceSession(record["onnx"], options, providers=["CPUExecutionProvider"])
            self.inputs = {value.name: value for value in self.session.get_inputs()}
            self.outputs = {value.name: value for value in self.session.get_outputs()}
            self.names = [*self.inputs, *self.outputs]
            self.num_io_tensors = len(self.names)
            self.num_optimization_profiles = record["profiles"]
            self.contexts: list[Context] = []

        def get_tensor_name(self, index: int) -> str:
            return self.names[index]

        def get_tensor_dtype(self, name: str) -> Any:
            kind = {**self.inputs, **self.outputs}[name].type
            return numpy_types[np.dtype(np.int64 if kind == "tensor(int64)" else np.float32)]

        def get_tensor_location(self, name: str) -> Any:
            return location["DEVICE"]

        def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
            largest = self.record.get("largest", 64) * (profile + 1)
            dims = self.inputs[name].shape
            return [
                tuple(dim if isinstance(dim, int) else size for dim in dims) for size in (1, min(2, largest), largest)
            ]

        def create_execution_context(self, strategy: Any = None) -> Context:
            config = strategy if isinstance(strategy, RuntimeConfig) else RuntimeConfig()
            if isinstance(strategy, strategies):
                config.allocation = strategy
            self.contexts.append(Context(self, config))
            return self.contexts[-1]

        def create_runtime_config(self) -> RuntimeConfig:
            return RuntimeConfig()

    class Runtime:
        def __init__(self, logger: Any) -> None:
            assert isinstance(logger, ILogger)
            self.logger = logger

        def deserialize_cuda_engine(self, data: Any) -> Engine | None:
            try:
                record = json.loads(bytes(data))
            except ValueError:
                self.logger.log(
                    Severity.ERROR, "Serialization assertion header.magicTag == kEXPECTED_MAGIC_TAG failed."
                )
                return None
            if record["version"] != version:
                self.logger.log(
                    Severity.ERROR,
                    "The engine plan file is not compatible with this version of TensorRT, "
                    f"expecting library version {version} got {record['version']}, please rebuild.",
                )
                return None
            if tuple(record["compute_capability"]) != driver.compute_capability:
                self.logger.log(
                    Severity.ERROR,
                    "The engine plan file is generated on an incompatible device, expecting compute 8.9 got compute "
                    "9.0, please rebuild.",
                )
                return None
            return Engine(record, self.logger)

    own: dict[str, Any] = {
        "__version__": version,
        "DataType": data_type,
        "TensorLocation": location,
        "ExecutionContextAllocationStrategy": strategies,
        "ILogger": ILogger,
        "Runtime": Runtime,
    }
    if rtx:
        own |= {"IRuntimeCache": RuntimeCache, "CudaGraphStrategy": graph_strategy}
    module.__dict__.update(own)
    return module
