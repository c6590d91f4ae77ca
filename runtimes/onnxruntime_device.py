"""ONNX Runtime's memory on a device, and bindings on it: what :mod:`dit_deploy.runtimes.device` asks for."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dit_deploy.bundle import Component
from dit_deploy.errors import BackendError
from dit_deploy.runtimes.device import Buffer
from dit_deploy.runtimes.device_binding import BufferedBinding
from dit_deploy.runtimes.providers import first_line, ort
from dit_deploy.runtimes.replay import replay_differs

__all__ = ["GATE", "Gate", "OnnxRuntimeBuffer", "OnnxRuntimeDeviceBinding", "OnnxRuntimeMemory"]

Array = NDArray[Any]

#: The number that tells ONNX Runtime to run as if it had no CUDA graphs.
_NO_GRAPH = -1


class Gate:
    """Work on the GPU goes through together, a capture goes through alone.

    ONNX Runtime captures in CUDA's global mode: while one thread does, what another one allocates or waits for fails,
    and breaks the capture. A thread that is alone may ask to go through once more, either way.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._waiting = 0
        self._alone: int | None = None

    @contextmanager
    def together(self) -> Iterator[None]:
        """Wait until no capture is under way, or about to be."""
        me = threading.get_ident()
        if self._alone == me:
            yield
            return
        with self._changed:
            self._changed.wait_for(lambda: self._alone is None and not self._waiting)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until nobody is inside, and let nobody in."""
        with self._changed:
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: self._alone is None and not self._inside)
            finally:  # an interrupted wait must not keep the others out
                self._waiting -= 1
                self._changed.notify_all()
            self._alone = threading.get_ident()
        try:
            yield
        finally:
            with self._changed:
                self._alone = None
                self._changed.notify_all()


#: Of this process: a capture breaks by what any thread does on any GPU.
GATE = Gate()


@dataclass(frozen=True)
class OnnxRuntimeMemory:
    """Memory of ONNX Runtime's own: ``OnnxRuntimeMemory("cuda", 0)``, or ``"cpu"``, on which the loop can be tested.

    ONNX Runtime waits for the device after each run and copy, so that everything happens in order.
    """

    kind: str
    index: int = 0

    @property
    def name(self) -> str:
        """Such as ``"cuda:0"``."""
        return f"{self.kind}:{self.index}"

    @property
    def captures(self) -> bool:
        """Whether there are CUDA graphs on it."""
        return self.kind == "cuda"

    def allocate(self, shape: Sequence[int], dtype: DTypeLike) -> OnnxRuntimeBuffer:
        """Return memory for an array, filled with zeros."""
        try:
            with GATE.together():
                kind, index = self.kind, self.index
                value = ort.OrtValue.ortvalue_from_shape_and_type(list(shape), np.dtype(dtype).type, kind, index)
        except Exception as error:
            size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
            raise BackendError(
                f"ONNX Runtime gives no {size / 1e6:.0f} MB on {self.name}: {first_line(error)}"
            ) from error
        buffer = OnnxRuntimeBuffer(value)
        self.upload(buffer, np.zeros(shape, dtype))
        return buffer

    def upload(self, buffer: Buffer, array: Array) -> None:
        """Copy ``array``, as large as the buffer, to the device."""
        assert isinstance(buffer, OnnxRuntimeBuffer)
        with GATE.together():
            buffer.value.update_inplace(np.ascontiguousarray(array).reshape(buffer.value.shape()))

    def download(self, buffer: Buffer, out: Array) -> None:
        """Copy the buffer to ``out``, which is as large."""
        assert isinstance(buffer, OnnxRuntimeBuffer)
        with GATE.together():
            np.copyto(out, buffer.value.numpy().reshape(out.shape))


class OnnxRuntimeBuffer:
    """An OrtValue's memory."""

    def __init__(self, value: ort.OrtValue) -> None:
        self.value = value
        self.address = int(value.data_ptr())
        self.nbytes = int(value.tensor_size_in_bytes())


class _Runner(Protocol):
    component: Component
    session: ort.InferenceSession

    def next_graph(self) -> int | None: ...
    def give_up_graphs(self, reason: str) -> None: ...


class OnnxRuntimeDeviceBinding(BufferedBinding):
    """Buffers of one size on the device. The first launch captures a CUDA graph where the runner has them."""

    def __init__(self, runner: _Runner, device: OnnxRuntimeMemory, sizes: Mapping[str, int]) -> None:
        super().__init__(runner.component, sizes, device)
        self._runner, self._memory = runner, device
        self._session, self._io = runner.session, runner.session.io_binding()
        self._graph: int | None = None
        #: ONNX Runtime's CUDA graphs are each thread's own: another one captures again, which is compared again.
        #: (Not by the thread's number: a later thread may get the number of one that has ended.)
        self._here = threading.local()

    def _point(self, name: str, buffer: Buffer) -> None:
        shape, dtype = self._like[name]
        bind = self._io.bind_input if name in self._inputs else self._io.bind_output
        bind(name, self._memory.kind, self._memory.index, dtype.type, list(shape), buffer.address)

    def _run(self) -> None:
        self._follow_session()
        if self._graph is not None and not hasattr(self._here, "compared"):
            self._compare(self._graph)
        else:
            self._numbered(self._graph)

    def _capture(self, outputs: Mapping[str, tuple[Buffer, Array]]) -> None:
        self._follow_session()
        self._outputs = outputs
        graph = self._runner.next_graph()
        if graph is None:
            self._run()
        else:
            self._compare(graph)

    def _compare(self, graph: int) -> None:
        """Run, capture, and replay once to compare; where that is not the same, run without from here on."""
        # ONNX Runtime warms up and captures in the first run of a graph's number.
        numbered = partial(self._numbered, graph)

        def capture() -> None:
            with GATE.alone():
                numbered()

        try:
            difference = replay_differs(self._device, self._outputs, partial(self._numbered, None), capture, numbered)
            reason = f"its first replay is not the ordinary run: {difference}" if difference else ""
        except BackendError as error:
            reason = f"it cannot be captured: {error}"
        if reason:
            self._runner.give_up_graphs(reason)
            self._run()
        else:
            self._graph = graph
            self._here.compared = True

    def _forget_capture(self) -> None:
        self._graph = None

    def _follow_session(self) -> None:
        """Bind to the runner's session of now, which is another one once CUDA graphs are given up."""
        if self._session is not self._runner.session:
            self._session, self._io = self._runner.session, self._runner.session.io_binding()
            self._graph = None
            self._here = threading.local()
            for name, buffer in self._bound.items():
                self._point(name, buffer)

    def _numbered(self, graph: int | None) -> None:
        """Run, by the graph of that number where one is given."""
        options = ort.RunOptions()
        options.log_severity_level = 3
        options.add_run_config_entry("gpu_graph_id", str(_NO_GRAPH if graph is None else graph))
        try:
            with GATE.together():
                self._session.run_with_iobinding(self._io, options)
        except Exception as error:
            raise BackendError(f"ONNX Runtime failed in {self._runner.component.path}: {first_line(error)}") from error
