"""What a change of precision must know of operators: which are cheap, and which types each of their inputs takes."""

from __future__ import annotations

from functools import cache

import onnx
import onnx_ir as ir

__all__ = [
    "ELEMENTWISE",
    "FLOATS",
    "LAYOUT",
    "any_type",
    "computes",
    "floats",
    "gives",
    "has_attribute",
    "takes",
    "varying",
]

#: Types that a precision pass may exchange for one another. Double is somebody's intention and stays.
FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)

#: Element by element, and nothing but arithmetic.
ELEMENTWISE = frozenset(
    {
        "Abs", "Add", "Cast", "Ceil", "Clip", "Cos", "Div", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid",
        "HardSwish", "Identity", "LeakyRelu", "Log", "Max", "Min", "Mish", "Mul", "Neg", "Pow", "Reciprocal", "Relu",
        "Round", "Sigmoid", "Sign", "Sin", "Softplus", "Sqrt", "Sub", "Swish", "Tanh", "Where",
    }
)  # fmt: skip

#: Moves or repeats numbers without changing any.
LAYOUT = frozenset(
    {
        "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice", "SpaceToDepth",
        "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
    }
)  # fmt: skip

_NAMES = {
    ir.DataType.FLOAT: "tensor(float)",
    ir.DataType.FLOAT16: "tensor(float16)",
    ir.DataType.BFLOAT16: "tensor(bfloat16)",
}


def computes(node: ir.Node) -> bool:
    """Say whether a node reads or gives floating-point numbers."""
    return bool(floats(node)) or any(value.dtype in FLOATS for value in node.outputs)


def floats(node: ir.Node) -> list[ir.Value]:
    """Return a node's floating-point inputs."""
    return [value for value in node.inputs if value is not None and value.dtype in FLOATS]


def varying(node: ir.Node) -> list[ir.Value]:
    """Return a node's floating-point inputs that are not constants."""
    return [value for value in floats(node) if not value.is_initializer()]


def any_type(node: ir.Node) -> bool:
    """Say whether a node reads any floating-point type alike, and gives none that depends on it."""
    return node.domain == "" and node.op_type in ("Cast", "Shape", "Size")


def takes(node: ir.Node, index: int, dtype: ir.DataType) -> bool:
    """Say whether a node's input may have ``dtype``, by the operator's specification.

    Of domains that ONNX does not specify it is taken for granted; such nodes are put in by passes that know.
    """
    kinds = _input_types(node.op_type, node.domain, _opset(node))
    return kinds is None or _NAMES[dtype] in kinds[min(index, len(kinds) - 1)]


def gives(node: ir.Node, index: int, dtype: ir.DataType) -> bool:
    """Say whether a node's output may have ``dtype``, likewise."""
    kinds = _output_types(node.op_type, node.domain, _opset(node))
    return kinds is None or _NAMES[dtype] in kinds[min(index, len(kinds) - 1)]


def has_attribute(node: ir.Node, name: str) -> bool:
    """Say whether the operator knows an attribute, given or not."""
    schema = _schema(node.op_type, node.domain, _opset(node))
    return schema is not None and name in schema.attributes


def _opset(node: ir.Node) -> int:
    graph = node.graph
    assert graph is not None
    return graph.opset_imports.get(node.domain, 1)


@cache
def _schema(op_type: str, domain: str, opset: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(op_type, opset, domain)
    except onnx.defs.SchemaError:
        return None


@cache
def _input_types(op_type: str, domain: str, opset: int) -> list[frozenset[str]] | None:
    schema = _schema(op_type, domain, opset)
    return None if schema is None else _allowed(schema, [one.type_str for one in schema.inputs])


@cache
def _output_types(op_type: str, domain: str, opset: int) -> list[frozenset[str]] | None:
    schema = _schema(op_type, domain, opset)
    return None if schema is None else _allowed(schema, [one.type_str for one in schema.outputs])


def _allowed(schema: onnx.defs.OpSchema, kinds: list[str]) -> list[frozenset[str]]:
    named = {one.type_param_str: frozenset(one.allowed_type_strs) for one in schema.type_constraints}
    return [named.get(kind, frozenset([kind])) for kind in kinds]
