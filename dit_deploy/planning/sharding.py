"""How many GPUs hold a model that one does not: its weights in equal parts, its tokens too where that is wanted.

Weights are sharded as FSDP shards them: each GPU keeps an equal part, and gathers one block whole while it computes it.
Activations are either whole on each GPU, or in equal parts by tokens with attention by heads (Ulysses: Jacobs et al.
2023), so that nothing is whole anywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Gpus", "gpus_needed"]


@dataclass(frozen=True)
class Gpus:
    """How many GPUs of ``memory`` bytes hold a run; ``None``: no number does.

    Attributes:
        weights_sharded: with the weights in parts, and one call's activations whole on each.
        tokens_split: with the activations in parts, too.
    """

    memory: float
    weights_sharded: int | None
    tokens_split: int | None


def gpus_needed(memory: float, weights: float, block: float, activations: float) -> Gpus:
    """Return how many GPUs of ``memory`` bytes hold it.

    Args:
        weights: bytes of all weights.
        block: bytes of the largest block, whole on each GPU where there are several.
        activations: bytes of the largest call.
    """
    if weights + activations <= memory:
        return Gpus(memory, 1, 1)
    return Gpus(
        memory,
        _count(weights, memory - block - activations),
        _count(weights + activations, memory - block),
    )


def _count(parts: float, room: float) -> int | None:
    return max(2, math.ceil(parts / room)) if room > 0 else None
