"""A PyTorch module and the declaration of its inputs and outputs → an ONNX file with dynamic axes.

The declaration decides: it gives the trace its sizes and dynamic axes, the graph its names, and it is
compared with what the exporter made of it. Weights go from the module to the file one at a time, so
that exporting costs no second copy of them.
"""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from onnxscript import optimizer
from torch import Tensor, nn

from dit_deploy.bundle.manifest import Axis, Component
from dit_deploy.bundle.shapes import shape_of
from dit_deploy.errors import ExportError
from dit_deploy.exporters.passes.storage import store_weights
from dit_deploy.exporters.source import Feeds

__all__ = ["OPSET", "Feeds", "axis_name", "example_inputs", "free_sizes", "trace"]

#: Opset 23 has ``Attention``, which TensorRT and TensorRT-RTX fuse by contract.
OPSET = 23

#: Sizes of the traced example. All differ, so that no two axes are merged, and none is 1, which the trace would bake.
_TRACED = (2, 3, 5, 7, 11, 13)

#: Constants up to this many bytes are folded. Weights are larger, and must not be copied by folding.
_FOLD_BYTES = 1024

_NAME_SCOPES = "pkg.torch.onnx.name_scopes"


def free_sizes(component: Component) -> dict[str, Axis]:
    """Return the component's dynamic axes by name, in the order of their first appearance."""
    axes: dict[str, Axis] = {}
    for tensor in (*component.inputs, *component.outputs):
        for axis in tensor.axes:
            if isinstance(axis, Axis):
                axes.setdefault(axis.name, axis)
    return axes


def traced_sizes(component: Component) -> dict[str, int]:
    """Return the free sizes that :func:`trace` uses, so that a proof can avoid them."""
    sizes = zip(free_sizes(component).items(), _TRACED, strict=False)
    return {
        name: axis.minimum if _is_fixed(axis) else size if size >= axis.minimum else axis.minimum + size
        for (name, axis), size in sizes
    }


def _is_fixed(axis: Axis) -> bool:
    """Return whether an axis has a name and yet one size only (a learned table of positions may end there)."""
    return axis.minimum == axis.maximum


def example_inputs(
    component: Component, sizes: dict[str, int], seed: int = 0, feeds: Feeds | None = None
) -> dict[str, np.ndarray]:
    """Return inputs of the declared dtypes and ranges: those that ``feeds`` makes, and random numbers for the others.

    Random are normal numbers, or uniform ones where a range is declared.
    """
    given = feeds(sizes, seed) if feeds is not None else {}
    generator = np.random.default_rng(seed)
    inputs: dict[str, np.ndarray] = {}
    for spec in component.inputs:
        shape = shape_of(spec, sizes)
        values: np.ndarray
        if spec.minimum is None or spec.maximum is None:
            values = generator.standard_normal(shape)
        elif spec.dtype.startswith("int"):
            values = generator.integers(int(spec.minimum), int(spec.maximum), shape, endpoint=True)
        else:
            values = generator.uniform(spec.minimum, spec.maximum, shape)
        inputs[spec.name] = np.asarray(given.get(spec.name, values)).astype(spec.dtype)
    return inputs


