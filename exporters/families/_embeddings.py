"""Embeddings of time and of positions in real numbers, rounded as diffusers rounds them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["Sinusoid", "rotate"]


class Sinusoid(nn.Module):
    """Cosines, then sines, [batch, channels] of ``scale`` · numbers [batch], at frequencies from 1 down to 1/10000.

    The frequencies are constants: the exponential of a graph rounds differently, and at 1000 the last bit of a
    frequency is 6e-5 of the angle.
    """

    frequencies: Tensor

    def __init__(self, channels: int, scale: float = 1.0) -> None:
        super().__init__()
        half = channels // 2
        self.scale = scale
        exponents = -math.log(10000) * torch.arange(half, dtype=torch.float32) / half
        self.register_buffer("frequencies", exponents.exp(), persistent=False)

    def forward(self, numbers: Tensor) -> Tensor:
        angles = self.scale * (numbers[:, None] * self.frequencies)
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return ``x`` with each pair of numbers turned by its angle (Su et al. 2021): (a + bi) · (cos + i·sin).

    Args:
        x: [batch, tokens, heads, head], pairs beside each other.
        cos, sin: broadcast to [batch, tokens, heads, head], each value twice in a row.
    """
    real, imaginary = x.reshape(*x.shape[:-1], -1, 2).unbind(-1)
    turned = torch.stack([-imaginary, real], dim=-1).flatten(-2)
    return x * cos + turned * sin
