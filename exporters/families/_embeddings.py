"""Embeddings of time and of positions in real numbers, rounded as diffusers rounds them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["Sinusoid", "cropped_positions", "divide_to_even", "rotate"]


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


def cropped_positions(start: Tensor, stop: Tensor, count: int) -> Tensor:
    """Return the positions of ``count`` patches in a row from ``start`` to short of ``stop``, float32 [count].

    As ``torch.linspace(start, stop · (count − 1) / count, count)``, which is what pipelines of diffusers take for a
    grid that is cropped out of the usual one. ``start`` and ``stop`` are numbers of no axes.
    """
    side = torch.full((), count, dtype=torch.int64)
    first, last = start.to(torch.float32), stop.to(torch.float32) * (side - 1) / side
    step = (last - first) / (side - 1).clamp(min=1)
    return first + torch.arange(count, dtype=torch.float32) * step


def divide_to_even(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Return the quotient of whole numbers ≥ 0, rounded half to even as Python's ``round`` does."""
    quotient = torch.div(numerator, denominator, rounding_mode="floor")
    twice = 2 * (numerator - quotient * denominator)
    odd = quotient - 2 * torch.div(quotient, 2, rounding_mode="floor")
    return quotient + ((twice > denominator) | ((twice == denominator) & (odd == 1))).to(torch.int64)
