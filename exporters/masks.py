"""How a key is hidden from attention: by what is added to its score."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["MASKED", "key_bias"]

#: What is added to the score of a key that is not attended to, once. Its exponential is 0 beside any score that a
#: network has. Unlike −∞ it makes no NaN where no key is left, and unlike float32's least number it is well inside
#: FP16's range, so that it does not push attention out of FP16, where TensorRT has its kernels.
MASKED = -10000.0


def key_bias(mask: Tensor, queries: int, dtype: torch.dtype) -> Tensor:
    """Return what is added to scores under a mask of keys: 0 or :data:`MASKED`, [batch, 1, queries, keys].

    The axis of queries is there in full: ONNX Runtime's ``Attention`` of opset 23 takes no mask where it is 1.

    Args:
        mask: int64 [batch, keys], 1 where a key is attended to.
        queries: how many there are.
        dtype: of the scores.
    """
    return ((1 - mask.to(dtype))[:, None, None, :] * MASKED).expand(-1, -1, queries, -1)
