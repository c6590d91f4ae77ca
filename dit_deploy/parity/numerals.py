"""Numbers as a page prints them."""

from __future__ import annotations

import math

__all__ = ["decibels", "power", "scientific", "significant"]

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def power(exponent: int) -> str:
    """Return ``10⁻⁴`` for −4."""
    return f"10{str(exponent).translate(_SUPERSCRIPTS)}"


def scientific(value: float) -> str:
    """Return ``1.4 × 10⁻⁶``, ``10⁻⁴`` for a round power, ``0`` and ``not finite``; no break within."""
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return "not finite"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return power(int(exponent)) if mantissa == "1.0" else f"{mantissa} × {power(int(exponent))}"


def significant(value: float, digits: int = 2) -> str:
    """Return ``value`` rounded to so many significant digits, without an exponent where that stays short."""
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return scientific(value)
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{round(value, decimals):,.{decimals}f}"


def decibels(value: float) -> str:
    """Return a PSNR: ``52.3 dB``, ``equal`` for an infinite one."""
    if math.isfinite(value):
        return f"{value:.1f} dB"
    return "equal" if value > 0 else "not finite"
