"""Linear attention with ReLU as its feature map (Katharopoulos et al. 2020; Cai et al. 2023), as Sana attends."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

__all__ = ["relu_linear_attention"]


def relu_linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return for each query the mean of the values, weighted by k⁺ · q⁺ where x⁺ = max(x, 0).

    Queries without a positive weight give 0. diffusers gets there by adding 1e-15 to the denominator, which half
    precision cannot hold, and which the ONNX optimiser takes for 0 and drops; here the denominator is replaced where it
    is 0. So the two differ only where the sum of weights is all but zero, below some 1e-8.

    Args:
        q, k, v: [batch, heads, channels, tokens], tokens last.

    Returns:
        [batch, heads, channels, tokens].
    """
    q, k = F.relu(q), F.relu(k)
    values = v @ k.transpose(2, 3) @ q  # [batch, heads, channels, channels] first: linear in the tokens
    weights = k.sum(dim=3, keepdim=True).transpose(2, 3) @ q  # [batch, heads, 1, tokens]
    return values / weights.masked_fill(weights == 0, 1.0)
