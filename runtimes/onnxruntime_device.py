"""ONNX Runtime's memory on a device, and bindings on it: what :mod:`dit_deploy.runtimes.device` asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dit_deploy.bundle import Component, shape_of
from dit_deploy.errors import BackendError
from dit_deploy.runtimes.device import Buffer
from dit_deploy.runtimes.providers import first_line, ort
from dit_deploy.runtimes.replay import replay_differs

__all__ = ["OnnxRuntimeDeviceBinding", "OnnxRuntimeMemory"]

Array = NDArray[Any]

#: The number that tells ONNX Runtime to run as if it had no CUDA graphs.
_NO_GRAPH = -1


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

    def allocate(self, shape: Sequence[int], dtype: DTypeLike) -> OnnxRuntimeBuffer:
        """Return memory for an array, filled with zeros."""
        try:
            value = ort.OrtValue.ortvalue_from_shape_and_type(list(shape), np.dtype(dtype).type, self.kind, self.index)
        except Exception as error:
            size = np.prod(shape, dtype=np.int64) * np.dtype(dtype).itemsize
            raise BackendError(f"ONNX Runtime has no {size} bytes on {self.name}: {first_line(error)}") from error
        buffer = OnnxRuntimeBuffer(value)
        self.upload(buffer, np.zeros(shape, dtype))
        return buffer

    def upload(self, buffer: Buffer, array: Array) -> None:
        """Copy ``array`` to the device."""
        assert isinstance(buffer, OnnxRuntimeBuffer)
        shape = buffer.value.shape()
        buffer.value.update_inplace(np.ascontiguousarray(array).reshape(shape))

    def download(self, buffer: Buffer, out: Array) -> None:
        """Copy the buffer to ``out``."""
        assert isinstance(buffer, OnnxRuntimeBuffer)
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


class OnnxRuntimeDeviceBinding:
    """Buffers of one size on the device. The first launch captures a CUDA graph where the runner has them."""

    def __init__(self, runner: _Runner, device: OnnxRuntimeMemory, sizes: Mapping[str, int]) -> None:
        self._runner, self._device = runner, device
        component = runner.component
        self._inputs = {spec.name for spec in component.inputs}
        self._like: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
            spec.name: (shape_of(spec, sizes), np.dtype(spec.dtype)) for spec in (*component.inputs, *component.outputs)
        }
        self._bound: dict[str, Buffer] = {}
        self._session, self._io = runner.session, runner.session.io_binding()
        self._graph: int | None = None
        self._may_capture = True

    @cached_property
    def inputs(self) -> dict[str, Array]:
        """Arrays on the host that :meth:`run` uploads."""
        return {name: np.zeros(*like) for name, like in self._like.items() if name in self._inputs}

    @cached_property
    def outputs(self) -> dict[str, Array]:
        """Arrays on the host that :meth:`run` downloads into."""
        return {name: np.zeros(*like) for name, like in self._like.items() if name not in self._inputs}

    @property
    def buffers(self) -> Mapping[str, Buffer]:
        """The buffer of each input and output, allocated now where none is attached."""
        for name, like in self._like.items():
            if name not in self._bound:
                self._bind(name, self._device.allocate(*like))
        return self._bound

    def attach(self, buffers: Mapping[str, Buffer]) -> None:
        """Use these buffers from the next launch on."""
        # A graph knows addresses, and buffers that were exchanged once will be again.
        self._graph, self._may_capture = None, False
        for name, buffer in buffers.items():
            self._bind(name, buffer)

    def launch(self) -> None:
        """Compute the outputs from the inputs, on the device."""
        self._follow_session()
        buffers = self.buffers
        if self._may_capture:
            self._may_capture = False
            self._graph = self._runner.next_graph()
            if self._graph is not None:
                self._capture(self._graph, buffers)
                return
        self._run(self._graph)

    def run(self) -> None:
        """Compute ``outputs`` from ``inputs``, arrays on the host."""
        buffers = self.buffers
        for name, array in self.inputs.items():
            self._device.upload(buffers[name], array)
        self.launch()
        for name, array in self.outputs.items():
            self._device.download(buffers[name], array)

    def _bind(self, name: str, buffer: Buffer) -> None:
        shape, dtype = self._like[name]
        assert buffer.nbytes >= np.prod(shape, dtype=np.int64) * dtype.itemsize
        bind = self._io.bind_input if name in self._inputs else self._io.bind_output
        bind(name, self._device.kind, self._device.index, dtype.type, list(shape), buffer.address)
        self._bound[name] = buffer

    def _capture(self, graph: int, buffers: Mapping[str, Buffer]) -> None:
        """Run, capture, and replay once to compare; where that is not the same, run without from here on."""
        outputs = {
            name: (buffers[name], np.empty(*like)) for name, like in self._like.items() if name not in self._inputs
        }
        try:
            # ONNX Runtime warms up and captures in the first run of a graph's number.
            numbered = partial(self._run, graph)
            difference = replay_differs(self._device, outputs, partial(self._run, None), numbered, numbered)
            reason = f"its first replay is not the ordinary run: {difference}" if difference else ""
        except BackendError as error:
            reason = f"it cannot be captured: {error}"
        if reason:
            self._runner.give_up_graphs(reason)
            self._follow_session()
            self._run(None)

    def _follow_session(self) -> None:
        """Bind to the runner's session of now, which is another one once CUDA graphs are given up."""
        if self._session is not self._runner.session:
            self._session, self._io = self._runner.session, self._runner.session.io_binding()
            self._graph = None
            for name, buffer in self._bound.items():
                self._bind(name, buffer)

    def _run(self, graph: int | None) -> None:
        options = ort.RunOptions()
        options.log_severity_level = 3
        options.add_run_config_entry("gpu_graph_id", str(_NO_GRAPH if graph is None else graph))
        try:
            self._session.run_with_iobinding(self._io, options)
        except Exception as error:
            raise BackendError(f"ONNX Runtime failed in {self._runner.component.path}: {first_line(error)}") from error
