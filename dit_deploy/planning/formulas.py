"""What one call of a published transformer costs, by closed formulas; no weights are needed.

Counted are the products of every block: projections, attention, feed-forward, modulation. With h the hidden size, a
token passes 4 h² weights of attention and 2 h f of a feed-forward of inner width f; attention's own two products cost
4 h operations for each pair of tokens, and a pair is a query with one key: N² of N tokens that all see each other,
N · M where each sees its M nearest. Embedders and the last layer are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from dit_deploy.errors import InputError
from dit_deploy.planning.architectures import Architecture, architecture_of
from dit_deploy.planning.costs import GraphCosts
from dit_deploy.planning.grids import Grid

__all__ = ["architecture_costs", "transformer_costs"]


def architecture_costs(name: str, batch: int, tokens: int, bytes_each: int) -> GraphCosts:
    """Return what one call of the denoiser ``name`` costs for ``batch`` pictures of ``tokens`` patches.

    Raises:
        InputError: the name is not known.
    """
    return transformer_costs(architecture_of(name), batch, Grid(1, 1, tokens, 1, 1, 1), bytes_each)


def transformer_costs(
    one: Architecture, batch: int, grid: Grid, bytes_each: int, window: int | None = None
) -> GraphCosts:
    """Return what one call of the denoiser costs for ``batch`` samples.

    Args:
        grid: the patches of a sample.
        bytes_each: of an activation.
        window: patches that each patch attends to, itself among them; ``None``: all. Text is seen by all.

    Raises:
        InputError: the window is below 1, or the model's attention is factorised and has none to widen.
    """
    if window is not None and window < 1:
        raise InputError(f"window: {window} came, an integer of 1 or more was expected")
    if window is not None and one.factorised:
        raise InputError("window: this model attends within a frame and across frames in turn; it has no window")
    counts = {"cross": _cross, "joint": _joint, "shared": _shared}[one.text](one, grid, window)
    square = one.hidden**2
    if one.token_timesteps:
        counts.operations += 2.0 * 6 * square * (grid.tokens - 1)  # that of one is counted already
    operations = batch * (counts.operations + counts.attention)
    # the residual stream, a block's normed input, and the widest layer's output, where one layer is all 7 h; queries,
    # keys and values, and what attention makes of them, are 5 h in all
    wide = 7.0 if one.single else max(3.0, one.inner / one.hidden)
    held = (2 + wide + (6 if one.token_timesteps else 0)) * one.hidden
    activations = float(batch * counts.widest * held * bytes_each)
    return GraphCosts(
        operations, batch * counts.attention, int(counts.weights), activations, bytes_each, int(counts.block)
    )


@dataclass
class _Counts:
    """Of one sample: weights, those of the largest block, operations without attention's, its, tokens at once."""

    weights: float
    block: float
    operations: float
    attention: float
    widest: int


def _cross(one: Architecture, grid: Grid, window: int | None) -> _Counts:
    h, square, inner = one.hidden, one.hidden**2, one.inner
    tokens, text = grid.tokens, one.text_tokens
    own = 4 * square + 2 * h * inner
    cross = 4 * square if text else 0
    block = own + cross + one.modulation * square
    once = (2 if one.modulation else 6) * square  # the last layer's shift and scale, or those of all blocks
    modulated = 2.0 * square * max(one.depth * one.modulation, 6)
    if not one.factorised:
        projected = one.depth * 2.0 * (own * tokens + (2 * square * (tokens + text) if text else 0))
        attention = one.depth * 4.0 * h * tokens * (_seen(tokens, window) + text)
        return _Counts(one.depth * block + once, block, projected + modulated, attention, tokens)
    # each frame reads the text for itself
    frame = grid.rows * grid.columns
    projected = one.depth * 2.0 * (2 * own * tokens + 2 * square * (tokens + text * grid.frames))
    attention = one.depth * 4.0 * h * tokens * (frame + text + grid.frames)
    return _Counts(one.depth * (block + own) + once, block, projected + modulated, attention, tokens)


def _joint(one: Architecture, grid: Grid, window: int | None) -> _Counts:
    h, square, inner = one.hidden, one.hidden**2, one.inner
    tokens, text = grid.tokens, one.text_tokens
    own = 4 * square + 2 * h * inner
    together = tokens + text
    double, single = 2 * (own + one.modulation * square), own + 3 * square
    weights = one.depth * double + one.single * single
    operations = 2.0 * own * together * (one.depth + one.single)
    operations += 2.0 * square * (one.depth * 2 * one.modulation + one.single * 3)
    attention = 4.0 * h * _pairs(tokens, text, window) * (one.depth + one.single)
    if not one.single:
        # nothing reads the text after SD3's last block: no projection, feed-forward, four of six shifts
        weights -= square + 2 * h * inner + 4 * square
        operations -= 2.0 * (square + 2 * h * inner) * text + 2.0 * 4 * square
    refined = own + 2 * square  # attention, feed-forward, two gates
    weights += one.refiner * refined
    operations += one.refiner * 2.0 * (own * text + 2 * square)
    attention += one.refiner * 4.0 * h * text**2
    return _Counts(weights, double, operations, attention, together)


def _shared(one: Architecture, grid: Grid, window: int | None) -> _Counts:
    h, square, inner = one.hidden, one.hidden**2, one.inner
    tokens, text = grid.tokens, one.text_tokens
    own = 4 * square + 2 * h * inner
    modulation = one.modulation * h * (one.time_width or h)
    operations = one.depth * 2.0 * (own * (tokens + text) + modulation)
    attention = one.depth * 4.0 * h * _pairs(tokens, text, window)
    block = own + modulation
    return _Counts(one.depth * block, block, operations, attention, tokens + text)


def _seen(tokens: int, window: int | None) -> int:
    """Return how many patches a patch attends to."""
    return tokens if window is None else min(window, tokens)


def _pairs(tokens: int, text: int, window: int | None) -> float:
    """Return the pairs of attention in which text and patches are one sequence: text is seen by all, and sees all."""
    return float(tokens * (_seen(tokens, window) + text) + text * (tokens + text))
