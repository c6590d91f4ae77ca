"""Declared axes, shapes and ranges as people read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the manifest's own messages are written with these
    from .manifest import Axis, TensorSpec

__all__ = ["axis_text", "range_text", "shape_text"]


def axis_text(axis: int | Axis) -> str:
    """Write one axis for people: ``4``, ``batch``, ``2·patch_height`` or ``4·latent_frames-3``."""
    if isinstance(axis, int):
        return str(axis)
    size = axis.name if axis.multiple == 1 else f"{axis.multiple}·{axis.name}"
    return f"{size}{axis.offset:+}" if axis.offset else size


def shape_text(spec: TensorSpec) -> str:
    """Write a declared shape for people: ``[batch, 4, 2·patch_height, 2·patch_width]``."""
    return f"[{', '.join(axis_text(axis) for axis in spec.axes)}]"


def range_text(spec: TensorSpec) -> str:
    """Write the declared range of values for people: ``0 … 1000``; empty where it is unbounded on both ends."""
    if spec.minimum is None and spec.maximum is None:
        return ""
    low = "−∞" if spec.minimum is None else f"{spec.minimum:.15g}"
    high = "∞" if spec.maximum is None else f"{spec.maximum:.15g}"
    return f"{low} … {high}"
