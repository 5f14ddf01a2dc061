"""Tests of the picture of a simulated service."""

from __future__ import annotations

from decimal import Decimal
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_operator.simulator import plot
from avatar_operator.simulator.scenario import Sample

SVG = "{http://www.w3.org/2000/svg}"


def sample(at_s: float, sessions: int, **classes: int) -> Sample:
    pods = tuple(sorted(classes.items()))
    return Sample(at_s, sessions, 1, 2 * sessions, sum(classes.values()), 1, pods, Decimal("2.5"))


def paths(picture: str) -> list[str]:
    return [path.attrib["d"] for path in ElementTree.fromstring(picture).iter(f"{SVG}path")]


def test_each_course_is_a_line_and_each_class_an_area() -> None:
    picture = plot.timeline("a & b", [sample(0, 3, h100=1), sample(60, 6, h100=1, l4=2)])
    assert len(paths(picture)) == 3 + 2 + 1
    assert sum(path.endswith("Z") for path in paths(picture)) == 2
    texts = {text.text for text in ElementTree.fromstring(picture).iter(f"{SVG}text")}
    assert {"a & b", "sessions", "h100", "l4", "cost per hour", "1 min"} <= texts


def test_values_hold_until_the_next_one_and_the_last_to_the_end() -> None:
    lines = (plot.Line("x", ((0.0, 0.0), (5.0, 10.0))),)
    (path,) = paths(plot.page("t", (plot.Panel("p", lines),), 10.0))
    xs = [float(point.split(",")[0].lstrip("ML")) for point in path.split()]
    ys = [float(point.split(",")[1]) for point in path.split()]
    middle = (plot.LEFT + plot.WIDTH - plot.RIGHT) / 2
    assert xs == [plot.LEFT, middle, middle, plot.WIDTH - plot.RIGHT]
    assert ys[0] == ys[1] > ys[2] == ys[3]


@pytest.mark.parametrize(
    ("most", "ticks"),
    [(10, [0, 2, 4, 6, 8, 10]), (7, [0, 2, 4, 6, 8]), (0.3, [0, 0.1, 0.2, 0.3])],
)
def test_ticks_are_round(most: float, ticks: list[float]) -> None:
    assert plot._ticks(most) == ticks


MOMENTS = st.lists(
    st.tuples(st.floats(0, 900), st.integers(0, 9), st.integers(0, 9), st.integers(0, 3)),
    min_size=1,
    max_size=30,
)


@given(MOMENTS)
def test_nothing_is_drawn_outside_its_panel(drawn: list[tuple[float, int, int, int]]) -> None:
    now = 0.0
    samples = []
    for after_s, sessions, first, second in drawn:
        now += after_s
        samples.append(sample(now, sessions, a=first, b=second))
    for path in paths(plot.timeline("t", samples)):
        for point in path.replace(" Z", "").split():
            x, y = (float(part.lstrip("ML")) for part in point.split(","))
            assert plot.LEFT - 0.1 <= x <= plot.WIDTH - plot.RIGHT + 0.1
            assert plot.TOP <= y <= plot.TOP + 3 * plot.PANEL


@pytest.mark.parametrize(("count", "shown"), [(3999, 3999), (4000, 2000), (8000, 2667)])
def test_a_line_of_many_points_is_thinned(count: int, shown: int) -> None:
    points = [(float(at), 1.0) for at in range(count)]
    thinned = plot._thinned(points)
    assert len(thinned) == shown
    assert thinned[0] == points[0]
