"""Sizes solved from arrays, and the words for each that does not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dit_deploy.bundle import Axis, TensorSpec, bind_axes, check_values, shape_of
from dit_deploy.bundle.summary import tensor_text
from dit_deploy.errors import InputError

from .conftest import FIELDS

INPUTS = FIELDS["components"]["denoiser"].inputs
LATENTS, TIMESTEP, LABELS = INPUTS
SIZES = {"batch": 2, "patch_height": 16, "patch_width": 3}


def arrays(**changes: Any) -> dict[str, Any]:
    return {
        "latents": np.zeros((2, 4, 32, 6), np.float32),
        "timestep": np.zeros(2, np.float32),
        "class_labels": np.zeros(2, np.int64),
        **changes,
    }


def test_sizes_come_out_and_give_the_shapes_again() -> None:
    assert bind_axes(INPUTS, arrays()) == SIZES
    assert shape_of(LATENTS, SIZES) == (2, 4, 32, 6)
    assert shape_of(TIMESTEP, {"batch": 5, "unused": 1}) == (5,)


def latents(*shape: int) -> dict[str, Any]:
    return arrays(latents=np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("given_arrays", "message"),
    [
        (latents(2, 4, 33, 6), "latents: axis 2 is 33, expected a multiple of 2 (2 × patch_height)"),
        (latents(2, 4, 0, 6), "latents: axis 2 is 0, expected at least 2 (2 × patch_height)"),
        (latents(2, 4, 32, 130), "latents: axis 3 is 130, expected 2 … 128 (2 × patch_width)"),
        (latents(0, 4, 32, 6), "latents: axis 0 is 0, expected at least 1 (batch)"),
        (latents(2, 3, 32, 6), "latents: axis 1 is 3, expected 4"),
        (
            latents(4, 32, 6),
            "latents: shape is [4, 32, 6] with 3 axes, expected 4: [batch, 4, 2·patch_height, 2·patch_width]",
        ),
        (
            arrays(timestep=np.zeros(3, np.float32)),
            "timestep: axis 0 is 3, so batch is 3, but latents says batch is 2",
        ),
        (arrays(timestep=np.zeros(2)), "timestep: dtype is float64, expected float32"),
        (arrays(class_labels=np.zeros(2, np.int32)), "class_labels: dtype is int32, expected int64"),
        (arrays(prompt=np.zeros(2)), "unknown tensors: prompt; expected latents, timestep, class_labels"),
        ({"latents": np.zeros(1)}, "missing tensors: timestep, class_labels; expected latents, timestep, class_labels"),
    ],
)
def test_what_does_not_fit(given_arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        bind_axes(INPUTS, given_arrays)
    assert str(caught.value) == message


def test_shape_of_refuses_sizes_out_of_range() -> None:
    with pytest.raises(InputError, match="latents: axis 0 needs the size batch; given are"):
        shape_of(LATENTS, {"patch_height": 1})
    with pytest.raises(InputError, match=r"latents: axis 3 would be 130, expected 2 … 128 \(2 × patch_width\)"):
        shape_of(LATENTS, {**SIZES, "patch_width": 65})
    with pytest.raises(InputError, match="latents: axis 2 would be 0"):
        shape_of(LATENTS, {**SIZES, "patch_height": 0})


@pytest.mark.parametrize(
    ("spec", "values", "message"),
    [
        (LABELS, np.array([0, 1001]), "class_labels: 1001 is outside 0 … 1000"),
        (LABELS, np.array([-1, 5]), "class_labels: -1 is outside 0 … 1000"),
        (LABELS, np.array([123456789]), "class_labels: 123456789 is outside 0 … 1000"),
        (LATENTS, np.array([0.0, np.nan]), "latents: holds NaN or infinite values, expected finite ones"),
        (LATENTS, np.array([0.0, -np.inf], np.float16), "latents: holds NaN or infinite values, expected finite ones"),
        (
            TensorSpec(name="t", dtype="float32", axes=(), minimum=0.5),
            np.float32([0.25]),
            "t: 0.25 is outside 0.5 … ∞",
        ),
    ],
)
def test_values_out_of_range(spec: TensorSpec, values: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        check_values(spec, values)
    assert str(caught.value) == message


def test_values_in_range() -> None:
    check_values(LABELS, np.array([0, 1000]))
    check_values(LABELS, np.array([], np.int64))
    check_values(LATENTS, np.float32([-1e30, 1e30]))
    check_values(TensorSpec(name="mask", dtype="bool", axes=(2,)), np.array([True, False]))


def test_tensor_text() -> None:
    assert tensor_text(LATENTS) == "latents float32 [batch, 4, 2·patch_height, 2·patch_width]"
    assert tensor_text(TIMESTEP) == "timestep float32 [batch], training index"
    assert tensor_text(LABELS) == "class_labels int64 [batch], 0 … 1000"


sizes = st.integers(1, 6)


@given(st.lists(st.one_of(sizes, st.tuples(st.sampled_from("abc"), sizes)), max_size=5), st.data())
def test_bind_undoes_shape(axes: list[Any], data: st.DataObject) -> None:
    spec = TensorSpec(
        name="x",
        dtype="float32",
        axes=tuple(axis if isinstance(axis, int) else Axis(name=axis[0], multiple=axis[1]) for axis in axes),
    )
    free = {name: data.draw(sizes) for name in spec.axis_names()}
    array = np.broadcast_to(np.float32(0), shape_of(spec, free))
    assert bind_axes([spec], {"x": array}) == free
