"""Logarithm, sine and cosine in float32 that are the same to the last bit on every machine, and in C++.

numpy's own take whatever instructions the processor has, and the C library's take others: they differ by a unit in the
last place. A sampler may multiply that by a thousand, and a quantised network by a million. Here every step is an
addition, a multiplication or a conversion, whose results IEEE 754 fixes; ``runtimes/cpp/src/sampling/noise.cpp`` has
the same ones in the same order. The polynomials are those of Cephes (Moshier 1989), within 2 units in the last place
for the arguments that occur.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["logarithm", "sine_cosine"]

Array = NDArray[np.float32]

_F = np.float32
_ROOT_HALF_BITS = np.uint32(0x3F3504F3)  # of √½
_MANTISSA = np.uint32(0x007FFFFF)
_LOGARITHM = tuple(map(_F, (
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
    2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
)))  # fmt: skip
_LN2_HIGH, _LN2_LOW = _F(0.693359375), _F(-2.12194440e-4)
#: π/2 in three parts, of which the first ones are multiplied exactly.
_HALF_PI = (_F(1.5703125), _F(4.837512969970703125e-4), _F(7.54978995489188216e-8))
_TWO_OVER_PI = _F(0.636619772)
_SINE = (_F(-1.9515295891e-4), _F(8.3321608736e-3), _F(-1.6666654611e-1))
_COSINE = (_F(2.443315711809948e-5), _F(-1.388731625493765e-3), _F(4.166664568298827e-2))


def logarithm(x: Array) -> Array:
    """Return ln x for 2⁻²⁴ ≤ x ≤ 1, float32 of the same shape."""
    # x = 2^exponent · (1 + f) with 1 + f in √½ … √2
    shifted = x.view(np.uint32) - _ROOT_HALF_BITS
    exponent = (shifted.view(np.int32) >> 23).astype(_F)
    shifted &= _MANTISSA
    shifted += _ROOT_HALF_BITS
    f = shifted.view(_F)
    f -= _F(1)
    polynomial = _horner(_LOGARITHM, f)
    square = f * f
    polynomial *= square
    polynomial *= f
    polynomial += exponent * _LN2_LOW
    square *= _F(0.5)
    polynomial -= square
    f += polynomial
    exponent *= _LN2_HIGH
    f += exponent
    return f


def sine_cosine(angle: Array) -> tuple[Array, Array]:
    """Return sine and cosine for 0 ≤ angle ≤ 2π, float32 of the same shape."""
    # angle = quarter · π/2 + rest
    scaled = angle * _TWO_OVER_PI
    scaled += _F(0.5)
    quarter = scaled.astype(np.int32)
    whole = quarter.astype(_F)
    rest = angle - whole * _HALF_PI[0]
    rest -= whole * _HALF_PI[1]
    rest -= whole * _HALF_PI[2]
    square = rest * rest
    sine = _horner(_SINE, square)
    sine *= square
    sine *= rest
    sine += rest
    cosine = _horner(_COSINE, square)
    cosine *= square
    cosine *= square
    square *= _F(0.5)
    cosine -= square
    cosine += _F(1)
    # by quarters the sine is s, c, −s, −c and the cosine c, −s, −c, s
    odd = (quarter & 1).astype(np.bool_)
    one, other = np.where(odd, cosine, sine), np.where(odd, sine, cosine)
    np.negative(one, out=one, where=(quarter & 2).astype(np.bool_))
    np.negative(other, out=other, where=((quarter + 1) & 2).astype(np.bool_))
    return one, other


def _horner(coefficients: tuple[np.float32, ...], x: Array) -> Array:
    """Return the polynomial with these coefficients, that of the highest power first."""
    total = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total *= x
        total += coefficient
    return total
