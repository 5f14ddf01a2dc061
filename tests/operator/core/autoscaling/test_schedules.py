"""Tests of the schedules of a policy."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from avatar_operator.core.autoscaling import schedules
from avatar_operator.core.resources import autoscaling

if TYPE_CHECKING:
    from tests.operator.conftest import Make

BERLIN = ZoneInfo("Europe/Berlin")
OFFICE = {
    "name": "office",
    "start": "0 8 * * mon-fri",
    "end": "0 18 * * mon-fri",
    "timeZone": "Europe/Berlin",
    "minReplicas": 3,
}


def policy(make: Make, *items: dict[str, Any], **fields: Any) -> autoscaling.Autoscaling:
    spec = {"maxReplicas": 8, "schedules": [*items], **fields}
    autoscaling = make.service(autoscaling=spec).autoscaling
    assert autoscaling is not None
    return autoscaling


def at(text: str) -> float:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp()


def test_without_schedules_nothing_changes_and_nothing_is_due(make: Make) -> None:
    plain = policy(make)
    assert schedules.resolve(plain, 0.0) == schedules.EffectivePolicy(plain)


def test_a_schedule_holds_from_its_start_to_its_end(make: Make) -> None:
    office = policy(make, OFFICE)
    for time, pods, until in (
        ("2026-11-25T07:59:59", 1, "2026-11-25T08:00"),
        ("2026-11-25T08:00", 3, "2026-11-25T18:00"),
        ("2026-11-25T17:59:59", 3, "2026-11-25T18:00"),
        ("2026-11-25T18:00", 1, "2026-11-26T08:00"),
        ("2026-11-28T12:00", 1, "2026-11-30T08:00"),  # a Saturday
    ):
        found = schedules.resolve(office, at(time))
        assert (found.policy.min_replicas, found.until) == (pods, at(until))
        assert found.names == (("office",) if pods == 3 else ())


def test_of_all_in_force_the_largest_numbers_count(make: Make) -> None:
    always = {"start": "0 0 * * *", "end": "1 0 1 1 *"}
    found = schedules.resolve(
        policy(
            make,
            {"name": "a", **always, "minReplicas": 2, "freeSessions": {"min": 9}, "reserve": 2},
            {"name": "b", **always, "minReplicas": 5, "freeSessions": {"percent": 5}},
            minReplicas=4,
            freeSessions={"min": 3, "percent": 10},
            reserve=1,
        ),
        at("2026-11-25T12:00"),
    )
    seen = found.policy
    assert (seen.min_replicas, seen.free_min, seen.free_percent, seen.reserve) == (5, 9, 10, 2)
    assert found.names == ("a", "b")


def test_an_end_that_is_the_next_start_leaves_no_gap(make: Make) -> None:
    daily = {"name": "a", "start": "0 8 * * *", "end": "0 8 * * mon", "minReplicas": 2}
    monday = policy(make, daily)
    before = schedules.resolve(monday, at("2026-11-30T07:00"))
    assert before.names == schedules.resolve(monday, at("2026-11-30T09:30")).names == ("a",)


@given(st.integers(-(10**6), 10**6), st.floats(0, 59.9))
def test_the_answer_is_the_same_until_it_is_due(minutes: int, seconds: float) -> None:
    office = autoscaling.Autoscaling(
        1, 8, schedules=(_schedule("0 8 * * mon-fri", "30 18 * * *", "Europe/Berlin"),)
    )
    now = at("2026-11-25T12:00") + minutes * 60 + seconds
    found = schedules.resolve(office, now)
    assert found.until is not None
    assert found.until > now
    last = schedules.resolve(office, found.until - 0.001)
    assert (last.names, last.until) == (found.names, found.until)
    assert schedules.resolve(office, found.until).names != found.names


def _schedule(start: str, end: str, zone: str) -> autoscaling.Schedule:
    from avatar_operator.core.resources import cron

    first, last = cron.parse(start), cron.parse(end)
    assert first is not None
    assert last is not None
    return autoscaling.Schedule("office", first, last, zone, min_replicas=2)
