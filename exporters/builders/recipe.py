"""How a component's graph is written before a backend gets it: precision, smoothing, attention, islands.

One recipe, one graph: every backend that needs the same form gets the same file, and the recipe's text is part of the
engine's key.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import onnx_ir as ir

from dit_deploy.bundle.engine import Precision
from dit_deploy.exporters.calibration import Calibration
from dit_deploy.exporters.passes.attention import Form, lower_attention
from dit_deploy.exporters.passes.cpu_fused import lower_fused
from dit_deploy.exporters.passes.cpu_integer import to_cpu_integer
from dit_deploy.exporters.passes.fp8 import quantize_fp8
from dit_deploy.exporters.passes.graph_file import load_graph, save_graph
from dit_deploy.exporters.passes.half import to_half
from dit_deploy.exporters.passes.int8 import quantize_int8
from dit_deploy.exporters.passes.linear import choose_linears
from dit_deploy.exporters.passes.smoothing import smooth

__all__ = ["PASSES", "Lowered", "Recipe", "lower"]

#: Raised whenever a pass writes another graph for the same recipe, so that no older engine is taken for a new one.
PASSES = 3

Compute = Literal["fp32", "fp16", "bf16"]

_DTYPES: dict[Compute, ir.DataType] = {
    "fp32": ir.DataType.FLOAT,
    "fp16": ir.DataType.FLOAT16,
    "bf16": ir.DataType.BFLOAT16,
}


@dataclass(frozen=True)
class Recipe:
    """``Recipe("int8", "fp16")``: linear layers in INT8, everything else in FP16.

    Attributes:
        precision: of the linear layers inside the blocks, by which the engine is called.
        compute: of everything else.
        attention: which operator attention becomes.
        integer: how INT8 is written: ``explicit`` Q/DQ, as TensorRT demands it; ``cpu``, ONNX Runtime's own operators;
            ``fused``, this package's, for CPUs with VNNI.
        smoothing: SmoothQuant's α; ``None`` leaves weights and activations as they are.
        method, percentile: how activation scales follow from the calibration's histograms.
        keep: layers that stay in ``compute`` precision, as glob patterns.
        islands: nodes that stay in FP32, as glob patterns.
        norm_casts: whether normalisations stand between casts; see :func:`~dit_deploy.exporters.passes.half.to_half`.
        sigmoid_casts: whether Sigmoid and SiLU do; see the same.
        products_only: whether all arithmetic beside products stays in FP32; see the same.
    """

    precision: Precision
    compute: Compute
    attention: Form = "onnx"
    integer: Literal["explicit", "cpu", "fused"] = "explicit"
    smoothing: float | None = None
    method: Literal["max", "percentile", "mse"] = "mse"
    percentile: float = 99.99
    keep: tuple[str, ...] = ()
    islands: tuple[str, ...] = ()
    norm_casts: bool = True
    sigmoid_casts: bool = False
    products_only: bool = False

    @property
    def quantized(self) -> bool:
        """Whether it has layers on an 8-bit grid, so that it needs their scales."""
        return self.precision in ("int8", "fp8")

    @property
    def calibrated(self) -> bool:
        """Whether it needs a calibration: scales, or the ranges that FP16 must hold."""
        return self.quantized or self.compute == "fp16"

    def decisive(self) -> dict[str, str]:
        """Return what of the recipe decides this precision's graph, for the engine's key: name → value as text."""
        decisive = asdict(self)
        if not self.quantized:
            for name in ("integer", "smoothing", "method", "percentile", "keep"):
                decisive.pop(name)
        elif self.method != "percentile":
            decisive.pop("percentile")
        if self.compute == "fp32":
            decisive.pop("islands")
            decisive.pop("norm_casts")
        for name in ("sigmoid_casts", "products_only"):
            if self.compute == "fp32" or not decisive[name]:
                decisive.pop(name)
        return {name: _text(value) for name, value in decisive.items()} | {"passes": str(PASSES)}


def _text(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value).lower()


@dataclass(frozen=True)
class Lowered:
    """What :func:`lower` wrote.

    Attributes:
        kept: layer or node → why it was left in a wider type. Layers that are never quantised are not among them.
    """

    path: Path
    kept: dict[str, str]


def lower(
    source: Path, target: Path, recipe: Recipe, calibration: Calibration | None, kept: Collection[str] = ()
) -> Lowered:
    """Write the graph ``source`` as ``recipe`` says to ``target``.

    Args:
        calibration: of this component, where ``recipe.calibrated``; with the recipe's smoothing.
        kept: layers that stay wider beside ``recipe.keep``, by name.

    Raises:
        InputError: a pattern of ``keep`` or ``islands`` matches nothing, or a scale is missing.
        ExportError: a pass refuses the graph, or ``target`` cannot be written.
    """
    model = load_graph(source)
    reasons: dict[str, str] = {}
    if recipe.quantized:
        assert calibration is not None
        if recipe.smoothing is not None:
            assert calibration.unsmoothed is not None
            smooth(model, calibration.unsmoothed.channel_maxima(), recipe.smoothing)
        levels: Literal["int8", "fp8"] = "int8" if recipe.precision == "int8" else "fp8"
        scales = calibration.scales(recipe.method, levels, recipe.percentile)
        patterns = (*recipe.keep, *kept)
        choice = choose_linears(model.graph, patterns)
        if recipe.integer == "fused":
            lower_fused(model, scales, patterns)
        else:
            quantize = quantize_int8 if recipe.precision == "int8" else quantize_fp8
            quantize(model, scales, kept=patterns, scale_dtype=_DTYPES[recipe.compute])
        reasons = {name: why for name, why in choice.kept.items() if why.startswith("asked for")}
        reasons |= {name: "too sensitive: kept for the parity limit" for name in kept if name in choice.kept}
    lower_attention(model, recipe.attention)
    if recipe.integer == "cpu":
        to_cpu_integer(model)
    if recipe.compute != "fp32":
        ranges = calibration.ranges() if recipe.compute == "fp16" and calibration is not None else None
        islands = to_half(
            model,
            _DTYPES[recipe.compute],
            islands=recipe.islands,
            ranges=ranges,
            norm_casts=recipe.norm_casts,
            sigmoid_casts=recipe.sigmoid_casts,
            products_only=recipe.products_only,
        )
        reasons |= {island.node: f"FP32: {island.why}" for island in islands}
    save_graph(model, target)
    return Lowered(target, reasons)
