"""TensorRT engines, of the full library and of TensorRT-RTX alike: one runner, told which.

They differ in three things. CUDA graphs: with the full library they are captured here, once the engine has run with a
shape; RTX has a strategy of its own, and that is used, because RTX replaces its kernels by better ones while it runs,
of which a graph of ours would know nothing. Activation memory: with the full library each binding gives exactly what
its shape needs; RTX allocates for itself, what its later kernels need included. And what RTX compiled is kept in a
cache.

With either, the first replay is compared with an ordinary run before it is trusted (:mod:`dit_deploy.runtimes.replay`).
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from dit_deploy.bundle import Component, shape_of
from dit_deploy.bundle.engine import Profile
from dit_deploy.bundle.profiles import select_profile
from dit_deploy.errors import BackendError
from dit_deploy.runtimes.cuda import CudaBuffer, CudaDevice, CudaGraph, open_device
from dit_deploy.runtimes.device import Buffer
from dit_deploy.runtimes.device_binding import BufferedBinding
from dit_deploy.runtimes.replay import replay_differs, warn_eager
from dit_deploy.runtimes.runtime_cache import RuntimeCache, cache_path
from dit_deploy.runtimes.tensorrt_library import Flavour, deserialize, load_library, open_logger, title

__all__ = ["TensorRTBinding", "TensorRTRunner"]

Array = NDArray[Any]

#: The name of each dtype of a manifest in the library.
_DTYPES = {
    "float32": "FLOAT",
    "float16": "HALF",
    "bfloat16": "BF16",
    "int64": "INT64",
    "int32": "INT32",
    "bool": "BOOL",
}


class TensorRTRunner:
    """One engine. Bindings may be used by threads at once, each by one: every binding has a context of its own.

    A binding keeps its CUDA graph, so that the pool of bindings is the cache of graphs: the least recently used size
    loses both.

    Args:
        path: the engine's file.
        component: the declaration of its inputs and outputs.
        flavour: which library built it.
        profiles: the sizes that it was built for, in the order in which it was; none asks the engine.
        cache: a folder for what RTX compiles here; ``None`` keeps nothing.
        cuda_graphs: replay CUDA graphs. One that fails, or computes something else, is given up with a warning.
        weights: the ONNX file that an engine without weights was built from; it is filled from there.
        device: the GPU; the first by default.

    Raises:
        BackendError: there is no driver, the library is not installed, or it refuses the engine: built for another
            version or GPU, cut short, or of other inputs and outputs than declared.
    """

    def __init__(
        self,
        path: Path,
        component: Component,
        *,
        flavour: Flavour,
        profiles: Sequence[Profile] = (),
        cache: Path | None = None,
        cuda_graphs: bool = True,
        weights: Path | None = None,
        device: CudaDevice | None = None,
    ) -> None:
        self.component = component
        self.what = f"{path.name} of {path.parent.name}"
        self.library, self._flavour = load_library(flavour), flavour
        self.device = open_device() if device is None else device
        self.device.enter()
        self.profiles = tuple(profiles)
        self.cuda_graphs = cuda_graphs
        self._logger, self.said = open_logger(self.library)
        self._runtime = self.library.Runtime(self._logger)
        gpu = f"{self.device.gpu} ({self.device.compute_capability})"
        self.engine = deserialize(self.library, flavour, self._runtime, self.said, path, gpu)
        self._check_tensors()
        if weights is not None:
            self._refit(weights)
        #: RTX captures by itself, and has a cache.
        self.captures_itself = hasattr(self.library, "IRuntimeCache") and hasattr(self.library, "CudaGraphStrategy")
        self.cache: RuntimeCache | None = None
        if self.captures_itself:
            native = self.engine.create_runtime_config().create_runtime_cache()
            file = None if cache is None else cache_path(cache, path, self.library.__version__, self.device.gpu)
            self.cache = RuntimeCache(native, file)
            self.cache.load()
            # RTX compiles in the background for some time after a size was first met.
            weakref.finalize(self, self.cache.save)

    def bind(self, sizes: Mapping[str, int]) -> TensorRTBinding:
        """Make a context for ``sizes``; see :class:`~dit_deploy.runtimes.runner.Runner`.

        Raises:
            InputError: no profile holds the sizes.
            BackendError: the GPU has no room for it.
        """
        shapes = {spec.name: shape_of(spec, sizes) for spec in self.component.inputs}
        profile = select_profile(self.profiles, sizes) if self.profiles else self._holding(shapes)
        return TensorRTBinding(self, sizes, profile, shapes)

    def context(self, profile: int, shapes: Mapping[str, tuple[int, ...]], *, graphs: bool) -> tuple[Any, Any]:
        """Return an execution context for input shapes, and the activation memory that must outlive it.

        Args:
            graphs: by RTX's own strategy; without a meaning for the full library.
        """
        library, strategies = self.library, self.library.ExecutionContextAllocationStrategy
        with self.device.lock:
            self.device.enter()
            if self.captures_itself:
                config = self.engine.create_runtime_config()
                config.set_execution_context_allocation_strategy(strategies.ON_PROFILE_CHANGE)
                strategy = library.CudaGraphStrategy
                config.cuda_graph_strategy = strategy.WHOLE_GRAPH_CAPTURE if graphs else strategy.DISABLED
                if self.cache is not None:
                    config.set_runtime_cache(self.cache.native)
                context = self.engine.create_execution_context(config)
            else:
                context = self.engine.create_execution_context(strategies.USER_MANAGED)
            if context is None:
                raise self.failed("makes no execution context")
            if not context.set_optimization_profile_async(profile, self.device.stream):
                raise self.failed(f"has no profile {profile}")
            for name, shape in shapes.items():
                if not context.set_input_shape(name, shape):
                    raise self.failed(f"does not take {name} of shape {list(shape)}")
            memory: CudaBuffer | None = None
            if not self.captures_itself:
                size = int(context.update_device_memory_size_for_shapes())
                memory = self.device.allocate_bytes(size)
                context.set_device_memory(memory.address, size)
        self.device.synchronize()  # the switch of profiles may copy
        return context, memory

    def failed(self, what: str) -> BackendError:
        """Return the error that says what the engine does not do, and what the library said of it."""
        heard = " ".join(self.said.take().split())[:300]
        return BackendError(f"{title(self._flavour)}: {self.what} {what}{f': {heard}' if heard else ''}")

    def _check_tensors(self) -> None:
        """Hold the engine's inputs and outputs against the declared ones: names, dtypes, and being on the GPU."""
        engine, library = self.engine, self.library
        names = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
        specs = {spec.name: spec for spec in (*self.component.inputs, *self.component.outputs)}
        if names != specs.keys():
            raise BackendError(
                f"{self.what} has inputs and outputs {', '.join(sorted(names))}, expected {', '.join(sorted(specs))}; "
                "build it again"
            )
        for name, spec in specs.items():
            found, expected = engine.get_tensor_dtype(name), getattr(library.DataType, _DTYPES[spec.dtype])
            if found != expected:
                raise BackendError(f"{self.what}: {name} is {found}, expected {spec.dtype}; build it again")
            if engine.get_tensor_location(name) != library.TensorLocation.DEVICE:
                raise BackendError(
                    f"{self.what}: {name} is a shape on the host, which no component has; build it again"
                )

    def _holding(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """Return the first of the engine's own profiles that holds input shapes."""
        for index in range(self.engine.num_optimization_profiles):
            for name, shape in shapes.items():
                low, _, high = (tuple(dims) for dims in self.engine.get_tensor_profile_shape(name, index))
                if not all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True)):
                    break
            else:
                return index
        came = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise BackendError(f"{self.what}: no profile holds {came}; build an engine for this size")

    def _refit(self, weights: Path) -> None:
        """Fill an engine whose weights were left out of it."""
        refitter = self.library.Refitter(self.engine, self._logger)
        parser = self.library.OnnxParserRefitter(refitter, self._logger)
        if not parser.refit_from_file(str(weights)) or not refitter.refit_cuda_engine():
            raise self.failed(f"does not take the weights of {weights.name}")