def trace(module: nn.Module, component: Component, folder: Path, feeds: Feeds | None = None) -> None:
    """Write ``module`` as ``folder / component.path`` with its weights in ``….data`` beside it.

    Args:
        module: takes the component's inputs as positional tensors in their order, returns a tuple of its outputs.
        component: the declaration; sizes of the trace are chosen from its axes.
        folder: an existing folder; sub-folders are made, existing files overwritten.
        feeds: makes the inputs that random numbers cannot stand for.

    Raises:
        ExportError: torch cannot trace the module, or an axis of the graph is not the declared one.
    """
    sizes = traced_sizes(component)
    arguments = tuple(torch.from_numpy(array) for array in example_inputs(component, sizes, 0, feeds).values())
    with _quiet(), torch.no_grad():
        try:
            program = torch.onnx.export(
                module,
                arguments,
                dynamo=True,
                optimize=False,
                verbose=False,
                opset_version=OPSET,
                input_names=[spec.name for spec in component.inputs],
                output_names=[spec.name for spec in component.outputs],
                dynamic_shapes=_dynamic_shapes(component),
            )
        except Exception as error:
            reason = (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[0]
            raise ExportError(
                f"{component.path}: torch.export cannot trace {type(module).__name__}: {reason}"
            ) from error
    assert program is not None
    model = program.model
    assert program.exported_program is not None
    _name_sizes(model.graph, _own_symbols(program.exported_program, component))
    weights = list(model.graph.initializers.values())
    name_transposed_weights(model.graph)
    with _quiet():
        optimizer.optimize_ir(model, input_size_limit=_FOLD_BYTES, output_size_limit=_FOLD_BYTES)
    model.producer_name, model.producer_version, model.doc_string = "dit-deploy", None, None
    if component.weights != "float32":
        store_weights(model.graph, _DTYPES[component.weights], _FOLD_BYTES)
    _strip_metadata(model.graph)
    _check_axes(model.graph, component)
    path = folder / component.path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        ir.save(model, path, external_data=path.name + ".data", size_threshold_bytes=_FOLD_BYTES)
    except ValueError as error:
        raise ExportError(f"{component.path}: {error}") from error
    finally:
        # The optimiser's rules remember the last graph they saw, with what they took out of it. No weight must stay in
        # memory with it: one would keep its whole file mapped.
        for value in (*weights, *model.graph.initializers.values()):
            value.const_value = None


def _dynamic_shapes(component: Component) -> tuple[dict[int, object], ...]:
    dims = {
        name: torch.export.Dim(name, min=axis.minimum, max=axis.maximum)
        for name, axis in free_sizes(component).items()
        if not _is_fixed(axis)
    }

    def dim(axis: Axis) -> object:
        size = axis.multiple * dims[axis.name] if axis.multiple > 1 else dims[axis.name]
        return size + axis.offset if axis.offset else size

    return tuple(
        {index: dim(axis) for index, axis in enumerate(spec.axes) if isinstance(axis, Axis) and not _is_fixed(axis)}
        for spec in component.inputs
    )


def _own_symbols(program: torch.export.ExportedProgram, component: Component) -> dict[str, str]:
    """Return torch's own symbols of sizes, such as ``s52``, as expressions of declared names.

    An axis that occurs only in a product (``4*latent_height``) or with an offset has no name that torch would use for
    the sizes computed from it. What its symbol stands for follows from the size of the input.
    """
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    symbols: dict[str, str] = {}
    for spec, name in zip(component.inputs, program.graph_signature.user_inputs, strict=True):
        for axis, size in zip(spec.axes, values[name].shape, strict=True):
            if not isinstance(axis, Axis) or isinstance(size, int):
                continue
            expression = size.node.expr
            if len(expression.free_symbols) != 1:
                continue
            (symbol,) = expression.free_symbols
            # declared: multiple · name + offset = factor · symbol + rest
            factor, rest = int(expression.coeff(symbol)), int(expression.subs(symbol, 0))
            if factor and axis.multiple % factor == 0 and (axis.offset - rest) % factor == 0:
                update = {"multiple": axis.multiple // factor, "offset": (axis.offset - rest) // factor}
                symbols[str(symbol)] = axis_name(axis.model_copy(update=update))
    return symbols


def _name_sizes(graph: ir.Graph, symbols: Mapping[str, str]) -> None:
    """Write the noted sizes of all values with declared names."""

    def named(found: re.Match[str]) -> str:
        name = symbols.get(found[0], found[0])
        return name if name.isidentifier() or found[0] == found.string else f"({name})"

    for node in graph.all_nodes():
        for value in node.outputs:
            if value.shape is not None:
                value.shape = ir.Shape(
                    [size if isinstance(size, int) else re.sub(r"\w+", named, str(size)) for size in value.shape]
                )


def name_transposed_weights(graph: ir.Graph) -> None:
    """Replace ``Transpose(weight)`` by the transposed weight, under the weight's own name and without a copy.

    torch stores a linear layer's weight [out, in]; ONNX's MatMul wants [in, out]. Left to constant folding,
    each would be copied and lose its name, and a name is what later passes and refitting find it by. The
    transposition here is a view that is laid out only when its bytes are written.
    """
    for node in list(graph):
        weight = node.inputs[0] if node.inputs else None
        if node.op_type != "Transpose" or weight is None or not weight.is_initializer():
            continue
        tensor, name = weight.const_value, weight.name
        assert tensor is not None and name is not None
        permutation = tuple(node.attributes.get_ints("perm", tuple(reversed(range(len(tensor.shape))))))
        alone = len(weight.uses()) == 1
        shape = ir.Shape([tensor.shape.numpy()[axis] for axis in permutation])
        new_name = name if alone else f"{name}.transposed"
        replacement = ir.Value(name=new_name, shape=shape, type=ir.TensorType(tensor.dtype))
        replacement.const_value = ir.LazyTensor(
            _transposed(tensor, permutation, new_name), dtype=tensor.dtype, shape=shape, name=new_name
        )
        node.outputs[0].replace_all_uses_with(replacement)
        graph.remove(node, safe=True)
        if alone:
            graph.initializers.pop(name).const_value = None
        graph.initializers[new_name] = replacement


def _transposed(tensor: ir.TensorProtocol, permutation: tuple[int, ...], name: str) -> Callable[[], ir.TensorProtocol]:
    return lambda: ir.Tensor(np.ascontiguousarray(tensor.numpy().transpose(permutation)), dtype=tensor.dtype, name=name)


def _strip_metadata(graph: ir.Graph) -> None:
    """Keep of the exporter's notes the module that a node came from; the rest are paths and lines of this machine."""
    for node in graph.all_nodes():
        scopes = node.metadata_props.get(_NAME_SCOPES)
        node.metadata_props.clear()
        if scopes is not None:
            node.metadata_props[_NAME_SCOPES] = scopes
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*graph.inputs, *graph.initializers.values()):
        value.metadata_props.clear()
    graph.metadata_props.clear()


def _check_axes(graph: ir.Graph, component: Component) -> None:
    """Compare the graph's inputs and outputs with the declared ones; a baked axis has a number where a name belongs.

    torch gives an axis that occurs only in a product (``4*latent_height``) a name of its own where it stands
    alone in an output. It gets the declared name here; that its size is right is for the proof to show.
    """
    for kind, values, specs in (
        ("input", graph.inputs, component.inputs),
        ("output", graph.outputs, component.outputs),
    ):
        if [value.name for value in values] != [spec.name for spec in specs]:
            raise ExportError(
                f"{component.path}: the graph's {kind}s are {[value.name for value in values]}; "
                f"declared are {[spec.name for spec in specs]}"
            )
        for value, spec in zip(values, specs, strict=True):
            found = [size if isinstance(size, int) else str(size) for size in value.shape or ()]
            declared = [_declared(axis) for axis in spec.axes]
            same = found == declared if kind == "input" else _fixed(found) == _fixed(declared)
            if not same or value.dtype != _DTYPES[spec.dtype]:
                raise ExportError(
                    f"{component.path}: {kind} {spec.name} came out as {value.dtype}{found}; declared is "
                    f"{spec.dtype}{declared}: the network computes a size in Python"
                )
            value.shape = ir.Shape(declared)


def _declared(axis: int | Axis) -> int | str:
    if isinstance(axis, int):
        return axis
    return axis.size(axis.minimum) if _is_fixed(axis) else axis_name(axis)


def _fixed(axes: list[int | str]) -> list[int | None]:
    return [axis if isinstance(axis, int) else None for axis in axes]


def axis_name(axis: Axis) -> str:
    """Return a dynamic axis as it is written in the file: ``batch``, ``2*patch_height``, ``4*latent_frames - 3``."""
    size = axis.name if axis.multiple == 1 else f"{axis.multiple}*{axis.name}"
    return f"{size} {'+' if axis.offset > 0 else '-'} {abs(axis.offset)}" if axis.offset else size


_DTYPES: dict[str, ir.DataType] = {
    "float32": ir.DataType.FLOAT,
    "float16": ir.DataType.FLOAT16,
    "bfloat16": ir.DataType.BFLOAT16,
    "int64": ir.DataType.INT64,
    "int32": ir.DataType.INT32,
    "bool": ir.DataType.BOOL,
}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' notes on their own progress; what matters of them is checked here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def call(module: Callable[..., object], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Run a torch module on numpy inputs in their order, and return its outputs as arrays."""
    with torch.no_grad():
        outputs = module(*(torch.from_numpy(array) for array in feeds.values()))
    assert isinstance(outputs, (tuple, list))
    return [output.numpy() if isinstance(output, Tensor) else np.asarray(output) for output in outputs]
