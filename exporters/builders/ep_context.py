"""A TensorRT engine as an ONNX file: one ``EPContext`` node, by which ONNX Runtime's TensorRT providers load it.

So an application that speaks ONNX Runtime runs the engine without TensorRT's own API, and a machine without a GPU can
write what it loads. The attributes are those of ONNX Runtime's ``com.microsoft.EPContext``; see "EP context design" in
its documentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import onnx
from onnx import TensorProto, helper

from dit_deploy.bundle import Component, TensorSpec
from dit_deploy.exporters.tracing import axis_name

__all__ = ["PROVIDERS", "write_ep_context"]

#: Flavour of TensorRT → ONNX Runtime's provider for it.
PROVIDERS: dict[Literal["tensorrt", "tensorrt-rtx"], str] = {
    "tensorrt": "TensorrtExecutionProvider",
    "tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
}

_DTYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "bool": TensorProto.BOOL,
}


def write_ep_context(
    path: Path,
    component: Component,
    engine: str,
    *,
    flavour: Literal["tensorrt", "tensorrt-rtx"],
    version: str,
    compute_capabilities: Sequence[str],
) -> None:
    """Write the ONNX file ``path`` that stands for the engine file ``engine`` in the same folder.

    Args:
        component: declares inputs and outputs, which are the engine's.
        engine: the file's name, no path: providers refuse one that leaves the folder.
        version: of the library that built it, ``1.7.1.116``.
        compute_capabilities: of the GPUs that it is for, ``("8.9",)``; the first is the one that the node names.
    """
    node = helper.make_node(
        "EPContext",
        [spec.name for spec in component.inputs],
        [spec.name for spec in component.outputs],
        name=path.stem,
        domain="com.microsoft",
        # Each node has an engine of its own; none refers to another's.
        main_context=0 if flavour == "tensorrt-rtx" else 1,
        embed_mode=0,
        ep_cache_context=engine,
        ep_sdk_version=_number(version),
        hardware_architecture=(compute_capabilities[0] if compute_capabilities else "").replace(".", ""),
        onnx_model_filename=path.name,
        partition_name=f"{PROVIDERS[flavour]}_{path.stem}",
        source=PROVIDERS[flavour],
    )
    graph = helper.make_graph(
        [node],
        path.stem,
        [_declared(spec) for spec in component.inputs],
        [_declared(spec) for spec in component.outputs],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="dit-deploy")
    onnx.save(model, path)


def _declared(spec: TensorSpec) -> onnx.ValueInfoProto:
    axes = [axis if isinstance(axis, int) else axis_name(axis) for axis in spec.axes]
    return helper.make_tensor_value_info(spec.name, _DTYPES[spec.dtype], axes)


def _number(version: str) -> str:
    """Return a version as TensorRT counts them in one number: 1.7.1.116 → 10701."""
    major, minor, patch = ([int(part) for part in version.split(".")[:3] if part.isdigit()] + [0, 0, 0])[:3]
    return str(10000 * major + 100 * minor + patch)