class TensorRTBinding(BufferedBinding):
    """An execution context and its buffers for one set of sizes."""

    def __init__(
        self, runner: TensorRTRunner, sizes: Mapping[str, int], profile: int, shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        super().__init__(runner.component, sizes, runner.device)
        self._runner, self._cuda = runner, runner.device
        self._open = partial(runner.context, profile, shapes)
        self._context, self._memory = self._open(graphs=False)
        self._check_outputs()
        self._graph: CudaGraph | None = None

    def _check_outputs(self) -> None:
        if unknown := self._context.infer_shapes():
            raise self._runner.failed(f"does not know the shapes of {', '.join(unknown)}")
        for name, (shape, _) in self._like.items():
            if name not in self._inputs and tuple(self._context.get_tensor_shape(name)) != shape:
                found = list(self._context.get_tensor_shape(name))
                raise self._runner.failed(f"computes {name} of shape {found}, expected {list(shape)}; build it again")

    def _point(self, name: str, buffer: Buffer) -> None:
        if not self._context.set_tensor_address(name, buffer.address):
            raise self._runner.failed(f"does not take the address of {name}")

    def _run(self) -> None:
        if self._graph is not None:
            self._graph.launch()
        else:
            self._enqueue()

    def _enqueue(self) -> None:
        with self._cuda.lock:
            self._cuda.enter()
            if not self._context.execute_async_v3(self._cuda.stream):
                raise self._runner.failed("fails")

    def _capture(self, outputs: Mapping[str, tuple[Buffer, Array]]) -> None:
        """Run, capture, and replay once to compare; where that is not the same, run without from here on."""
        runner = self._runner
        self._enqueue()  # warms up: a shape's first run may allocate and compile
        if runner.cuda_graphs:
            eager = self._context, self._memory
            try:
                capture, replay = (
                    (self._let_it_capture, self._enqueue) if runner.captures_itself else (self._record, self._replay)
                )
                difference = replay_differs(self._cuda, outputs, self._enqueue, capture, replay)
                reason = f"its first replay is not the ordinary run: {difference}" if difference else ""
            except BackendError as error:
                reason = f"it cannot be captured: {error}"
            if reason:
                warn_eager(runner.what, reason)
                self._graph = None
                self._use(*eager)
                self._enqueue()
        if runner.cache is not None:
            self._cuda.synchronize()
            runner.cache.save()

    def _record(self) -> None:
        self._graph = self._cuda.capture(self._enqueue)

    def _replay(self) -> None:
        assert self._graph is not None
        self._graph.launch()

    def _let_it_capture(self) -> None:
        """Go on with a context that replays graphs by itself, and run it once, which is when it captures."""
        self._use(*self._open(graphs=True))
        self._enqueue()

    def _forget_capture(self) -> None:
        self._graph = None

    def _use(self, context: Any, memory: Any) -> None:
        """Go on with another context, on the same buffers."""
        self._cuda.synchronize()  # what was queued uses the memory of the one before
        self._context, self._memory = context, memory
        for name, buffer in self._bound.items():
            self._point(name, buffer)
