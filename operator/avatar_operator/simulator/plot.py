"""Draws the timeline of a simulation as an SVG page: sessions, pods by class, cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import floor, log10
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from avatar_operator.simulator.scenario import Sample

WIDTH: Final = 960
PANEL: Final = 230  # height of a panel
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 40, 34  # around the axes of a panel
INK: Final = "#222222"
GRID: Final = "#dddddd"
COLOURS: Final = ("#1f6fb4", "#e07b00", "#2c9a4b", "#c0392b", "#7d5ba6", "#8c6d46", "#3a3a3a")
SHORTEST: Final = 1 / 60  # minimum length of the time axis in minutes
MAX_POINTS: Final = 4000  # points of a line; more are not visible

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Line:
    """A step function: each value holds until the next one."""

    name: str
    points: Points


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines over the same time axis."""

    title: str
    lines: Sequence[Line]
    stacked: bool = False  # each line is on top of the previous one, with its area filled


def timeline(title: str, samples: Sequence[Sample]) -> str:
    """Return the SVG page of a run; `samples` are in order and not empty."""
    minutes = [sample.at_s / 60 for sample in samples]

    def line(name: str, values: Sequence[float]) -> Line:
        return Line(name, _thinned(list(zip(minutes, values, strict=True))))

    classes = sorted({name for sample in samples for name, _ in sample.classes})
    by_class = [dict(sample.classes) for sample in samples]
    panels = (
        Panel(
            "sessions",
            (
                line("slots", [sample.slots for sample in samples]),
                line("sessions", [sample.sessions for sample in samples]),
                line("waiting", [sample.waiting for sample in samples]),
            ),
        ),
        Panel(
            "pods by GPU class",
            [line(name, [found.get(name, 0) for found in by_class]) for name in classes],
            stacked=True,
        ),
        Panel("cost per hour", [line("cost", [float(m.cost_per_hour) for m in samples])]),
    )
    return page(title, panels, minutes[-1])


def page(title: str, panels: Sequence[Panel], minutes: float) -> str:
    """Return an SVG page with the panels below each other, for a time axis in minutes."""
    minutes = max(minutes, SHORTEST)
    height = TOP + PANEL * len(panels)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12" fill="{INK}">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(LEFT, 22, title, size=15),
    ]
    for index, panel in enumerate(panels):
        parts += _panel(panel, TOP + index * PANEL, minutes)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel, top: float, minutes: float) -> list[str]:
    height = PANEL - BOTTOM - 24
    above = top + 24
    lines = _stack(panel.lines) if panel.stacked else panel.lines
    most = max((value for line in lines for _, value in line.points), default=0.0)
    steps = _ticks(most)
    scale_x = (WIDTH - LEFT - RIGHT) / minutes
    scale_y = height / steps[-1]

    def place(point: tuple[float, float]) -> tuple[float, float]:
        return LEFT + point[0] * scale_x, above + height - point[1] * scale_y

    parts = [_text(LEFT, top + 14, panel.title, size=13)]
    for value in steps:
        y = place((0, value))[1]
        parts.append(_rule(LEFT, y, WIDTH - RIGHT, y))
        parts.append(_text(LEFT - 8, y + 4, f"{value:g}", anchor="end"))
    for minute in _ticks(minutes):
        if minute <= minutes:
            x = place((minute, 0))[0]
            parts.append(_rule(x, above, x, above + height))
            parts.append(_text(x, above + height + 16, f"{minute:g} min", anchor="middle"))
    # A stack is drawn from its highest line down, so that each line covers those below it.
    drawn = list(enumerate(lines))
    for index, line in reversed(drawn) if panel.stacked else drawn:
        colour = COLOURS[index % len(COLOURS)]
        path = _path([place(point) for point in _steps(line.points, minutes)])
        if panel.stacked:
            ends = place((minutes, 0)), place((line.points[0][0], 0))
            closed = f"{path} {_path(ends, first='L')} Z"
            parts.append(f'<path d="{closed}" fill="{colour}"/>')
        else:
            parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
    return [*parts, *_legend(panel, top)]


def _legend(panel: Panel, top: float) -> list[str]:
    parts = []
    x = WIDTH - RIGHT - 110 * len(panel.lines)
    for index, line in enumerate(panel.lines):
        colour = COLOURS[index % len(COLOURS)]
        parts.append(f'<rect x="{x}" y="{top + 5:g}" width="12" height="10" fill="{colour}"/>')
        parts.append(_text(x + 17, top + 14, line.name))
        x += 110
    return parts


def _stack(lines: Sequence[Line]) -> list[Line]:
    """Add each line to those before it; all have the same times."""
    below: list[float] = []
    stacked = []
    for line in lines:
        sums = [value + (below[i] if below else 0) for i, (_, value) in enumerate(line.points)]
        points = [(at, total) for (at, _), total in zip(line.points, sums, strict=True)]
        stacked.append(Line(line.name, points))
        below = sums
    return stacked


def _steps(points: Points, end: float) -> list[tuple[float, float]]:
    """Extend each value until the next one, and the last one until the end."""
    held = [points[0]]
    for (_, before), (at, value) in pairwise(points):
        held += [(at, before), (at, value)]
    return [*held, (end, points[-1][1])]


def _thinned(points: Points) -> Points:
    """Reduce the points of a line to at most `MAX_POINTS`."""
    return points[:: 1 + len(points) // MAX_POINTS]


def _ticks(most: float) -> list[float]:
    """Return about five round numbers from 0 to at least `most`."""
    rough = max(most, 1e-9) / 5
    size = 10.0 ** floor(log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    count = 1
    while step * count < most:
        count += 1
    return [round(step * index, 10) for index in range(count + 1)]


def _path(points: Sequence[tuple[float, float]], first: str = "M") -> str:
    (x, y), *rest = points
    return " ".join([f"{first}{x:.1f},{y:.1f}", *(f"L{x:.1f},{y:.1f}" for x, y in rest)])


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{GRID}"/>'


def _text(x: float, y: float, text: str, *, size: int = 12, anchor: str = "start") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"'
    return f"<text {place}>{escape(text)}</text>"
