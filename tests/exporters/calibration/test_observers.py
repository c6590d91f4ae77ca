"""Histograms and scales, held against the raw data."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dit_deploy.errors import BackendError, InputError
from dit_deploy.exporters.calibration.observers import BINS, Histogram, positive_levels, scale_of

Floats = NDArray[np.float32]


def histogram(*arrays: Floats) -> Histogram:
    made = Histogram.empty()
    for array in arrays:
        made.add(array, "x")
    return made


def samples(kind: str) -> Floats:
    generator = np.random.default_rng(5)
    normal = generator.standard_normal(40_000)
    made = {
        "normal": 0.7 * normal,
        "outliers": np.where(generator.random(normal.size) < 5e-4, 60.0 * normal, normal),
        "laplace": generator.laplace(0.0, 3.0, normal.size),
        "gelu": np.where(normal > 0, normal, 0.05 * normal),
        "tiny": 1e-9 * normal,
        "bounded": generator.uniform(-2.0, 2.0, normal.size),
    }
    return made[kind].astype(np.float32)


KINDS = ["normal", "outliers", "laplace", "gelu", "tiny", "bounded"]


def quantised_error(values: Floats, scale: float, levels: str) -> float:
    """Return the mean squared error of the real thing: round to nearest even, clip, multiply back."""
    scaled = values.astype(np.float64) / scale
    if levels == "int8":
        rounded = np.clip(np.rint(scaled), -127, 127)
    else:
        rounded = np.clip(scaled, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float64)
    return float(np.mean((rounded * scale - values) ** 2))


@pytest.mark.parametrize("kind", KINDS)
def test_counts_are_numpys(kind: str) -> None:
    values = samples(kind)
    made = histogram(*np.array_split(values, 7))
    expected, _ = np.histogram(np.abs(values).astype(np.float64), bins=BINS, range=(0.0, BINS * made.width))
    np.testing.assert_array_equal(made.counts, expected)
    assert made.total == values.size
    assert made.absmax == np.abs(values).max()
    assert BINS / 2 * made.width <= made.absmax < BINS * made.width


@given(
    st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=6), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
)
def test_order_and_portions_do_not_matter(portions: list[list[float]], random: object) -> None:
    arrays = [np.array(portion, np.float32) for portion in portions]
    at_once = histogram(np.concatenate(arrays))
    shuffled = list(arrays)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one_by_one = histogram(*shuffled)
    merged = Histogram.empty()
    for array in shuffled:
        merged.merge(histogram(array))
    for other in (one_by_one, merged):
        assert (other.exponent, other.absmax) == (at_once.exponent, at_once.absmax)
        np.testing.assert_array_equal(other.counts, at_once.counts)
    # and the bins are those that the definition says
    for value in np.concatenate(arrays):
        index = int(abs(float(value)) / at_once.width)
        assert index < BINS and at_once.counts[index] > 0


def test_long_arrays_are_counted_in_portions() -> None:
    values = np.arange(3 * (1 << 20) + 5, dtype=np.float32).reshape(-1, 1)
    made = histogram(values)
    np.testing.assert_array_equal(made.counts, np.bincount((values.ravel() / made.width).astype(int), minlength=BINS))


def test_float16_counts_like_float32() -> None:
    values = samples("normal").astype(np.float16)
    np.testing.assert_array_equal(histogram(values).counts, histogram(values.astype(np.float32)).counts)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("levels", "largest"), [("int8", 127.0), ("fp8", 448.0)])
def test_max(kind: str, levels: str, largest: float) -> None:
    values = samples(kind)
    assert scale_of(histogram(values), "max", levels) == np.float32(np.abs(values).max() / largest)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("percentile", [50.0, 99.0, 99.99, 100.0])
def test_percentile_is_numpys_within_a_bin(kind: str, percentile: float) -> None:
    values = samples(kind)
    made = histogram(values)
    expected = np.percentile(np.abs(values), percentile, method="inverted_cdf")
    found = 127.0 * scale_of(made, "percentile", "int8", percentile)
    assert expected * (1 - 1e-6) <= found <= (expected + made.width) * (1 + 1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("levels", ["int8", "fp8"])
def test_mse_is_as_good_as_a_search_on_the_raw_data(kind: str, levels: str) -> None:
    values = samples(kind)
    found = quantised_error(values, scale_of(histogram(values), "mse", levels), levels)
    largest = float(np.abs(values).max()) / positive_levels(levels)[-1]
    searched = min(quantised_error(values, largest * 2.0 ** (-step / 24), levels) for step in range(24 * 8))
    assert found <= 1.005 * searched


def test_mse_clips_what_is_worth_clipping() -> None:
    values = np.append(np.tile(samples("normal"), 5), np.float32(40.0))
    clip = 127.0 * scale_of(histogram(values), "mse", "int8")
    assert 2.5 < clip < 20.0
    assert quantised_error(values, clip / 127, "int8") < 0.8 * quantised_error(values, 40.0 / 127, "int8")


def test_levels_of_fp8_are_those_of_the_format() -> None:
    expected = np.arange(0x7F, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    np.testing.assert_array_equal(positive_levels("fp8"), expected)
    assert positive_levels("fp8")[-1] == 448.0


@pytest.mark.parametrize("method", ["max", "percentile", "mse"])
@pytest.mark.parametrize("levels", ["int8", "fp8"])
class TestEdges:
    def test_all_zeros_get_a_scale_that_divides(self, method: str, levels: str) -> None:
        assert scale_of(histogram(np.zeros((3, 4), np.float32)), method, levels) == 1.0

    @pytest.mark.parametrize("value", [-3.0, 1.0, 1e-30, 3e38, 1e-45])
    def test_one_value(self, method: str, levels: str, value: float) -> None:
        scale = scale_of(histogram(np.array([value], np.float32)), method, levels)
        assert 0.0 < scale < math.inf
        if abs(value) > 1e-30:
            largest = positive_levels(levels)[-1]
            assert abs(value) / largest * 0.9 <= scale <= abs(value) / largest * 1.0001

    def test_a_single_outlier_after_zeros(self, method: str, levels: str) -> None:
        made = histogram(np.zeros(1000, np.float32), np.array([8.0], np.float32))
        assert made.counts[0] == 1000 and made.total == 1001
        assert 0.0 < scale_of(made, method, levels) <= np.float32(8.0 / positive_levels(levels)[-1])

    def test_nothing_seen(self, method: str, levels: str) -> None:
        with pytest.raises(InputError, match="no value was seen"):
            scale_of(Histogram.empty(), method, levels)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named_and_not_counted(bad: float) -> None:
    made = histogram(np.ones(4, np.float32))
    with pytest.raises(BackendError, match=r"blocks\.3\.mlp_out: holds NaN or infinite"):
        made.add(np.array([1.0, bad, 2.0], np.float32), "blocks.3.mlp_out")
    assert made.total == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("entropy",), "calibration method: 'entropy' came, expected one of max, percentile, mse"),
        (("max", "int4"), "calibration levels: 'int4' came, expected one of int8, fp8"),
        (("percentile", "int8", 0.0), "above 0, at most 100"),
        (("percentile", "int8", math.nan), "above 0, at most 100"),
    ],
)
def test_bad_arguments(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        scale_of(histogram(np.ones(4, np.float32)), *arguments)
