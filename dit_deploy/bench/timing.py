"""Time several things side by side, so that a noisy machine hurts all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Timing", "calls_for", "interleave", "repeated"]

#: Threads of one library spin for some milliseconds after their work, and would slow the next library's start.
_SETTLE_SECONDS = 0.05
#: A sample shorter than this is measured as the mean of several calls.
_SAMPLE_SECONDS = 0.1


@dataclass(frozen=True)
class Timing:
    """Seconds of the same work, one sample a round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle sample."""
        return statistics.median(self.seconds)

    def ratio(self, baseline: Timing) -> float:
        """Return this time over the baseline's, the median over the rounds: below 1 is faster.

        Round by round, because what slowed a round slowed both.
        """
        return statistics.median(own / other for own, other in zip(self.seconds, baseline.seconds, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Return ``min``, ``median``, ``max``, ``n`` and the samples, in seconds."""
        return {
            "min": min(self.seconds),
            "median": self.median,
            "max": max(self.seconds),
            "n": len(self.seconds),
            "samples": list(self.seconds),
        }


def interleave(
    work: Mapping[str, Callable[[], float]], rounds: int, say: Callable[[str], None] | None = None
) -> dict[str, Timing]:
    """Call each function of ``work``, which returns its seconds, in the order A B C A B C …, ``rounds`` times.

    Nothing is discarded: warm up before.
    """
    samples: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds):
        for name, call in work.items():
            time.sleep(_SETTLE_SECONDS)
            samples[name].append(call())
        if say is not None:
            texts = ", ".join(f"{name} {seconds[-1]:.3g} s" for name, seconds in samples.items())
            say(f"  round {number + 1} of {rounds}: {texts}")
    return {name: Timing(tuple(seconds)) for name, seconds in samples.items()}


def calls_for(seconds: float) -> int:
    """Return how many calls of so many seconds make one sample."""
    return max(1, round(_SAMPLE_SECONDS / max(seconds, 1e-6)))


def repeated(call: Callable[[], object], calls: int) -> Callable[[], float]:
    """Return a function that makes ``calls`` calls and returns the mean seconds of one."""

    def timed() -> float:
        started = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - started) / calls

    return timed
