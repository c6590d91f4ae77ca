"""A training run on a few CPU cores that ends on time: a rate that falls with the clock, files that are never half."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch


def progress(seconds: float, before: float = 0.0) -> Iterator[tuple[int, float]]:
    """Count steps from 0 until `seconds` are over: (step, share of the run that is over, 0..1).

    A run that goes on counts the seconds `before` too.
    """
    start, step = time.monotonic(), 0
    while (share := (before + time.monotonic() - start) / seconds) < 1.0:
        yield step, share
        step += 1


def trapezoid(share: float, step: int, warmup: int, fall: float) -> float:
    """The learning rate's factor in 0..1: a linear rise over `warmup` steps, a plateau, a half cosine over `fall`."""
    rise = min(1.0, (step + 1) / warmup)
    left = min(1.0, max(0.0, 1.0 - share) / fall)
    return rise * 0.5 * (1.0 - math.cos(math.pi * left))


def take_step(loss: torch.Tensor, optimiser: torch.optim.Optimizer, rate: float, clip: float = 1.0) -> float:
    """One optimiser step at this learning rate with the gradient's norm cut at `clip`; gives the loss."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_([one for group in optimiser.param_groups for one in group["params"]], clip)
    optimiser.step()
    return float(loss.detach())


def save_state(state: dict[str, Any], file: Path) -> None:
    """Write what a run needs to go on; a reader never sees half of it."""
    partial = file.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, file)
