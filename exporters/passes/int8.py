"""INT8 with explicit Q/DQ on the linear layers (W8A8), in the form that TensorRT and TensorRT-RTX demand.

Both want symmetric S8 for activations too. ONNX Runtime's CPU kernels are twice as fast with another form, which is a
pass of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir

from dit_deploy.exporters.passes.linear import Choice
from dit_deploy.exporters.passes.qdq import Grid, insert_qdq

__all__ = ["INT8", "quantize_int8"]

INT8 = Grid(ir.DataType.INT8, 127.0, opset=13, store=lambda array: np.rint(array).astype(np.int8))


def quantize_int8(
    model: ir.Model,
    scales: Mapping[str, float],
    *,
    kept: Collection[str] = (),
    scale_dtype: ir.DataType = ir.DataType.FLOAT,
) -> Choice:
    """Quantise the linear layers of ``model`` in place; ``scales`` are steps: x is rounded to whole multiples of one.

    See :func:`dit_deploy.exporters.passes.qdq.insert_qdq` for the arguments, what is returned, and errors.
    """
    return insert_qdq(model, INT8, scales, kept=kept, scale_dtype=scale_dtype)
