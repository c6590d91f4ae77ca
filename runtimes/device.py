"""What the loop on the device asks of a backend: memory that stays there, and runs that read and write it.

A backend whose runner has a :class:`Device` can keep latents, history and predictions on it from the first step to the
last; see :mod:`dit_deploy.runtimes.device_loop`. TensorRT and ONNX Runtime with CUDA are such; a runner on the host has
``device = None``, and the loop on the host serves it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from numpy.typing import DTypeLike, NDArray

from dit_deploy.bundle import Component
from dit_deploy.runtimes.runner import Binding

__all__ = ["Buffer", "Device", "DeviceBinding", "DeviceRunner"]

Array = NDArray[Any]


class Buffer(Protocol):
    """Memory on a device, freed with the object. It has a size and no shape: a binding knows what lies in it."""

    @property
    def address(self) -> int:
        """Of the first byte, as the device sees it."""

    @property
    def nbytes(self) -> int:
        """Size in bytes."""


class Device(Protocol):
    """Memory and order: what is asked of it, and of the bindings on it, happens in the order of the calls."""

    @property
    def name(self) -> str:
        """``"cuda:0"``. Two runners work on each other's buffers, in order, where their devices are equal."""

    def allocate(self, shape: Sequence[int], dtype: DTypeLike) -> Buffer:
        """Return memory for an array, filled with zeros."""

    def upload(self, buffer: Buffer, array: Array) -> None:
        """Copy ``array``, as large as the buffer, to the device; it may be changed as soon as this returns."""

    def download(self, buffer: Buffer, out: Array) -> None:
        """Wait for everything that was asked before, then copy the buffer to ``out``, which is as large."""


class DeviceBinding(Binding, Protocol):
    """A component's buffers on the device for one set of sizes; also a :class:`Binding`, with arrays on the host."""

    @property
    def buffers(self) -> Mapping[str, Buffer]:
        """The buffer that each input and output uses, by name. They are allocated when first asked for."""

    def attach(self, buffers: Mapping[str, Buffer]) -> None:
        """Use these buffers from the next launch on, by name; each must be as large as its tensor at least."""

    def launch(self) -> None:
        """Compute the outputs from the inputs, on the device; it may still be computing when this returns."""


@runtime_checkable
class DeviceRunner(Protocol):
    """A :class:`~dit_deploy.runtimes.runner.Runner` that may have a device."""

    @property
    def component(self) -> Component:
        """The declaration of its inputs and outputs."""

    @property
    def device(self) -> Device | None:
        """Where its bindings' buffers are; ``None`` where they are on the host, and bindings are plain ones."""

    def bind(self, sizes: Mapping[str, int]) -> Binding:
        """Return a binding for ``sizes``, a :class:`DeviceBinding` where there is a device."""
