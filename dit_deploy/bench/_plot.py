"""A small log-log plot as SVG, readable on light and dark pages and without colours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Panel", "draw"]

_WIDTH, _HEIGHT = 400, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 34, 64
_COLOURS = ("#0b62a4", "#c2570c", "#4a7d20", "#7a3e9d")
_DASHES = ("none", "7 4", "2 3", "9 3 2 3")


@dataclass(frozen=True)
class Panel:
    """One of the plots beside each other.

    Attributes:
        title: what is on the y axis, with its unit.
        curves: name → points (x, y), all above 0.
        slope: draw a thin line of this slope through the first point of the first curve; ``None``: none.
    """

    title: str
    curves: Mapping[str, Sequence[tuple[float, float]]]
    slope: float | None = 1.0


def draw(panels: Sequence[Panel], x_title: str, summary: str) -> str:
    """Return the SVG of panels beside each other, which share their x axis' title.

    ``summary`` says in words what is to be seen.
    """
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH * len(panels)} {_HEIGHT}" role="img" '
        'font-family="sans-serif" font-size="12">',
        f"<title>{escape(summary)}</title>",
        f'<rect width="{_WIDTH * len(panels)}" height="{_HEIGHT}" fill="white"/>',
    ]
    for number, panel in enumerate(panels):
        parts += [f'<g transform="translate({number * _WIDTH} 0)">', *_panel(panel, x_title), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel, x_title: str) -> list[str]:
    points = [point for curve in panel.curves.values() for point in curve]
    x_low, x_high = (math.log10(pick(x for x, _ in points)) for pick in (min, max))
    y_low = math.floor(math.log10(min(y for _, y in points)))
    y_high = math.ceil(math.log10(max(y for _, y in points)))
    across, bottom = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        along = (math.log10(x) - x_low) / (x_high - x_low or 1)
        up = (math.log10(y) - y_low) / (y_high - y_low or 1)
        return round(_LEFT + across * along, 1), round(bottom - (bottom - _TOP) * up, 1)

    parts = [f'<text x="{_LEFT}" y="20" font-weight="bold">{escape(panel.title)}</text>']
    for exponent in range(y_low, y_high + 1):
        _, y = place(points[0][0], 10.0**exponent)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{10.0**exponent:,g}</text>')
    for tick in sorted({x for x, _ in points}):
        x, _ = place(tick, 10.0**y_low)
        parts.append(f'<line x1="{x}" x2="{x}" y1="{bottom}" y2="{bottom + 5}" stroke="#333"/>')
        parts.append(f'<text x="{x}" y="{bottom + 19}" text-anchor="middle">{tick:,g}</text>')
    parts.append(f'<text x="{_LEFT + across / 2}" y="{bottom + 36}" text-anchor="middle">{escape(x_title)}</text>')
    if panel.slope is not None:
        parts.append(_guide(panel, place))
    for number, (name, curve) in enumerate(panel.curves.items()):
        parts += _curve(name, [place(*point) for point in curve], number)
    return parts


def _guide(panel: Panel, place: object) -> str:
    """Return a thin line of the panel's slope, named, from the first point on."""
    assert callable(place) and panel.slope is not None
    first = next(iter(panel.curves.values()))
    (x, y), last = first[0], max(x for curve in panel.curves.values() for x, _ in curve)
    (x1, y1), (x2, y2) = place(x, y), place(last, y * (last / x) ** panel.slope)
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#999" stroke-width="0.8"/>'


def _curve(name: str, points: Sequence[tuple[float, float]], number: int) -> list[str]:
    """Return a line with dots, and its entry in the legend."""
    colour, dash = _COLOURS[number % len(_COLOURS)], _DASHES[number % len(_DASHES)]
    style = f'stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"'
    line = " ".join(f"{x},{y}" for x, y in points)
    x, y = _LEFT + 190 * number, _HEIGHT - 8
    return [
        f'<polyline points="{line}" fill="none" {style}/>',
        *(f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in points),
        f'<line x1="{x}" x2="{x + 28}" y1="{y - 4}" y2="{y - 4}" {style}/>',
        f'<text x="{x + 34}" y="{y}">{escape(name)}</text>',
    ]
