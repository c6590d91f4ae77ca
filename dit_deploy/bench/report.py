"""What a benchmark found: as a table for people, as values for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from dit_deploy.bench.timing import Timing

__all__ = ["BenchReport"]


@dataclass(frozen=True)
class BenchReport:
    """Timings of one run of :func:`dit_deploy.bench.bench`.

    Attributes:
        settings: model, size, batch, steps, threads, rounds.
        machine: see :func:`dit_deploy.bench.machine.describe`.
        baseline: whose time the ratios are relative to.
        forward: one call of the denoiser, by candidate.
        run: a whole picture, noise to decoded, by candidate.
        outside: part of a run's time that is spent outside the three graphs, by candidate, each round's.
        differences: largest difference of a candidate's prediction from the baseline's, over its largest value.
        absent: candidate → why it could not be measured.
    """

    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    baseline: str
    forward: Mapping[str, Timing]
    run: Mapping[str, Timing]
    outside: Mapping[str, Timing]
    differences: Mapping[str, float]
    absent: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values; times in seconds, ratios to the baseline (below 1 is faster)."""
        candidates = {
            name: {
                "forward": {
                    **self.forward[name].to_dict(),
                    "ratio": self.forward[name].ratio(self.forward[self.baseline]),
                },
                "run": {**self.run[name].to_dict(), "ratio": self.run[name].ratio(self.run[self.baseline])},
                "outside_graphs": self.outside[name].to_dict(),
                "difference": self.differences[name],
            }
            for name in self.forward
        }
        return {
            "format": "dit-deploy-bench",
            "version": 1,
            "settings": dict(self.settings),
            "machine": dict(self.machine),
            "baseline": self.baseline,
            "candidates": candidates,
            "absent": dict(self.absent),
        }

    def table(self) -> RenderableType:
        """Return the tables to print."""
        settings, machine = self.settings, self.machine
        head = (
            f"{settings['model']}, {settings['height']} × {settings['width']} pixels, batch {settings['batch']}; "
            f"{settings['threads']} threads on {machine['cpu']['model']} ({machine['cpu']['usable_cores']} cores, "
            f"load before {machine['load']})"
        )
        forward = self._timings(f"one denoiser call, batch {settings['forward_batch']}", self.forward, [])
        run = self._timings(f"a whole run, {settings['steps']} steps and decoding", self.run, ["outside the graphs"])
        versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        notes = [f"ratio: to {self.baseline}, median over the rounds; below 1 is faster", versions]
        return Group(head, forward, run, *notes)

    def _timings(self, title: str, timings: Mapping[str, Timing], more: list[str]) -> Table:
        table = Table(title=title, title_justify="left", title_style="bold")
        table.add_column("")
        for column in ("ratio", "median", "min", "max", "n", *(more or ["differs by"])):
            table.add_column(column, justify="right")
        for name, timing in timings.items():
            last = f"{self.outside[name].median:.2%}" if more else f"{self.differences[name]:.0e}"
            table.add_row(
                name,
                f"{timing.ratio(timings[self.baseline]):.2f}",
                *map(_seconds, (timing.median, min(timing.seconds), max(timing.seconds))),
                str(len(timing.seconds)),
                last,
            )
        for name, reason in self.absent.items():
            table.add_row(name, "–", reason)
        return table


def _seconds(value: float) -> str:
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"
