"""One row of a sampler with classifier-free guidance, as a small ONNX graph: the update runs where the latents are.

Without weights and in float32, it is made from the manifest's latents alone; ONNX Runtime runs it as it is, TensorRT
builds it like any other component. Every sampler of :mod:`dit_deploy.sampling` is a row of coefficients to it, so the
graph knows none of them by name. In the words of :class:`~dit_deploy.sampling.table.SolverTable`::

    guided      = conditional + guided_channels · guidance · (conditional − unconditional)
    m_0         = clamp(output[0] · sample + output[1] · guided, −clip, clip)
    basis       = (sample, saved, guided, noise, m_0, older_1, older_2, older_3)
    next_sample = sample_row · basis + learned · exp(variance · slope + middle) · noise
    next_saved  = saved_row · basis
    model_input = input_scale of the next row · next_sample, once a copy

With one prediction conditional and unconditional are the same array, and the difference is 0: a row without guidance
needs no graph of its own. History is not shifted in here: the caller binds other buffers (a swap costs nothing).
Guidance rescaling (Lin et al. 2023) has no place in it; the loop on the host has that.

A model input of two copies is the same values twice, as batched guidance feeds them.
"""

from __future__ import annotations

from pathlib import Path

import onnx

from dit_deploy.bundle import Manifest, TensorSpec
from dit_deploy.bundle.solver import solver_component
from dit_deploy.sampling.solver_row import LAYOUT, OLDER

__all__ = ["OPSET", "make_solver", "write_solver"]

#: Old enough for every backend; nothing here is younger.
OPSET = 18
_IR_VERSION = 10
_BASIS = ("sample", "saved", "guided", "noise", "converted", *(f"older_{k}" for k in range(1, OLDER + 1)))


def make_solver(manifest: Manifest) -> onnx.ModelProto:
    """Return the solver graph for the latents of ``manifest``.

    Its inputs and outputs are those of :func:`~dit_deploy.bundle.solver.solver_component`.
    """
    component = solver_component(manifest)
    rank = len(component.input("sample").axes)
    learned = manifest.prediction.learned_range_variance
    text = f"""<ir_version: {_IR_VERSION}, opset_import: ["": {OPSET}]>
solver ({", ".join(map(_declaration, component.inputs))}) => ({", ".join(map(_declaration, component.outputs))}) {{
    {_body(rank, learned)}
}}"""
    model = onnx.parser.parse_model(text)
    model.producer_name = "dit-deploy"
    _name_axes(model, (*component.inputs, *component.outputs))
    onnx.checker.check_model(model, full_check=True)
    return model


def write_solver(manifest: Manifest, path: Path) -> Path:
    """Write :func:`make_solver`'s graph to ``path``, some kilobytes, and return it; a file there is replaced."""
    onnx.save(make_solver(manifest), path)
    return path


def _body(rank: int, learned: bool) -> str:
    """Return the nodes; ``rank`` is that of the latents [batch, channels, …]."""
    beyond_channels = list(range(1, rank - 1))
    beyond_batch = list(range(2, rank + 1))
    # One stack of the basis and two weighted sums are few kernels where a backend runs each node by itself.
    stacked = ", ".join(f"{name}_stacked" for name in _BASIS)
    deviation = """
    conditional_variance = Gather<axis = 0>(variance, first)
    sloped = Mul(conditional_variance, log_deviation_slope)
    log_deviation = Add(sloped, log_deviation_middle)
    deviation = Exp(log_deviation)
    deviation_or_0 = Mul(deviation, learned)
    learned_noise = Mul(deviation_or_0, noise)
    next_sample = Add(linear_sample, learned_noise)"""
    return f"""
    sizes = Constant<value_ints = {list(LAYOUT.values())}>()
    {", ".join(LAYOUT)} = Split<axis = 0>(coefficients, sizes)
    first = Constant<value_int = 0>()
    axis_0 = Constant<value_ints = [0]>()
    one = Constant<value_ints = [1]>()

    start = Constant<value_ints = [-1]>()
    end = Constant<value_ints = [{2**31 - 1}]>()
    conditional = Gather<axis = 0>(prediction, first)
    last_prediction = Slice(prediction, start, end, axis_0)
    unconditional = Squeeze(last_prediction, axis_0)
    difference = Sub(conditional, unconditional)
    weight = Mul(guided_channels, guidance)
    channel_axes = Constant<value_ints = {beyond_channels}>()
    channel_weight = Unsqueeze(weight, channel_axes)
    extra = Mul(channel_weight, difference)
    guided = Add(conditional, extra)

    halves = Constant<value_ints = [1, 1]>()
    of_sample, of_prediction = Split<axis = 0>(output, halves)
    sample_part = Mul(sample, of_sample)
    prediction_part = Mul(guided, of_prediction)
    raw = Add(sample_part, prediction_part)
    below = Min(raw, clip)
    minus_clip = Neg(clip)
    converted = Max(below, minus_clip)

    {_each(f"{name}_stacked = Unsqueeze({name}, axis_0)" for name in _BASIS)}
    basis = Concat<axis = 0>({stacked})
    column = Constant<value_ints = {[len(_BASIS)] + [1] * rank}>()
    sample_column = Reshape(sample_row, column)
    weighted_sample = Mul(basis, sample_column)
    linear_sample = ReduceSum<keepdims = 0>(weighted_sample, axis_0)
    saved_column = Reshape(saved_row, column)
    weighted_saved = Mul(basis, saved_column)
    next_saved = ReduceSum<keepdims = 0>(weighted_saved, axis_0)
    {deviation if learned else "next_sample = Identity(linear_sample)"}

    scaled = Mul(next_sample, input_scale)
    scaled_once = Unsqueeze(scaled, axis_0)
    sample_axes = Constant<value_ints = {beyond_batch}>()
    copies_wide = Unsqueeze(copies, sample_axes)
    model_input = Mul(scaled_once, copies_wide)
    next_timestep = Mul(copies, timestep)

    sample_size = Abs(next_sample)
    sample_mean = ReduceMean<keepdims = 0>(sample_size)
    prediction_size = Abs(guided)
    prediction_mean = ReduceMean<keepdims = 0>(prediction_size)
    mean = Add(sample_mean, prediction_mean)
    magnitude = Reshape(mean, one)"""


def _each(lines: object) -> str:
    return "\n    ".join(lines)  # type: ignore[arg-type]


def _declaration(spec: TensorSpec) -> str:
    axes = ", ".join(str(axis) if isinstance(axis, int) else axis.name for axis in spec.axes)
    return f"float[{axes}] {spec.name}"


def _name_axes(model: onnx.ModelProto, specs: tuple[TensorSpec, ...]) -> None:
    """Write ``2*patch_height``, as exported graphs do: ONNX's text form has no room for it."""
    values = {value.name: value for value in (*model.graph.input, *model.graph.output)}
    for spec in specs:
        for axis, dim in zip(spec.axes, values[spec.name].type.tensor_type.shape.dim, strict=True):
            if not isinstance(axis, int) and axis.multiple > 1:
                dim.dim_param = f"{axis.multiple}*{axis.name}"
