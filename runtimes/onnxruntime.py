"""ONNX Runtime, on buffers that are bound once and reused by every step: on the host, or where CUDA has them."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dit_deploy.bundle import Component, shape_of
from dit_deploy.errors import BackendError
from dit_deploy.runtimes.onnxruntime_device import GATE, OnnxRuntimeDeviceBinding, OnnxRuntimeMemory
from dit_deploy.runtimes.providers import CPU, CUDA, Provider, first_line, open_session, ort
from dit_deploy.runtimes.replay import warn_eager

__all__ = ["OnnxRuntimeRunner"]

#: ONNX Runtime cannot give up a captured graph, and each holds memory: further sizes run without one.
_GRAPHS_A_SESSION = 16


class OnnxRuntimeRunner:
    """One graph in an ONNX Runtime session.

    With :data:`~dit_deploy.runtimes.providers.CUDA` among the providers, inputs and outputs stay on the GPU (see
    :mod:`dit_deploy.runtimes.device`), and each set of sizes gets a CUDA graph. Other providers are given arrays on
    the host, and copy by themselves.

    Args:
        path: the ONNX file; its external data lies beside it.
        component: the declaration of its inputs and outputs.
        threads: threads within an operator; ``None`` leaves the choice to ONNX Runtime (one a core).
        providers: execution providers in order of preference, each a name or a name and its options.
        libraries: of operators that the graph uses beside ONNX Runtime's own.
        config: entries of ONNX Runtime's session configuration.
        cuda_graphs: capture CUDA graphs. A capture that fails, or computes something else, is given up with a warning.
        device: where the buffers are, instead of what the providers say; for tests.

    Raises:
        BackendError: ONNX Runtime refuses the file, or a provider does not start.
    """

    def __init__(
        self,
        path: Path,
        component: Component,
        *,
        threads: int | None = None,
        providers: Sequence[Provider] = (CPU,),
        libraries: Sequence[Path] = (),
        config: Mapping[str, str] | None = None,
        cuda_graphs: bool = True,
        device: OnnxRuntimeMemory | None = None,
    ) -> None:
        self.component = component
        self.device = _cuda_memory(providers) if device is None else device
        self._path, self._threads, self._providers = path, threads, tuple(providers)
        self._libraries, self._config = tuple(libraries), dict(config or {})
        self._lock = threading.Lock()
        self._graph_ids = itertools.count(1)
        self._graphs = cuda_graphs and self.device is not None and self.device.captures
        if self._graphs:
            try:
                self.session = self._open(graphs=True)
                return
            except BackendError as error:
                refused = str(error)
            self._graphs = False
            self.session = self._open(graphs=False)  # it may refuse for another reason, which is the one to say
            warn_eager(self._what, refused)
        else:
            self.session = self._open(graphs=False)

    def bind(self, sizes: Mapping[str, int]) -> OnnxRuntimeBinding | OnnxRuntimeDeviceBinding:
        """Allocate buffers for ``sizes``; see :class:`~dit_deploy.runtimes.runner.Runner`."""
        if self.device is None:
            return OnnxRuntimeBinding(self.session, self.component, sizes)
        return OnnxRuntimeDeviceBinding(self, self.device, sizes)

    def next_graph(self) -> int | None:
        """Return the number of a CUDA graph that no binding has, or ``None`` where there is to be none."""
        with self._lock:
            number = next(self._graph_ids) if self._graphs else _GRAPHS_A_SESSION + 1
        return number if number <= _GRAPHS_A_SESSION else None

    def give_up_graphs(self, reason: str) -> None:
        """Open the session anew, without CUDA graphs; bindings take the new one when they run next."""
        with self._lock:
            if self._graphs:
                self._graphs = False
                warn_eager(self._what, reason)
                self.session = self._open(graphs=False)

    @property
    def _what(self) -> str:
        return f"{self._path.name} of {self._path.parent.name}"

    def _open(self, *, graphs: bool) -> ort.InferenceSession:
        options = ort.SessionOptions()
        # A refusal of CUDA graphs comes as an error, and is told by a warning of ours: no need of red lines beside it.
        options.log_severity_level = 4 if graphs else 3
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        for name, value in self._config.items():
            options.add_session_config_entry(name, value)
        for library in self._libraries:
            options.register_custom_ops_library(str(library))
        providers = [_with_cuda_options(provider, graphs) for provider in self._providers]
        with nullcontext() if self.device is None else GATE.together():
            return open_session(self._path, options, providers, self._what)


def _cuda_memory(providers: Sequence[Provider]) -> OnnxRuntimeMemory | None:
    """Return the GPU's memory where CUDA's own provider runs; the TensorRT providers take host arrays beside it."""
    for provider in providers:
        name, options = (provider, {}) if isinstance(provider, str) else provider
        if name == CUDA:
            return OnnxRuntimeMemory("cuda", int(options.get("device_id", 0)))
    return None


def _with_cuda_options(provider: Provider, graphs: bool) -> Provider:
    name, options = (provider, {}) if isinstance(provider, str) else provider
    if name != CUDA:
        return provider
    # Precision is in the graph: float32 means float32, where ONNX Runtime would round products to TF32.
    return name, {"use_tf32": "0", **options, "enable_cuda_graph": "1" if graphs else "0"}


class OnnxRuntimeBinding:
    """Buffers of one size, known to the session by address: a run copies and allocates no input or output."""

    def __init__(self, session: ort.InferenceSession, component: Component, sizes: Mapping[str, int]) -> None:
        self._session = session
        self._name = component.path
        self._io = session.io_binding()
        self.inputs = {spec.name: np.zeros(shape_of(spec, sizes), dtype=spec.dtype) for spec in component.inputs}
        self.outputs = {spec.name: np.zeros(shape_of(spec, sizes), dtype=spec.dtype) for spec in component.outputs}
        for name, array in self.inputs.items():
            self._io.bind_input(name, "cpu", 0, array.dtype, array.shape, _address(array))
        for name, array in self.outputs.items():
            self._io.bind_output(name, "cpu", 0, array.dtype, array.shape, _address(array))

    def run(self) -> None:
        """Compute ``outputs`` from ``inputs``, in place."""
        try:
            self._session.run_with_iobinding(self._io)
        except Exception as error:
            raise BackendError(f"ONNX Runtime failed in {self._name}: {first_line(error)}") from error


def _address(array: NDArray[Any]) -> int:
    return int(array.ctypes.data)
