"""ONNX Runtime with little memory: what calibration needs is the weights once, and one evaluation at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnxruntime as ort

from dit_deploy.bundle import Component
from dit_deploy.errors import BackendError
from dit_deploy.runtimes.onnxruntime import OnnxRuntimeBinding
from dit_deploy.runtimes.providers import first_line

__all__ = ["MappedRunner", "open_session"]


def open_session(
    path: Path, threads: int | None, *, graph: bytes | None = None, fuse: bool = True, fold: bool = True
) -> ort.InferenceSession:
    """Return a session on the CPU whose weights stay in their files, which are mapped.

    Args:
        path: the ONNX file.
        threads: threads within an operator; ``None`` is one a core.
        graph: a model to run instead, whose external data lies beside ``path``.
        fuse: let ONNX Runtime fuse operators; without, it does no more than fold constants.
        fold: without (and without ``fuse``) not even that: what is made of a weight is made again by each run.

    Raises:
        BackendError: ONNX Runtime refuses the graph.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    if not fuse:
        levels = ort.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_BASIC if fold else levels.ORT_DISABLE_ALL
    # Packed weights would be a second copy of them; an arena would keep the memory of the largest run.
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.enable_cpu_mem_arena = False
    # The default order would leave what only looks at a tensor for the end, and every tensor in memory until then.
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent.resolve()))
    try:
        return ort.InferenceSession(path if graph is None else graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BackendError(f"ONNX Runtime refuses {path.name} of {path.parent.name}: {first_line(error)}") from error


class MappedRunner:
    """A component in such a session, behind the interface of :class:`~dit_deploy.runtimes.runner.Runner`."""

    def __init__(self, path: Path, component: Component, *, threads: int | None = None) -> None:
        self.session, self.component = open_session(path, threads), component

    def bind(self, sizes: Mapping[str, int]) -> OnnxRuntimeBinding:
        """Allocate buffers for ``sizes``."""
        return OnnxRuntimeBinding(self.session, self.component, sizes)
