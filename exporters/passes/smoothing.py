"""SmoothQuant (Xiao et al. 2023, arXiv 2211.10438): move outlying channels of activations into the weights.

Channel j of an activation X is divided by s_j = max|X_j| ** α / max|W_j| ** (1 − α), and row j of the weights W that
read it is multiplied by s_j. The division is folded into what made the activation, so the graph computes what it did
before, with the same nodes:

    adaLN           LayerNorm(h) · (1 + scale) + shift, where scale and shift are chunks of a modulation layer's output:
                    their columns are divided by s, and the constant 1 becomes the vector 1 / s. The bias could take
                    that instead, as (1 + b) / s − 1; but in 16 bits the sum with 1 then cancels: for s = 10 FP16 would
                    be wrong by up to 0.24 % of a channel.
    normalisation   with a weight of its own: weight and bias are divided.
    attention       the output projection reads softmax · V, whose channels are to_v's: its columns are divided.

What a nonlinear function gives, such as the input of mlp_out, cannot be folded, and its layer is left as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dit_deploy.errors import InputError
from dit_deploy.exporters.passes._folds import Fold, find_fold
from dit_deploy.exporters.passes._rescale import multiply_rows
from dit_deploy.exporters.passes.linear import Linear, choose_linears, find_linears

__all__ = ["Folded", "Smoothing", "smooth"]

#: Channels below this part of the largest count as that: 8 bits do not see them, and s must stay within a few decades.
_FLOOR = 2.0**-10


@dataclass(frozen=True, eq=False)
class Folded:
    """One smoothed activation.

    Attributes:
        layers: the names of all layers that read it.
        factors: s, float32 [in]; the activation is now what it was, divided by this.
        into: what the division was folded into, e.g. ``blocks.0.modulation``.
    """

    layers: tuple[str, ...]
    factors: np.ndarray
    into: str


@dataclass(frozen=True)
class Smoothing:
    """What was folded, and for each layer that was left, why."""

    folded: tuple[Folded, ...]
    left: dict[str, str]


def smooth(
    model: ir.Model, channel_maxima: Mapping[str, np.ndarray], alpha: float = 0.5, *, kept: Collection[str] = ()
) -> Smoothing:
    """Smooth the activations of the layers that would be quantised, in place and exactly, up to float32's rounding.

    Run it on the float32 graph, before the layers are quantised. Scales and statistics of the activations hold for the
    graph as it was: gather them anew, or divide per-channel ones by ``factors``. Weights stored in 16 bits become
    float32 where they are changed, since rounding them a second time would not be exact.

    Args:
        channel_maxima: layer → max|X_j| of its activation, [in]. A layer without them is left.
        alpha: how much of the difficulty moves into the weights: 0 none … 1 all.
        kept: names or glob patterns of layers that will not be quantised. One that shares its activation with a layer
            that will be changes with it, as exactly.

    Raises:
        InputError: ``alpha`` is not in 0 … 1, maxima are of the wrong size or not finite, or a pattern matches nothing.
    """
    if not 0.0 <= alpha <= 1.0:
        raise InputError(f"alpha: {alpha!r} came, expected a number from 0 to 1")
    graph = model.graph
    linears = find_linears(graph)
    chosen = {linear.name for linear in choose_linears(graph, kept).chosen}
    groups: dict[ir.Value, list[Linear]] = {}
    for linear in linears:
        groups.setdefault(linear.activation, []).append(linear)
    wanted = [group for group in groups.values() if any(linear.name in chosen for linear in group)]
    folds = [(group, find_fold(graph, group, linears)) for group in wanted]
    # Attention first: to_v's columns change with it, and its own smoothing is to see the weights as they then are.
    folds.sort(key=lambda pair: not (isinstance(pair[1], Fold) and pair[1].first))
    folded: list[Folded] = []
    left: dict[str, str] = {}
    for group, fold in folds:
        names = tuple(linear.name for linear in group)
        maxima = [_checked(linear, channel_maxima[linear.name]) for linear in group if linear.name in channel_maxima]
        if isinstance(fold, str) or not maxima:
            left |= {name: fold if isinstance(fold, str) else "no channel maxima were given" for name in names}
            continue
        factors = _factors(np.max(maxima, axis=0), [linear.array() for linear in group], alpha)
        fold.divide(factors)
        for linear in group:
            multiply_rows(linear, factors)
        folded.append(Folded(names, factors, fold.into))
    order = {linear.name: index for index, linear in enumerate(linears)}
    return Smoothing(tuple(sorted(folded, key=lambda one: order[one.layers[0]])), left)


def _checked(linear: Linear, maxima: np.ndarray) -> np.ndarray:
    if maxima.shape != (linear.in_features,) or not np.isfinite(maxima).all() or (maxima < 0).any():
        raise InputError(
            f"channel_maxima: {linear.name} has an array of shape {maxima.shape}, expected {linear.in_features} finite "
            "numbers that are not negative; calibrate the bundle again"
        )
    return maxima


def _factors(maxima: np.ndarray, weights: list[np.ndarray], alpha: float) -> np.ndarray:
    """Return s [in] from max|X_j| and the weights [in, out] that read X; 1 where either is zero throughout."""
    rows = np.max([np.maximum(weight.max(axis=1), -weight.min(axis=1)) for weight in weights], axis=0)
    x, w = maxima.astype(np.float64), rows.astype(np.float64)
    if not x.any() or not w.any():
        return np.ones(len(x), np.float32)
    factors = np.maximum(x, _FLOOR * x.max()) ** alpha / np.maximum(w, _FLOOR * w.max()) ** (1.0 - alpha)
    return np.where((x > 0) & (w > 0), factors, 1.0).astype(np.float32)
