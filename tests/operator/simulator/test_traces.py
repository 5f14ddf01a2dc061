"""Tests of made and read traces."""

from __future__ import annotations

import random

import pytest

from avatar_operator.errors import InputError
from avatar_operator.simulator import traces
from avatar_operator.simulator.traces import Kind, Scale, Session


@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value)
def test_a_made_trace_is_in_order_and_the_same_for_the_same_seed(kind: Kind) -> None:
    made = traces.make(kind, Scale(20), random.Random(7))
    assert made == traces.make(kind, Scale(20), random.Random(7))
    assert made != traces.make(kind, Scale(20), random.Random(8))
    assert list(made) == sorted(made)
    assert all(session.duration_s >= traces.SHORTEST_S for session in made)


def rate(made: tuple[Session, ...], begin_s: float, end_s: float) -> float:
    return sum(begin_s <= session.arrival_s < end_s for session in made) / (end_s - begin_s)


def test_a_step_brings_ten_times_as_many_callers() -> None:
    made = traces.make(Kind.STEP, Scale(2000), random.Random(1))
    assert rate(made, 900, 3600) / rate(made, 0, 900) == pytest.approx(10, rel=0.2)


def test_a_day_is_busiest_at_noon() -> None:
    made = traces.make(Kind.DIURNAL, Scale(40), random.Random(1))
    assert rate(made, 39_600, 46_800) > 10 * rate(made, 0, 3600)
    assert rate(made, 39_600, 46_800) == pytest.approx(40 / 300, rel=0.15)


def test_what_is_written_is_read_back() -> None:
    made = traces.make(Kind.FLASH, Scale(20), random.Random(3))
    read = traces.parse("trace.csv", traces.lines(made))
    assert len(read) == len(made)
    assert read[-1].arrival_s == pytest.approx(made[-1].arrival_s, rel=1e-4)


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        (["arrival_s,duration_s"], "does not contain a session"),
        (["arrival_s", "1"], "arrival_s and duration_s must be numbers"),
        (["arrival_s,duration_s", "1,soon"], "arrival_s and duration_s must be numbers"),
        (["arrival_s,duration_s", "1,0"], "arrival_s must not be negative and duration_s must be"),
        (["arrival_s,duration_s", "-1,5"], "arrival_s must not be negative and duration_s must be"),
        (
            ["arrival_s,duration_s", "1,inf"],
            "arrival_s must not be negative and duration_s must be",
        ),
    ],
)
def test_what_is_no_trace_is_refused_with_the_fault(lines: list[str], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        traces.parse("trace.csv", lines)


def test_a_trace_starts_without_a_gap() -> None:
    made = traces.make(Kind.STEP, Scale(200_000), random.Random(1))
    assert 0 < made[0].arrival_s < 0.5
