"""Phases within phases → one number that only grows."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from dit_deploy.exporters.builders.progress import Phases, monitor


def test_phases() -> None:
    phases = Phases()
    seen = []

    def note() -> None:
        seen.append(phases.fraction())

    note()
    phases.start("Building", None, 4)
    phases.step("Building", 0)
    note()
    phases.start("Timing", "Building", 10)
    assert phases.innermost == "Timing"
    phases.step("Timing", 4)
    note()
    phases.start("Tactic", "Timing", 2)
    phases.step("Tactic", 0)
    note()
    phases.finish("Tactic")
    note()  # not back to where the tactic began
    phases.step("Timing", 9)
    phases.finish("Timing")
    phases.step("Building", 1)
    note()
    assert seen == pytest.approx([0, 1 / 4, 1 / 4 + 5 / 40, 1 / 4 + 5.5 / 40, 1 / 4 + 5.5 / 40, 2 / 4])


def test_odd_reports_do_no_harm() -> None:
    phases = Phases()
    phases.step("never begun", 3)
    phases.finish("never begun")
    phases.start("none at all", None, 0)
    phases.step("none at all", 7)
    assert phases.fraction() == 1
    phases.start("of no parent", "never begun", 2)
    assert phases.fraction() == 1


def test_monitor_tells_and_stops() -> None:
    class Base:
        pass

    told: list[tuple[str, int, int]] = []
    stopped = [False]
    made = monitor(SimpleNamespace(IProgressMonitor=Base), lambda *step: told.append(step), lambda: stopped[0], pause=0)
    made.phase_start("Building", None, 2)
    assert made.step_complete("Building", 0)
    made.phase_start("Timing", "Building", 4)
    assert made.step_complete("Timing", 1)
    stopped[0] = True
    assert not made.step_complete("Timing", 2)
    made.phase_finish("Timing")
    assert told == [
        ("Building", 0, 1000),
        ("Building", 500, 1000),
        ("Timing", 500, 1000),
        ("Timing", 750, 1000),
        ("Timing", 875, 1000),
    ]


def test_monitor_does_not_tell_too_often() -> None:
    told: list[tuple[str, int, int]] = []
    made = monitor(SimpleNamespace(IProgressMonitor=object), lambda *step: told.append(step), lambda: False, pause=60)
    made.phase_start("Building", None, 1000)
    for step in range(1000):
        made.step_complete("Building", step)
    assert told == [("Building", 0, 1000)]
