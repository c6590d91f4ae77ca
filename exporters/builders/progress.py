"""TensorRT's phases within phases → one number that only grows, and a way to stop a build."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["STEPS", "Phases", "Progress", "monitor"]

#: A build's progress is reported as so many steps of this many.
STEPS = 1000

#: Called with the name of the innermost phase, and how many of how many steps the whole build has done.
Progress = Callable[[str, int, int], None]


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class Phases:
    """The phases that are open, as an ``IProgressMonitor`` is told of them.

    A phase's own phases share the one step of it that is being done. ::

        phases.start("Building engine", None, 4)                # 0
        phases.step("Building engine", 0)                       # 1/4
        phases.start("Timing", "Building engine", 10)
        phases.step("Timing", 4)                                # 1/4 + 1/4 · 5/10
    """

    def __init__(self) -> None:
        self._open: dict[str, _Phase] = {}
        self._most = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """Open a phase of so many steps."""
        self._open[name] = _Phase(parent, max(1, steps))

    def step(self, name: str, step: int) -> None:
        """Step ``step`` of a phase, counted from 0, is done."""
        if name in self._open:
            self._open[name].done = step + 1

    def finish(self, name: str) -> None:
        """Close a phase."""
        self._open.pop(name, None)

    @property
    def innermost(self) -> str:
        """The name of the phase that was opened last, or empty."""
        return next(reversed(self._open), "")

    def fraction(self) -> float:
        """Return what of the whole is done, 0 … 1; never less than it was before."""
        below = 0.0
        name: str | None = self.innermost
        while name in self._open:
            phase = self._open[name]
            below = min(1.0, (phase.done + below) / phase.steps)
            name = phase.parent
        self._most = max(self._most, below)
        return self._most


def monitor(trt: Any, report: Progress, stopped: Callable[[], bool], pause: float = 0.05) -> Any:
    """Return an ``IProgressMonitor`` of the TensorRT module ``trt``.

    Args:
        report: told of a new phase, and of progress within one, at most once in ``pause`` seconds.
        stopped: asked after each step; where it is true the build ends without an engine.
    """
    phases = Phases()

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            # pybind11 wants the base's own, by name: super() may find another class's.
            trt.IProgressMonitor.__init__(self)
            self._told = (-pause, "", -1)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, parent_phase, num_steps)
            self._tell()

        def step_complete(self, phase_name: str, step: int) -> bool:
            phases.step(phase_name, step)
            self._tell()
            return not stopped()

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

        def _tell(self) -> None:
            now, name, step = time.monotonic(), phases.innermost, int(STEPS * phases.fraction())
            if now - self._told[0] >= pause and (name, step) != self._told[1:]:
                self._told = (now, name, step)
                report(name, step, STEPS)

    return Monitor()
