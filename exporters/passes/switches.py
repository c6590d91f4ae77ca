"""A graph whose linear layers can be quantised one by one while it runs, to ask what each of them costs.

Each layer becomes an ``If`` on its element of one more input. The branch that is quantised rounds the weight as it
runs, from the float one, so the graph needs no second set of weights; only the branch taken costs time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir

from dit_deploy.errors import InputError
from dit_deploy.exporters.passes.linear import Linear, choose_linears
from dit_deploy.exporters.passes.qdq import Grid, activation_steps, channel_scales, constant, zero_point

__all__ = ["SWITCHES", "add_switches"]

#: Name of the input: bool, one element a layer.
SWITCHES = "quantized_layers"


def add_switches(
    model: ir.Model,
    grid: Grid,
    scales: Mapping[str, float],
    *,
    kept: Collection[str] = (),
    scale_dtype: ir.DataType = ir.DataType.FLOAT,
) -> tuple[str, ...]:
    """Add the input ``quantized_layers`` to ``model``, in place; with all off it computes what it did.

    Args and errors are those of :func:`dit_deploy.exporters.passes.qdq.insert_qdq`, and so is what a quantised layer
    computes; :class:`InputError` also where no layer is left to quantise.

    Returns:
        the layers' names in the order of their switches.
    """
    graph = model.graph
    choice = choose_linears(graph, kept)
    if not choice.chosen:
        raise InputError("no linear layer is left to quantise; name fewer in kept")
    steps = activation_steps(choice, grid, scales, scale_dtype)
    zero = zero_point(graph, grid)
    count = len(choice.chosen)
    switches = ir.Value(name=SWITCHES, shape=ir.Shape([count]), type=ir.TensorType(ir.DataType.BOOL))
    graph.inputs.append(switches)
    for index, linear in enumerate(choice.chosen):
        name = linear.name
        step = constant(graph, f"{name}.activation.scale", np.array(steps[linear.activation], np.float32))
        scale = constant(graph, f"{name}.weight.scale", channel_scales(linear.array(), grid.maximum, scale_dtype))
        _switch(graph, linear, _flag(graph, linear, switches, index), grid, (step, scale, zero))
    return tuple(linear.name for linear in choice.chosen)


def _flag(graph: ir.Graph, linear: Linear, switches: ir.Value, index: int) -> ir.Value:
    position = constant(graph, f"{linear.name}.switch.index", np.array(index, np.int64))
    gather = ir.node("Gather", [switches, position], name=f"{linear.name}.switch")
    flag = gather.outputs[0]
    flag.name, flag.shape, flag.type = f"{linear.name}.switch.value", ir.Shape([]), ir.TensorType(ir.DataType.BOOL)
    graph.insert_before(linear.node, gather)
    return flag


def _switch(
    graph: ir.Graph, linear: Linear, flag: ir.Value, grid: Grid, constants: tuple[ir.Value, ir.Value, ir.Value]
) -> None:
    """Replace the layer's node by an If around two copies of it. The branches read the graph's values from outside."""
    node, output = linear.node, linear.node.outputs[0]
    step, scale, zero = constants
    activation, weight = node.inputs[0], node.inputs[1]
    assert activation is not None and weight is not None
    # The zero point of a weight would have to be as long as its scale; without one, an attribute says the type.
    columns = {"axis": 1}
    kind = {"output_dtype": int(grid.dtype)}
    nodes = [
        ir.node("QuantizeLinear", [activation, step, zero], name=f"{linear.name}.activation.quantize"),
        ir.node("QuantizeLinear", [weight, scale], attributes=columns | kind, name=f"{linear.name}.weight.quantize"),
    ]
    for quantize, by, attributes in ((nodes[0], step, {}), (nodes[1], scale, columns)):
        name = f"{(quantize.name or '').removesuffix('quantize')}dequantize"
        nodes.append(ir.node("DequantizeLinear", [quantize.outputs[0], by], attributes=attributes, name=name))
    for one in nodes:
        one.outputs[0].name = one.name  # names of a branch must be none of the graph's around it
    rounded = [one.outputs[0] for one in nodes[2:]]
    quantized = _copy(node, [*rounded, *node.inputs[2:]], f"{linear.name}.quantized")
    plain = _copy(node, list(node.inputs), f"{linear.name}.plain")
    branch = ir.node(
        "If",
        [flag],
        attributes={
            "then_branch": ir.Graph([], quantized.outputs, nodes=[*nodes, quantized], name=f"{linear.name}.then"),
            "else_branch": ir.Graph([], plain.outputs, nodes=[plain], name=f"{linear.name}.else"),
        },
        name=f"{linear.name}.if",
    )
    result = branch.outputs[0]
    result.shape, result.type = output.shape, output.type
    graph.insert_before(node, branch)
    output.replace_all_uses_with(result)
    former_name = output.name
    graph.remove(node, safe=True)
    result.name = former_name


def _copy(node: ir.Node, inputs: list[ir.Value | None], name: str) -> ir.Node:
    copy = ir.Node(node.domain, node.op_type, inputs, list(node.attributes.values()), name=name)
    copy.outputs[0].name = name
    copy.outputs[0].shape, copy.outputs[0].type = node.outputs[0].shape, node.outputs[0].type
    return copy
