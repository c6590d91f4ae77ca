"""The measures against independent implementations, and at their ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from dit_deploy.parity import cosine, psnr, relative_error, ssim
from dit_deploy.parity.metrics import largest_difference

Floats = NDArray[np.float64]


def paper_ssim(x: Floats, y: Floats) -> float:
    """SSIM of two grey pictures as the paper has it: moments around each window's mean (equations 13 to 16)."""
    rows, columns = np.mgrid[-5:6, -5:6]
    window = np.exp(-(rows**2 + columns**2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * 1.0) ** 2, (0.03 * 1.0) ** 2

    def inside(picture: Floats) -> Floats:
        return ndimage.correlate(picture, window, mode="constant")[5:-5, 5:-5]

    mu_x, mu_y = inside(x), inside(y)
    sigma_x, sigma_y, sigma_xy = (np.zeros_like(mu_x) for _ in range(3))
    for (row, column), weight in np.ndenumerate(window):
        near = np.s_[row : row + mu_x.shape[0], column : column + mu_x.shape[1]]
        sigma_x += weight * (x[near] - mu_x) ** 2
        sigma_y += weight * (y[near] - mu_y) ** 2
        sigma_xy += weight * (x[near] - mu_x) * (y[near] - mu_y)
    luminance = (2 * mu_x * mu_y + c1) / (mu_x**2 + mu_y**2 + c1)
    contrast_structure = (2 * sigma_xy + c2) / (sigma_x + sigma_y + c2)
    return float(np.mean(luminance * contrast_structure))


@pytest.mark.parametrize("shape", [(11, 11), (32, 32), (28, 41), (64, 17)])
@pytest.mark.parametrize("noise", [1e-3, 0.1, 1.0])
def test_ssim_is_the_paper_s(shape: tuple[int, int], noise: float) -> None:
    generator = np.random.default_rng(0)
    x = generator.random((*shape, 3))
    y = np.clip(x + noise * generator.standard_normal(x.shape), 0, 1)
    expected = np.mean([paper_ssim(x[..., channel], y[..., channel]) for channel in range(3)])
    assert ssim(x, y) == pytest.approx(expected, abs=1e-10)


@given(height=st.integers(1, 14), width=st.integers(1, 14), channels=st.sampled_from([1, 3]), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_ssim_of_any_size(height: int, width: int, channels: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    x, y = generator.random((2, height, width, channels))
    assert ssim(x, x) == pytest.approx(1.0)
    assert ssim(x, y) == pytest.approx(ssim(y, x))
    assert -1.0 <= ssim(x, y) <= 1.0 + 1e-12


def test_psnr() -> None:
    black = np.zeros((4, 4, 3))
    assert psnr(black + 0.1, black) == pytest.approx(20.0)
    assert psnr(black + 1.0, black) == pytest.approx(0.0)
    assert psnr(black + 1 / 255, black) == pytest.approx(48.1308, abs=1e-4)
    assert psnr(black, black) == math.inf
    assert psnr(black * np.nan, black) == -math.inf


def test_relative_error() -> None:
    reference = np.array([1.0, -4.0, 0.0], np.float32)
    assert relative_error(reference + np.float32(0.5), reference) == pytest.approx(0.125)
    assert relative_error(reference, reference) == 0.0
    assert relative_error(np.zeros(3), np.zeros(3)) == 0.0
    assert relative_error(np.ones(3), np.zeros(3)) == math.inf


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_infinitely_far(bad: float) -> None:
    fine, broken = np.ones(3), np.array([1.0, bad, 1.0])
    for one, other in ((fine, broken), (broken, fine), (broken, broken)):
        assert largest_difference(one, other) == math.inf
        assert relative_error(one, other) == math.inf
        assert math.isnan(cosine(one, other))


def test_cosine() -> None:
    assert cosine(np.array([1.0, 0.0]), np.array([0.0, 2.0])) == pytest.approx(0.0)
    assert cosine(np.array([1e-200, 1e-200]), np.array([1e200, 1e200])) == pytest.approx(1.0)
    assert cosine(np.array([3.0, 4.0]), np.array([-3.0, -4.0])) == pytest.approx(-1.0)
    assert math.isnan(cosine(np.zeros(2), np.ones(2)))
