"""What bindings on a device have in common, whichever backend computes: buffers by name, and arrays on the host."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dit_deploy.bundle import Component, shape_of
from dit_deploy.runtimes.device import Buffer, Device

__all__ = ["BufferedBinding"]

Array = NDArray[Any]


class BufferedBinding:
    """A :class:`~dit_deploy.runtimes.device.DeviceBinding` less the backend's part.

    That part is :meth:`_point` and :meth:`_run`, and :meth:`_capture` where it has CUDA graphs. A graph knows
    addresses, so a binding whose buffers were ever exchanged gets none.

    Args:
        component: the declaration of inputs and outputs.
        sizes: the free sizes.
        device: where the buffers are.
    """

    def __init__(self, component: Component, sizes: Mapping[str, int], device: Device) -> None:
        self._device = device
        self._inputs = {spec.name for spec in component.inputs}
        #: name → shape and dtype
        self._like: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
            spec.name: (shape_of(spec, sizes), np.dtype(spec.dtype)) for spec in (*component.inputs, *component.outputs)
        }
        self._bound: dict[str, Buffer] = {}
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
        self._may_capture = False
        self._forget_capture()
        for name, buffer in buffers.items():
            self._bind(name, buffer)

    def launch(self) -> None:
        """Compute the outputs from the inputs, on the device."""
        buffers = self.buffers
        if self._may_capture:
            self._may_capture = False
            outputs = {
                name: (buffers[name], np.empty(*like)) for name, like in self._like.items() if name not in self._inputs
            }
            self._capture(outputs)
        else:
            self._run()

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
        assert buffer.nbytes >= np.prod(shape, dtype=np.int64) * dtype.itemsize, name
        self._point(name, buffer)
        self._bound[name] = buffer

    def _point(self, name: str, buffer: Buffer) -> None:
        """Tell the backend where a tensor is."""
        raise NotImplementedError

    def _run(self) -> None:
        """Compute, by a graph where one was captured."""
        raise NotImplementedError

    def _capture(self, outputs: Mapping[str, tuple[Buffer, Array]]) -> None:
        """Compute for the first time, and capture a graph on the way where there is to be one."""
        self._run()

    def _forget_capture(self) -> None:
        """Give up the graph, as buffers are about to change."""
