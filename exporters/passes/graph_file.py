"""Open an ONNX file for passes, write what they made of it, and let ONNX check the types in between.

Weights stay in the file that they came from until they are written: loading maps them, a pass wraps them
(``ir.LazyTensor``), and saving reads, converts and writes one at a time. So neither the size of a model
nor protobuf's limit of 2 GB matters here.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx.checker import ValidationError
from onnx.shape_inference import InferenceError

from dit_deploy.errors import ExportError

__all__ = ["check_types", "infer_types", "load_graph", "release", "save_graph", "skeleton"]

#: Tensors of more bytes go to the data file; those below, scalars and axes, are what readers want in the graph itself.
_INLINE_BYTES = 1024

_SOURCES = "dit_deploy.data_files"  # key of Model.meta, which is not written


def load_graph(path: Path) -> ir.Model:
    """Return the model in ``path``; its external data is mapped from disk when it is used, never read whole.

    The model needs its files for as long as it lives: do not change or replace them.

    Raises:
        ExportError: the file is missing, cut short, no ONNX, or its data file is missing or too short.
    """
    try:
        model = ir.load(path)
    except (OSError, DecodeError, ValueError, TypeError) as error:
        raise ExportError(f"{path}: no ONNX graph can be read from it: {_first_line(error)}") from error
    sources: set[str] = set()
    for name, tensor in _external(model):
        data = Path(tensor.path)
        size = data.stat().st_size if data.is_file() else -1
        end = (tensor.offset or 0) + (tensor.length or tensor.nbytes)
        if size < end:
            state = "is missing" if size < 0 else f"has {size} bytes"
            raise ExportError(f"{path}: {name} needs {end} bytes of {data.name}, which {state}; export the model again")
        sources.add(str(data))
    model.meta[_SOURCES] = sources
    return model


def save_graph(model: ir.Model, path: Path) -> None:
    """Write ``model`` to ``path`` and its weights to ``path + ".data"`` beside it, one at a time.

    Existing files are replaced. The model itself stays as it was: its tensors still come from where they came from.

    Raises:
        ExportError: ``path`` names a file that the model's own weights are still read from, a weight cannot be
            converted, or the disk is full.
    """
    data = path.with_name(path.name + ".data")
    sources = set(model.meta.get(_SOURCES, ())) | {str(tensor.path) for _, tensor in _external(model)}
    for target in (path, data):
        if target.exists() and any(os.path.exists(one) and os.path.samefile(one, target) for one in sources):
            raise ExportError(f"{target}: the weights of this graph are still read from it; save under another name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        ir.save(model, path, external_data=data.name, size_threshold_bytes=_INLINE_BYTES)
    except (OSError, ValueError) as error:
        raise ExportError(f"{path}: cannot be written: {_first_line(error)}") from error
    finally:
        for _, tensor in _external(model):
            release(tensor)


def release(tensor: ir.TensorProtocol | None) -> None:
    """Let go of a mapped weight's pages. They cost nothing that the kernel could not take back, but count as used."""
    if isinstance(tensor, ir.ExternalTensor):
        with contextlib.suppress(BufferError):  # somebody looks at the array still
            tensor.release()


def skeleton(model: ir.Model) -> onnx.ModelProto:
    """Return the model's graph as protobuf with its larger weights as mere inputs, for ONNX's own tools.

    Nothing is read: what those tools ask of a weight is its type and its shape.
    """
    kept: list[tuple[ir.Value, ir.TensorProtocol]] = []
    try:
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and tensor.nbytes > _INLINE_BYTES:
                kept.append((value, tensor))
                value.const_value = ir.ExternalTensor(
                    "none", 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=value.name or ""
                )
        proto = ir.to_proto(model)
    finally:
        for value, tensor in kept:
            value.const_value = tensor
    absent = [tensor for tensor in proto.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    for tensor in absent:
        proto.graph.initializer.remove(tensor)
        declared = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        if all(given.name != tensor.name for given in proto.graph.input):
            proto.graph.input.append(declared)
    return proto


def infer_types(model: ir.Model) -> None:
    """Give each value that lacks one its type, and its shape where that can be told. What is known already stays.

    The exporter's graphs know all of them, under the names that the trace gave to sizes. Passes that add nodes
    state types themselves; this is for graphs from elsewhere.

    Raises:
        ExportError: the graph contradicts itself, or a type cannot be told.
    """
    values = [value for node in model.graph for value in node.outputs if value.name]
    if all(value.type is not None and value.shape is not None for value in values):
        return
    inferred = _inferred(skeleton(model), model)
    found = {info.name: info for info in (*inferred.graph.value_info, *inferred.graph.output)}
    for value in values:
        info = found.get(value.name or "")
        if info is not None and value.type is None and (kind := ir.serde.deserialize_type_proto_for_type(info.type)):
            value.type = kind
        if info is not None and value.shape is None:
            value.shape = ir.serde.deserialize_type_proto_for_shape(info.type)
        if value.type is None:
            node = value.producer()
            assert node is not None
            raise ExportError(f"{node.name}: the type of its output {value.name} cannot be told from {node.op_type}")


def check_types(model: ir.Model) -> None:
    """Let ONNX check the graph, each node's types with it: mixed float types, say, or a missing operator.

    Raises :class:`ExportError` with ONNX's own words, which name the node.
    """
    proto = skeleton(model)
    try:
        onnx.checker.check_model(proto)
    except ValidationError as error:
        raise ExportError(f"the graph is not valid: {_first_line(error)}") from error
    # What the graph says of its inner values is left out, so that each type is found anew from the inputs on.
    del proto.graph.value_info[:]
    _inferred(proto, model)


def _inferred(proto: onnx.ModelProto, model: ir.Model) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    except InferenceError as error:
        raise ExportError(f"{model.graph.name or 'the graph'}: types do not fit: {_first_line(error)}") from error


def _external(model: ir.Model) -> Iterator[tuple[str, ir.ExternalTensor]]:
    for name, value in model.graph.initializers.items():
        if isinstance(value.const_value, ir.ExternalTensor):
            yield name, value.const_value


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
