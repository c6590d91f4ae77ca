"""The embedding of times and other single numbers, rounded as diffusers rounds it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["Sinusoid"]


class Sinusoid(nn.Module):
    """Cosines, then sines, [n, channels] of ``scale`` · numbers [n], at frequencies from 1 down to 1/10000.

    The frequencies are constants: the exponential of a graph rounds differently, and at 1000 the last bit of a
    frequency is 6e-5 of the angle, at a guidance of 3.5 · 1000 it is 2e-4.
    """

    frequencies: Tensor

    def __init__(self, channels: int, scale: float = 1.0) -> None:
        super().__init__()
        half = channels // 2
        self.scale = scale
        exponents = -math.log(10000) * torch.arange(half, dtype=torch.float32, device="cpu") / half
        self.register_buffer("frequencies", exponents.exp(), persistent=False)

    def forward(self, numbers: Tensor) -> Tensor:
        angles = self.scale * (numbers[:, None] * self.frequencies)
        return torch.cat([angles.cos(), angles.sin()], dim=-1)
