"""Graphs of one operator, run on ONNX Runtime with the built library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from dit_deploy.runtimes import cpu_ops

__all__ = ["BFLOAT16", "ISAS", "session", "single"]

#: Names that DIT_DEPLOY_CPU_OPS_ISA may have.
ISAS = ("avx512_bf16", "avx512", "avx_vnni", "avx2", "portable")

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

_TYPES = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.uint8): TensorProto.UINT8}


def session(graph: onnx.ModelProto | Path, library: Path, threads: int = 2) -> onnxruntime.InferenceSession:
    """Open a graph with the operators."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.register_custom_ops_library(str(library))
    content = str(graph) if isinstance(graph, Path) else graph.SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def single(
    op_type: str,
    inputs: Sequence[np.ndarray | None],
    output: int,
    attributes: Mapping[str, float | int] | None = None,
    *,
    constants: Sequence[int] = (),
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Return a graph of one node, and its feeds. Inputs are free in all axes, those in ``constants`` are initializers.

    bfloat16 goes in and out as float32, cast in the graph, because numpy has no such type.
    """
    names, nodes, infos, initializers, feeds = [], [], [], [], {}
    for number, array in enumerate(inputs):
        name = "" if array is None else f"input_{number}"
        names.append(name)
        if array is None:
            continue
        if number in constants:
            initializers.append(numpy_helper.from_array(array, name))
            continue
        dtype, fed = array.dtype, array
        if dtype == BFLOAT16:
            fed = array.astype(np.float32)
            names[-1] = f"{name}.bfloat16"
            nodes.append(helper.make_node("Cast", [name], [names[-1]], to=TensorProto.BFLOAT16))
        axes = [f"axis_{number}_{axis}" for axis in range(fed.ndim)]
        infos.append(helper.make_tensor_value_info(name, _TYPES[fed.dtype], axes))
        feeds[name] = fed
    result = "result" if output != TensorProto.BFLOAT16 else "result.bfloat16"
    nodes.append(helper.make_node(op_type, names, [result], domain=cpu_ops.DOMAIN, **(attributes or {})))
    if output == TensorProto.BFLOAT16:
        nodes.append(helper.make_node("Cast", [result], ["result"], to=TensorProto.FLOAT))
        output = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes, "one", infos, [helper.make_tensor_value_info("result", output, None)], initializers
    )
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid(cpu_ops.DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10), feeds
