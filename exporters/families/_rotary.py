"""Rotary embedding (Su et al. 2021) in real numbers: where patches are, by which angles, and how pairs are turned."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = [
    "ExactRotary",
    "Rotary",
    "cropped_positions",
    "divide_to_even",
    "grid_positions",
    "picture_positions",
    "rotate",
]

#: What :class:`ExactRotary` is exact to, positions: products of 12 bits by 12 bits are numbers of float32.
_EXACT_BITS = 12


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return ``x`` with each pair of numbers turned by its angle: (a + bi) · (cos + i·sin).

    Args:
        x: [..., channels], pairs beside each other.
        cos, sin: broadcast to ``x``, each value twice in a row.
    """
    real, imaginary = x.reshape(*x.shape[:-1], -1, 2).unbind(-1)
    turned = torch.stack([-imaginary, real], dim=-1).flatten(-2)
    return x * cos + turned * sin


class Rotary(nn.Module):
    """Cosines and sines of positions, in angles that are rounded to float32 as diffusers rounds them.

    Args:
        axes_dims: how many channels of a head turn by each axis of a position.
        theta: the base of the frequencies.
    """

    frequencies: Tensor
    axis: Tensor

    def __init__(self, axes_dims: Sequence[int], theta: float) -> None:
        super().__init__()
        exponents = [torch.arange(0, size, 2, dtype=torch.float32) / size for size in axes_dims]
        frequencies = torch.cat([1.0 / (theta**one) for one in exponents]).repeat_interleave(2)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.register_buffer("axis", _axis_of_channels(axes_dims), persistent=False)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines [tokens, 1, head] of whole numbers [tokens, axes]; each value twice in a row."""
        angles = (positions[:, self.axis].to(torch.float32) * self.frequencies)[:, None, :]
        return angles.cos(), angles.sin()


class ExactRotary(nn.Module):
    """Cosines and sines of positions, in angles that are right to the last bits of float32.

    diffusers computes some models' angles in float64, which engines do not. In float32 the angle of position 100 would
    already be off by 4e-6. So a frequency is the sum of two: the first of 12 bits, whose product with a position below
    4096 float32 holds exactly, and a rest so small that its rounding does not count; cosine and sine follow by the
    addition theorem.

    Args:
        axes_dims, theta: see :class:`Rotary`.
    """

    high: Tensor
    low: Tensor
    axis: Tensor

    def __init__(self, axes_dims: Sequence[int], theta: float) -> None:
        super().__init__()
        halves = [torch.arange(0, size, 2, dtype=torch.float64) / size for size in axes_dims]
        exact = torch.cat([1.0 / theta**exponents for exponents in halves]).repeat_interleave(2)
        mantissa, exponent = torch.frexp(exact)
        high = torch.ldexp((mantissa * 2**_EXACT_BITS).round(), exponent - _EXACT_BITS)
        self.register_buffer("high", high.float(), persistent=False)
        self.register_buffer("low", (exact - high).float(), persistent=False)
        self.register_buffer("axis", _axis_of_channels(axes_dims), persistent=False)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines [tokens, head] of whole numbers [tokens, axes]; each value twice in a row."""
        positions = ids[:, self.axis].float()  # [tokens, head]
        angle, rest = positions * self.high, positions * self.low
        return (
            angle.cos() * rest.cos() - angle.sin() * rest.sin(),
            angle.sin() * rest.cos() + angle.cos() * rest.sin(),
        )


def _axis_of_channels(axes_dims: Sequence[int]) -> Tensor:
    """Return which axis of a position each channel of a head turns by, int64 [head]."""
    return torch.cat([torch.full((size,), index) for index, size in enumerate(axes_dims)])


def grid_positions(*sizes: int) -> Tensor:
    """Return the index of each place of a grid along each of its axes, the last axis first: [places, axes]."""
    axes = torch.meshgrid(*(torch.arange(size) for size in sizes), indexing="ij")
    return torch.stack([axis.flatten() for axis in axes], dim=1)


def picture_positions(rows: Tensor, columns: Tensor) -> Tensor:
    """Return (0, row, column) of each patch of a picture, row by row, [patches, 3], of whole numbers [n] each."""
    sides = rows.shape[0], columns.shape[0]
    row, column = rows[:, None].expand(sides), columns[None, :].expand(sides)
    return torch.stack([torch.zeros_like(row), row, column], dim=-1).reshape(sides[0] * sides[1], 3)


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
