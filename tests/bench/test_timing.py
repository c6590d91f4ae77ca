"""Timing: order of the rounds, statistics, ratios."""

from __future__ import annotations

import pytest

from dit_deploy.bench import timing
from dit_deploy.bench.timing import Timing, calls_for, interleave, repeated


def test_rounds_are_interleaved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_SETTLE_SECONDS", 0.0)
    order: list[str] = []
    said: list[str] = []

    def work(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = interleave({name: lambda name=name: work(name) for name in "AB"}, 3, said.append)  # type: ignore[misc]
    assert order == list("ABABAB")
    assert found == {"A": Timing((1.0, 3.0, 5.0)), "B": Timing((2.0, 4.0, 6.0))}
    assert len(said) == 3


def test_statistics() -> None:
    found = Timing((3.0, 1.0, 2.0)).to_dict()
    assert found == {"min": 1.0, "median": 2.0, "max": 3.0, "n": 3, "samples": [3.0, 1.0, 2.0]}


def test_a_ratio_is_taken_round_by_round() -> None:
    """A noisy machine that halves everybody's speed in one round changes no ratio."""
    assert Timing((2.0, 40.0, 2.0)).ratio(Timing((4.0, 80.0, 4.0))) == 0.5


def test_short_work_is_repeated() -> None:
    assert calls_for(1.0) == 1
    assert calls_for(0.001) == 100
    calls: list[int] = []
    assert repeated(lambda: calls.append(1), 5)() >= 0
    assert len(calls) == 5
