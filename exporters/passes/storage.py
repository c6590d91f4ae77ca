"""Store weights in 16 bits; compute with them in float32 as before.

Halves the file. What it costs is the rounding of each weight, once: activations stay float32, so nothing can
leave FP16's range while a picture is drawn.
"""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx_ir as ir

__all__ = ["store_weights"]

_NUMPY: dict[ir.DataType, np.dtype] = {
    ir.DataType.FLOAT16: np.dtype(np.float16),
    ir.DataType.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
}


def store_weights(graph: ir.Graph, dtype: ir.DataType, smallest_bytes: int) -> None:
    """Replace each float32 initializer of more than ``smallest_bytes`` by one of ``dtype`` and a cast back.

    The stored weight keeps its name. Weights are converted one at a time, when their bytes are written.

    Raises:
        ValueError: a weight is not finite in ``dtype``; raised while it is written.
    """
    for name, weight in list(graph.initializers.items()):
        tensor = weight.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.nbytes <= smallest_bytes:
            continue
        stored = ir.Value(name=name, shape=weight.shape, type=ir.TensorType(dtype))
        stored.const_value = ir.LazyTensor(
            _rounded(tensor, dtype, name), dtype=dtype, shape=ir.Shape(tensor.shape.numpy()), name=name
        )
        cast = ir.node("Cast", [stored], attributes={"to": int(ir.DataType.FLOAT)}, name=f"{name}.cast")
        cast.outputs[0].name = f"{name}.float32"
        cast.outputs[0].shape, cast.outputs[0].type = weight.shape, ir.TensorType(ir.DataType.FLOAT)
        weight.replace_all_uses_with(cast.outputs[0])
        graph.initializers.pop(name)
        graph.initializers[name] = stored
        graph.insert_before(graph[0], cast)


def _rounded(tensor: ir.TensorProtocol, dtype: ir.DataType, name: str) -> Callable[[], ir.TensorProtocol]:
    def convert() -> ir.TensorProtocol:
        array = tensor.numpy()
        with np.errstate(over="ignore"):
            rounded = array.astype(_NUMPY[dtype])
        if not np.isfinite(rounded).all():
            raise ValueError(
                f"{name} reaches {np.abs(array).max():.4g}, which {dtype.name.lower()} cannot hold; use bf16"
            )
        return ir.Tensor(rounded, dtype=dtype, name=name)

    return convert
