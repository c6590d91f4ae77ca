"""OpenVINO behind the interface of a runner: a rival in benchmarks, not a backend."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dit_deploy.bundle import Component, shape_of
from dit_deploy.errors import BackendError

__all__ = ["OpenVinoRunner"]


class OpenVinoRunner:
    """One ONNX graph compiled by OpenVINO for this CPU, for the latency of one caller.

    Args:
        path: the ONNX file.
        component: the declaration of its inputs and outputs.
        threads: threads in all.
        precision: what the rest of a quantised graph computes in, ``"f32"`` or ``"bf16"``; by default what OpenVINO
            itself takes, which is BF16 where the CPU has it.
    """

    def __init__(self, path: Path, component: Component, *, threads: int, precision: str | None = None) -> None:
        try:
            import openvino
        except ImportError as error:
            raise BackendError("OpenVINO is not installed; for this benchmark: pip install openvino") from error
        options: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        if precision is not None:
            options["INFERENCE_PRECISION_HINT"] = precision
        core = openvino.Core()
        self.component = component
        self._compiled = core.compile_model(core.read_model(path), "CPU", options)

    def bind(self, sizes: Mapping[str, int]) -> _OpenVinoBinding:
        """Allocate buffers for ``sizes``."""
        return _OpenVinoBinding(self._compiled, self.component, sizes)


class _OpenVinoBinding:
    def __init__(self, compiled: Any, component: Component, sizes: Mapping[str, int]) -> None:
        self._request = compiled.create_infer_request()
        self.inputs = {spec.name: np.zeros(shape_of(spec, sizes), spec.dtype) for spec in component.inputs}
        self.outputs = {spec.name: np.zeros(shape_of(spec, sizes), spec.dtype) for spec in component.outputs}

    def run(self) -> None:
        """Compute ``outputs`` from ``inputs``; both stay where they are, the inputs are not copied."""
        self._request.infer(self.inputs, share_inputs=True)
        for name, array in self.outputs.items():
            np.copyto(array, self._request.get_tensor(name).data)
