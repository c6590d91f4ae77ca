"""ONNX Runtime, on buffers that are bound once and reused by every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dit_deploy.bundle import Component, shape_of
from dit_deploy.errors import BackendError

try:
    import onnxruntime as ort
except ImportError as error:
    raise BackendError(
        "ONNX Runtime is not installed; install dit-deploy[cpu], or dit-deploy[gpu] on a machine with an NVIDIA GPU"
    ) from error

__all__ = ["OnnxRuntimeRunner"]


class OnnxRuntimeRunner:
    """One graph in an ONNX Runtime session.

    Args:
        path: the ONNX file; its external data lies beside it.
        component: the declaration of its inputs and outputs.
        threads: threads within an operator; ``None`` leaves the choice to ONNX Runtime (one a core).
        providers: execution providers in order of preference.

    Raises:
        BackendError: ONNX Runtime refuses the file.
    """

    def __init__(
        self,
        path: Path,
        component: Component,
        *,
        threads: int | None = None,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self.session = ort.InferenceSession(path, options, providers=list(providers))
        except Exception as error:
            raise BackendError(
                f"ONNX Runtime refuses {path.name} of {path.parent.name}: {first_line(error)}"
            ) from error
        self.component = component

    def bind(self, sizes: Mapping[str, int]) -> OnnxRuntimeBinding:
        """Allocate buffers for ``sizes``; see :class:`~dit_deploy.runtimes.runner.Runner`."""
        return OnnxRuntimeBinding(self.session, self.component, sizes)


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


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, cut to what a terminal shows."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
