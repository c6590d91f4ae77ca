"""Error over steps as an inline SVG: logarithmic, with the limit, readable without colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from dit_deploy.parity.numerals import power, scientific
from dit_deploy.parity.report import Run

__all__ = ["error_plot"]

_WIDTH, _HEIGHT = 760, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 16, 46
#: More steps than this get no dots of their own; they would run into a band.
_DOTS = 60


def error_plot(run: Run, limit: float, identity: str) -> str:
    """Return the SVG of a run's two curves.

    Args:
        limit: of the accumulated error, drawn as a line.
        identity: prefix of the ids in the SVG, one of its own in the page.
    """
    axes = _Axes(run, limit)
    worst = max(run.accumulated)
    summary = (
        f"After {run.steps} steps the latents differ by {scientific(run.accumulated[-1])} of their largest value, "
        f"at worst by {scientific(worst)}; the limit is {scientific(limit)}."
    )
    single = list(enumerate(run.single_step, start=1))
    accumulated = list(enumerate(run.accumulated))
    return "\n".join(
        [
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-labelledby="{identity}-t {identity}-d">',
            f'<title id="{identity}-t">Error of the latents over steps: {escape(run.name)}</title>',
            f'<desc id="{identity}-d">{escape(summary)}</desc>',
            *axes.grid(),
            f'<line class="limit" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{axes.y(limit)}" y2="{axes.y(limit)}"/>',
            f'<text class="limit-label" x="{_WIDTH - _RIGHT}" y="{axes.y(limit) - 6:.1f}" text-anchor="end">'
            f"limit {scientific(limit)}</text>",
            *axes.curve(single, "single"),
            *axes.curve(accumulated, "accumulated"),
            *axes.tooltips(run),
            "</svg>",
        ]
    )


class _Axes:
    """Maps steps and errors to the drawing, and draws what frames them."""

    def __init__(self, run: Run, limit: float) -> None:
        values = [value for value in (*run.accumulated, *run.single_step, limit) if 0 < value < math.inf]
        self.steps = run.steps
        self.low = math.floor(math.log10(min(values)))
        self.high = max(math.ceil(math.log10(max(values))), math.floor(math.log10(limit)) + 1)

    def x(self, step: float) -> float:
        return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * step / self.steps, 1)

    def y(self, error: float) -> float:
        """Place an error; 0 lies on the lower edge, what is not finite on the upper one."""
        exponent = self.low if error <= 0 else self.high if not error < math.inf else math.log10(error)
        part = (exponent - self.low) / (self.high - self.low)
        return round(_HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * part, 1)

    def grid(self) -> list[str]:
        """Return the decades with their lines, the steps' ticks, and the axes' names."""
        parts = []
        every = -(-(self.high - self.low) // 8)
        for exponent in range(self.low, self.high + 1):
            y = self.y(10.0**exponent)
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
            if (exponent - self.low) % every == 0:
                parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{power(exponent)}</text>')
        bottom = _HEIGHT - _BOTTOM
        for step in range(0, self.steps + 1, _tick(self.steps)):
            x = self.x(step)
            parts.append(f'<line class="tick" x1="{x}" x2="{x}" y1="{bottom}" y2="{bottom + 5}"/>')
            parts.append(f'<text x="{x}" y="{bottom + 19}" text-anchor="middle">{step}</text>')
        across, middle = (_LEFT + _WIDTH - _RIGHT) / 2, (_TOP + bottom) / 2
        parts.append(f'<text class="axis" x="{across}" y="{_HEIGHT - 6}" text-anchor="middle">steps done</text>')
        parts.append(
            f'<text class="axis" transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">'
            "difference ÷ largest value</text>"
        )
        return parts

    def curve(self, points: Sequence[tuple[int, float]], name: str) -> list[str]:
        """Return a line through (step, error), with dots where there is room for them."""
        placed = [(self.x(step), self.y(error)) for step, error in points]
        line = " ".join(f"{x},{y}" for x, y in placed)
        dots = [f'<circle class="{name}" cx="{x}" cy="{y}" r="2.4"/>' for x, y in placed]
        if len(placed) > _DOTS:
            dots.clear()
        return [f'<polyline class="{name}" points="{line}"/>', *dots]

    def tooltips(self, run: Run) -> list[str]:
        """Return an invisible column for each step that names its values when it is pointed at."""
        width = (_WIDTH - _LEFT - _RIGHT) / self.steps
        columns = []
        for step, error in enumerate(run.accumulated):
            words = f"before the first step: {scientific(error)}"
            if step:
                single, timestep = scientific(run.single_step[step - 1]), run.timesteps[step - 1]
                words = f"after step {step}: {scientific(error)}, this step alone {single} (timestep {timestep:g})"
            x = max(_LEFT, self.x(step) - width / 2)
            columns.append(
                f'<rect class="hit" x="{x:.1f}" y="{_TOP}" width="{width:.1f}" height="{_HEIGHT - _TOP - _BOTTOM}">'
                f"<title>{escape(words)}</title></rect>"
            )
        return columns


def _tick(steps: int) -> int:
    """Return a round distance between ticks that gives at most eleven of them."""
    return next(size for size in (1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000, steps) if steps / size <= 10)
