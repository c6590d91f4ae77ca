"""Memory, one stream and CUDA graphs, by the driver's own library.

``libcuda`` comes with the driver, so it is there wherever an engine can run; its functions keep their versions for
good, and its context is the one that TensorRT, ONNX Runtime and PyTorch share. That is why it is called here through
ctypes, rather than a CUDA runtime library (of which a process may hold several, in wheels and on the system, and which
has to be found) or the ``cuda-bindings`` package (tied to a CUDA version). Polygraphy's wrapper has no graphs.

Function names are those of ``cuda.h`` with the version that it maps them to.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from ctypes import byref, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from functools import cache
from typing import Any, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dit_deploy.errors import BackendError
from dit_deploy.runtimes.device import Buffer

__all__ = ["CudaBuffer", "CudaDevice", "CudaGraph", "open_device"]

Array = NDArray[Any]

#: Values of ``cuda.h``.
_SUCCESS, _NO_MEMORY = 0, 2
_MAJOR, _MINOR = 75, 76
_NON_BLOCKING = 1
#: Forbids nothing meanwhile, such as freeing what Python happens to collect. What falls into a capture is ours alone:
#: the device's lock keeps other threads off the stream.
_CAPTURE_RELAXED = 2


@cache
def open_device(index: int = 0) -> CudaDevice:
    """Return the GPU ``index``, the same object each time, so that all runners on it share one stream.

    Raises:
        BackendError: there is no driver, or no such GPU.
    """
    return CudaDevice(_driver(), index)


@cache
def _driver() -> Any:
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        library = ctypes.CDLL(name)
    except OSError:
        raise BackendError(
            f"there is no NVIDIA driver on this machine ({name} is not found): engines for NVIDIA GPUs do not run here"
        ) from None
    if status := library.cuInit(0):
        raise BackendError(f"the NVIDIA driver does not start: {_error(library, status)}; look at `nvidia-smi`")
    return library


def _error(library: Any, status: int) -> str:
    text = c_char_p()
    library.cuGetErrorString(status, byref(text))
    return f"{(text.value or b'unknown error').decode()} ({status})"


class CudaDevice:
    """One GPU and one stream: everything happens in the order of the calls, whoever makes them.

    Threads may share it. Its lock is held while work is queued, and for the whole of a capture, into which another
    thread's work would fall otherwise.

    Args:
        library: ``libcuda``, initialised.
        index: of the GPU, as CUDA counts.

    Raises:
        BackendError: there is no such GPU.
    """

    def __init__(self, library: Any, index: int = 0) -> None:
        self._library = library
        self.lock = threading.RLock()
        count, handle = c_int(), c_int()
        self._call("cuDeviceGetCount", byref(count))
        if not 0 <= index < count.value:
            raise BackendError(f"CUDA device {index} was asked for, this machine has {count.value}")
        self._call("cuDeviceGet", byref(handle), c_int(index))
        self.index, self.name = index, f"cuda:{index}"
        text = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", text, c_int(len(text)), handle)
        self.gpu = text.value.decode(errors="replace")
        self.compute_capability = f"{self._attribute(_MAJOR, handle)}.{self._attribute(_MINOR, handle)}"
        self._context, stream = c_void_p(), c_void_p()
        self._call("cuDevicePrimaryCtxRetain", byref(self._context), handle)
        self.enter()
        self._call("cuStreamCreate", byref(stream), c_uint(_NON_BLOCKING))
        self.stream = cast(int, stream.value)

    def enter(self) -> None:
        """Make this GPU's context the calling thread's: TensorRT works on whichever that is."""
        self._call("cuCtxSetCurrent", self._context)

    def allocate(self, shape: Sequence[int], dtype: DTypeLike) -> CudaBuffer:
        """Return memory for an array, filled with zeros."""
        return self.allocate_bytes(int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize)

    def allocate_bytes(self, nbytes: int) -> CudaBuffer:
        """Return at least ``nbytes`` bytes of zeros; their address is a multiple of 256.

        Raises:
            BackendError: there is no room.
        """
        address, size = c_uint64(), max(nbytes, 1)
        self.enter()
        status = self._library.cuMemAlloc_v2(byref(address), c_size_t(size))
        if status == _NO_MEMORY:
            raise BackendError(
                f"{self.gpu} has no {size / 1e6:.0f} MB left: draw fewer or smaller pictures at once, or close what "
                "else uses the GPU (`nvidia-smi` lists it)"
            )
        self._check("cuMemAlloc", status)
        buffer = CudaBuffer(self, address.value, nbytes)
        with self.lock:
            self._call("cuMemsetD8Async", address, ctypes.c_ubyte(0), c_size_t(size), c_void_p(self.stream))
        return buffer

    def upload(self, buffer: Buffer, array: Array) -> None:
        """Copy ``array`` to the device; the driver has its bytes before this returns, as it is pageable memory."""
        array = np.ascontiguousarray(array)
        assert array.nbytes <= buffer.nbytes
        self.enter()
        with self.lock:
            source = c_void_p(array.ctypes.data)
            self._call(
                "cuMemcpyHtoDAsync_v2", c_uint64(buffer.address), source, c_size_t(array.nbytes), c_void_p(self.stream)
            )

    def download(self, buffer: Buffer, out: Array) -> None:
        """Wait for everything that was queued before, then copy the buffer to ``out``."""
        target = out if out.flags.c_contiguous else np.empty(out.shape, out.dtype)
        assert out.nbytes <= buffer.nbytes
        self.enter()
        with self.lock:
            address = c_void_p(target.ctypes.data)
            self._call(
                "cuMemcpyDtoHAsync_v2", address, c_uint64(buffer.address), c_size_t(out.nbytes), c_void_p(self.stream)
            )
        self.synchronize()
        if target is not out:
            np.copyto(out, target)

    def synchronize(self) -> None:
        """Wait for everything that was queued.

        Raises:
            BackendError: something that was queued failed.
        """
        self.enter()
        self._call("cuStreamSynchronize", c_void_p(self.stream))

    def capture(self, queue: Callable[[], object]) -> CudaGraph:
        """Return what ``queue`` puts on the stream as a graph; nothing of it is computed now.

        Raises:
            BackendError: ``queue`` raised it, or did what cannot be captured.
        """
        graph, executable = c_void_p(), c_void_p()
        self.enter()
        with self.lock:
            self._call("cuStreamBeginCapture_v2", c_void_p(self.stream), c_int(_CAPTURE_RELAXED))
            try:
                queue()
            finally:  # the stream must leave capture whatever happened
                status = self._library.cuStreamEndCapture(c_void_p(self.stream), byref(graph))
            self._check("cuStreamEndCapture", status)
            try:
                self._call("cuGraphInstantiateWithFlags", byref(executable), graph, ctypes.c_ulonglong(0))
            finally:
                self._library.cuGraphDestroy(graph)
        return CudaGraph(self, cast(int, executable.value))

    def free(self, function: str, handle: int, kind: Any) -> None:
        """Free what a finalizer holds; an error has no one left to hear it, as at the end of the process."""
        self._library.cuCtxSetCurrent(self._context)
        getattr(self._library, function)(kind(handle))

    def _attribute(self, attribute: int, handle: c_int) -> int:
        value = c_int()
        self._call("cuDeviceGetAttribute", byref(value), c_int(attribute), handle)
        return value.value

    def _call(self, function: str, *arguments: Any) -> None:
        self._check(function, getattr(self._library, function)(*arguments))

    def _check(self, function: str, status: int) -> None:
        if status != _SUCCESS:
            raise BackendError(f"CUDA: {function.split('_v')[0]} failed: {_error(self._library, status)}")


class CudaBuffer:
    """Memory on the GPU, freed with the object once the stream is done with it."""

    def __init__(self, device: CudaDevice, address: int, nbytes: int) -> None:
        self.address, self.nbytes = address, nbytes
        # cuMemFree waits for what was queued, so that nothing reads memory that is someone else's.
        weakref.finalize(self, device.free, "cuMemFree_v2", address, c_uint64)


class CudaGraph:
    """Work that was captured; it knows the addresses of its buffers, so they must outlive it."""

    def __init__(self, device: CudaDevice, executable: int) -> None:
        self._device, self._executable = device, executable
        weakref.finalize(self, device.free, "cuGraphExecDestroy", executable, c_void_p)

    def launch(self) -> None:
        """Queue the whole of it."""
        self._device.enter()
        with self._device.lock:
            self._device._call("cuGraphLaunch", c_void_p(self._executable), c_void_p(self._device.stream))
