"""FP8 (E4M3 without infinities, Micikevicius et al. 2022, arXiv 2209.05433) with explicit Q/DQ on the linear layers."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import ml_dtypes
import onnx_ir as ir

from dit_deploy.exporters.passes.linear import Choice
from dit_deploy.exporters.passes.qdq import Grid, insert_qdq

__all__ = ["FP8", "quantize_fp8"]

FP8 = Grid(ir.DataType.FLOAT8E4M3FN, 448.0, opset=19, store=lambda array: array.astype(ml_dtypes.float8_e4m3fn))


def quantize_fp8(
    model: ir.Model,
    scales: Mapping[str, float],
    *,
    kept: Collection[str] = (),
    scale_dtype: ir.DataType = ir.DataType.FLOAT,
) -> Choice:
    """Quantise the linear layers of ``model`` in place; a scale is the largest value of an activation over 448.

    See :func:`dit_deploy.exporters.passes.qdq.insert_qdq` for the arguments, what is returned, and errors.
    """
    return insert_qdq(model, FP8, scales, kept=kept, scale_dtype=scale_dtype)
