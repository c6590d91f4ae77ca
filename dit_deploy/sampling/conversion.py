"""What a denoiser predicts, as linear functions of its sample and its output.

With sample = signal · x₀ + noise · ε, the predictions are ε, x₀ ("sample"), v = signal · ε − noise · x₀ (Salimans &
Ho 2022) and, for flow matching, ε − x₀ with signal = 1 − noise (Liu et al. 2022). Each function returns
(coefficient of the sample, coefficient of the output).
"""

from __future__ import annotations

import math

import numpy as np

__all__ = ["derivative_from", "epsilon_from", "sample_from"]

Pair = tuple[float, float]


def sample_from(prediction_type: str, signal: float, noise: float) -> Pair:
    """Return x₀; infinite for ``epsilon`` where the signal is 0."""
    if prediction_type == "epsilon":
        return _ratio(1.0, signal), -_ratio(noise, signal)
    if prediction_type == "v_prediction":
        return signal, -noise
    if prediction_type == "flow_prediction":
        return 1.0, -noise
    return 0.0, 1.0


def epsilon_from(prediction_type: str, signal: float, noise: float) -> Pair:
    """Return ε; infinite for ``sample`` where there is no noise."""
    if prediction_type == "sample":
        return _ratio(1.0, noise), -_ratio(signal, noise)
    if prediction_type == "v_prediction":
        return noise, signal
    return 0.0, 1.0


def derivative_from(prediction_type: str, sigma: float) -> Pair:
    """Return (sample − x₀) / sigma where sample = x₀ + sigma · ε and the denoiser saw sample / √(sigma² + 1)."""
    if prediction_type == "epsilon":
        return 0.0, 1.0
    if prediction_type == "v_prediction":
        return sigma / (sigma**2 + 1), 1 / math.sqrt(sigma**2 + 1)
    return _ratio(1.0, sigma), -_ratio(1.0, sigma)


def _ratio(numerator: float, denominator: float) -> float:
    return float(np.divide(numerator, denominator)) if denominator else math.inf
