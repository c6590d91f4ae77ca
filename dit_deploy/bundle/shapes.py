"""From a declared tensor to actual shapes and back: the one declaration serves exporters and runtimes alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ._text import axis_text, range_text, shape_text
from .manifest import Axis, TensorSpec

__all__ = ["axis_text", "bind_axes", "check_values", "range_text", "shape_of", "shape_text"]


def bind_axes(specs: Iterable[TensorSpec], arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, int]:
    """Solve the free sizes of the declared tensors from the shapes of actual arrays.

    Arguments:
        specs: the declared tensors, a component's inputs (or inputs and outputs, to hold both together).
        arrays: one array for each, by name. ``bfloat16`` means the dtype of that name from ml_dtypes.

    Returns free size → value: ``{"batch": 2, "patch_height": 16, …}`` for latents [2, 4, 32, …] of patch size 2.

    Raises :class:`InputError`, naming tensor and axis, for a missing or unknown tensor, another dtype or
    rank, a size that is not the fixed one, no multiple or out of range, and a free size on which two
    tensors disagree.
    """
    declared = {spec.name: spec for spec in specs}
    if missing := [name for name in declared if name not in arrays]:
        raise InputError(f"missing tensors: {', '.join(missing)}; expected {', '.join(declared)}")
    if unknown := [str(name) for name in arrays if name not in declared]:
        raise InputError(f"unknown tensors: {', '.join(unknown)}; expected {', '.join(declared)}")
    sizes: dict[str, int] = {}
    owner: dict[str, str] = {}
    for name, spec in declared.items():
        array = arrays[name]
        if array.dtype.name != spec.dtype:
            raise InputError(f"{name}: dtype is {array.dtype.name}, expected {spec.dtype}")
        if array.ndim != len(spec.axes):
            raise InputError(
                f"{name}: shape is {list(array.shape)} with {array.ndim} axes, "
                f"expected {len(spec.axes)}: {shape_text(spec)}"
            )
        for index, (axis, size) in enumerate(zip(spec.axes, array.shape, strict=True)):
            if isinstance(axis, int):
                if size != axis:
                    raise InputError(f"{name}: axis {index} is {size}, expected {axis}")
                continue
            free = _free_size(axis, size, f"{name}: axis {index} is {size}")
            if sizes.setdefault(axis.name, free) != free:
                raise InputError(
                    f"{name}: axis {index} is {size}, so {axis.name} is {free}, "
                    f"but {owner[axis.name]} says {axis.name} is {sizes[axis.name]}"
                )
            owner.setdefault(axis.name, name)
    return sizes


def shape_of(spec: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Return the shape of a declared tensor for given free sizes, such as :func:`bind_axes` returns.

    Raises :class:`InputError` where a free size is not given, or outside the axis's minimum and maximum.
    """
    shape = []
    for index, axis in enumerate(spec.axes):
        if isinstance(axis, int):
            shape.append(axis)
            continue
        if axis.name not in sizes:
            raise InputError(f"{spec.name}: axis {index} needs the size {axis.name}; given are {sorted(sizes)}")
        size = axis.size(int(sizes[axis.name]))
        _free_size(axis, size, f"{spec.name}: axis {index} would be {size}")
        shape.append(size)
    return tuple(shape)


def check_values(spec: TensorSpec, array: npt.NDArray[Any]) -> None:
    """Check an array's values against the declared range; floating-point values must be finite too.

    Raises :class:`InputError`: ``class_labels: 1001 is outside 0 … 1000``.
    """
    if array.size == 0 or array.dtype == np.bool_:
        return
    low, high = array.min(), array.max()  # either is NaN where any value is
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(f"{spec.name}: holds NaN or infinite values, expected finite ones")
    for bad, outside in (
        (low, spec.minimum is not None and low < spec.minimum),
        (high, spec.maximum is not None and high > spec.maximum),
    ):
        if outside:
            value = int(bad) if np.issubdtype(array.dtype, np.integer) else f"{float(bad):.6g}"
            raise InputError(f"{spec.name}: {value} is outside {range_text(spec)}")


def _free_size(axis: Axis, size: int, came: str) -> int:
    if (free := axis.free(size)) is not None:
        return free
    text = axis_text(axis).replace("·", " × ")
    if (size - axis.offset) % axis.multiple:
        more = "" if not axis.offset else f"{axis.offset % axis.multiple} more than "
        raise InputError(f"{came}, expected {more}a multiple of {axis.multiple} ({text})")
    low, high = axis.size(axis.minimum), axis.maximum and axis.size(axis.maximum)
    raise InputError(f"{came}, expected {f'at least {low}' if high is None else f'{low} … {high}'} ({text})")
