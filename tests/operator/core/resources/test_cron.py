"""Tests of cron expressions on the clocks of time zones."""

from __future__ import annotations

import datetime
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from avatar_operator.core.resources import cron

BERLIN = ZoneInfo("Europe/Berlin")
YEARS = [
    # Zone, year, and what its clocks do in it.
    pytest.param("Europe/Berlin", 2026, id="an hour at night"),
    pytest.param("America/Santiago", 2026, id="an hour at midnight"),
    pytest.param("Australia/Lord_Howe", 2026, id="half an hour"),
    pytest.param("Pacific/Apia", 2011, id="a whole day"),
    pytest.param("Asia/Kathmandu", 2024, id="never, in a leap year"),
]


def berlin(text: str) -> float:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp()


def parsed(text: str) -> cron.Cron:
    expression = cron.parse(text)
    assert expression is not None
    return expression


@pytest.mark.parametrize(
    ("text", "minutes", "hours", "days", "months", "weekdays"),
    [
        ("5 8 1 2 3", (5,), (8,), (1,), (2,), (3,)),
        ("*/20 */8 */15 */6 */3", (0, 20, 40), (0, 8, 16), (1, 16, 31), (1, 7), (0, 3, 6)),
        ("7,1-3 09 01 jan,DEC Mon-wed", (1, 2, 3, 7), (9,), (1,), (1, 12), (1, 2, 3)),
        ("50-10/20 22-1 30-2 11-2 5-7", (10, 50), (0, 1, 22, 23), (1, 2, 30, 31),
         (1, 2, 11, 12), (0, 5, 6)),
        ("0 0 1 1 0-7", (0,), (0,), (1,), (1,), (0, 1, 2, 3, 4, 5, 6)),
        ("0 0 1 1 fri-mon", (0,), (0,), (1,), (1,), (0, 1, 5, 6)),
    ],
)  # fmt: skip
def test_lists_ranges_steps_and_names_are_read(
    text: str,
    minutes: tuple[int, ...],
    hours: tuple[int, ...],
    days: tuple[int, ...],
    months: tuple[int, ...],
    weekdays: tuple[int, ...],
) -> None:
    assert cron.parse(text) == cron.Cron(
        minutes, hours, days, months, weekdays, either=_either(text)
    )


def _either(text: str) -> bool:
    parts = text.split(" ")
    return not (parts[2].startswith("*") or parts[4].startswith("*"))


@pytest.mark.parametrize(
    "text",
    ["", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * 32 * *",
     "* * * 13 *", "* * * * 8", "*/0 * * * *", "1- * * * *", "a * * * *", "@daily", "1/5 * * * *",
     "* * * * *\n", " * * * * *", "*  * * * *", f"{'1,' * 60}1 * * * *"],
)  # fmt: skip
def test_what_is_no_expression_is_refused(text: str) -> None:
    assert cron.parse(text) is None


def test_day_and_weekday_are_either_or_where_both_are_named() -> None:
    both = parsed("0 0 13 * fri")
    assert both.matches(datetime.date(2026, 1, 13))  # a Tuesday
    assert both.matches(datetime.date(2026, 1, 16))  # a Friday
    assert not both.matches(datetime.date(2026, 1, 14))
    one = parsed("0 0 */12 * fri")
    assert not one.matches(datetime.date(2026, 1, 13))
    assert one.matches(datetime.date(2026, 2, 13))  # a Friday that is the 13th


@pytest.mark.parametrize(
    ("text", "exists"),
    [("0 0 31 4 *", False), ("0 0 31 3-4 *", True), ("0 0 30 2 *", False), ("0 0 29 2 *", True),
     ("0 0 31 2 mon", True)],
)  # fmt: skip
def test_a_day_that_no_month_has_is_known(text: str, exists: bool) -> None:
    expression = parsed(text)
    assert expression.exists == exists
    found = cron.next_after(expression, BERLIN, berlin("2096-03-01T00:00"))
    assert (found is not None) == exists
    assert (cron.last_until(expression, BERLIN, berlin("2104-02-28T00:00")) is not None) == exists


def test_a_time_that_is_leapt_over_comes_at_the_leap() -> None:
    half_past_two = parsed("30 2 * * *")
    leap = cron.next_after(half_past_two, BERLIN, berlin("2026-03-28T12:00"))
    assert leap == berlin("2026-03-29T03:00")
    assert cron.next_after(half_past_two, BERLIN, leap) == berlin("2026-03-30T02:30")


def test_a_time_that_comes_twice_counts_once() -> None:
    half_past_two = parsed("30 2 * * *")
    first = cron.next_after(half_past_two, BERLIN, berlin("2026-10-24T12:00"))
    assert first == datetime.datetime(2026, 10, 25, 0, 30, tzinfo=datetime.UTC).timestamp()
    assert cron.next_after(half_past_two, BERLIN, first) == berlin("2026-10-26T02:30")


QUARTER_S = 900


@cache
def quarters(zone: str, year: int) -> tuple[tuple[float, tuple[datetime.datetime, ...]], ...]:
    """Walk a year in quarters of an hour: each with the wall times that begin with it.

    A time that is shown again begins nothing; at a leap all that is leapt over begins.
    """
    clock = ZoneInfo(zone)
    begins = int(datetime.datetime(year, 1, 1, tzinfo=clock).timestamp())
    ends = int(datetime.datetime(year + 1, 1, 1, tzinfo=clock).timestamp())
    latest = datetime.datetime(year, 1, 1) - datetime.timedelta(seconds=QUARTER_S)  # noqa: DTZ001
    walked = []
    for at in range(begins, ends, QUARTER_S):
        wall = datetime.datetime.fromtimestamp(at, clock).replace(tzinfo=None, fold=0)
        new = []
        while latest < wall:
            latest += datetime.timedelta(seconds=QUARTER_S)
            new.append(latest)
        walked.append((float(at), tuple(new)))
    return tuple(walked)


def one_of(*parts: str) -> st.SearchStrategy[str]:
    return st.sampled_from(parts)


EXPRESSIONS = st.builds(
    " ".join,
    st.tuples(
        one_of("0", "15", "30", "0,45", "*/15", "0,30"),
        one_of("0", "1", "2", "3", "8", "23", "1-3", "*", "*/6", "22-2"),
        one_of("*", "1", "29", "31", "28-31", "*/2"),
        one_of("*", "2", "3-4", "oct", "9,11", "12"),
        one_of("*", "0", "mon-fri", "sat", "*/2"),
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize(("zone", "year"), YEARS)
@settings(max_examples=25)
@given(text=EXPRESSIONS)
def test_a_whole_year_is_as_a_clock_shows_it(zone: str, year: int, text: str) -> None:
    expression, clock = parsed(text), ZoneInfo(zone)
    hours, minutes = frozenset(expression.hours), frozenset(expression.minutes)
    expected = [
        at
        for at, new in quarters(zone, year)
        if any(w.minute in minutes and w.hour in hours and expression.matches(w) for w in new)
    ]
    begins, ends = quarters(zone, year)[0][0], quarters(zone, year)[-1][0]
    found: list[float] = []
    at = cron.next_after(expression, clock, begins - 1)
    while at is not None and at <= ends and len(found) < 60:
        found.append(at)
        assert cron.last_until(expression, clock, at) == at
        assert cron.last_until(expression, clock, at + 60) == at
        at = cron.next_after(expression, clock, at)
    assert found == expected[:60]
    found = []
    at = cron.last_until(expression, clock, ends)
    while at is not None and at >= begins and len(found) < 60:
        found.append(at)
        at = cron.last_until(expression, clock, at - 1)
    assert found == expected[::-1][:60]


def test_the_schema_refuses_what_is_refused_here() -> None:
    schema = (Path(__file__).parents[4] / "crds" / "avatarservices.yaml").read_text()
    assert f"self.matches('{cron.PATTERN}')" in schema


CHANGES = [
    # Zone, and a day before a clock change.
    ("Europe/Berlin", datetime.date(2026, 3, 27)),
    ("Europe/Berlin", datetime.date(2026, 10, 23)),
    ("America/Santiago", datetime.date(2026, 4, 3)),
    ("America/Santiago", datetime.date(2026, 9, 4)),
    ("Pacific/Apia", datetime.date(2011, 12, 28)),
    ("Australia/Lord_Howe", datetime.date(2026, 4, 3)),
    ("Australia/Lord_Howe", datetime.date(2026, 10, 2)),
    ("Asia/Kathmandu", datetime.date(2024, 2, 27)),
]
LOST_BY_CRONSIM = [
    # With a `*`, cronsim steps by whole hours from midnight, and so loses matches of the day where
    # clocks skip midnight itself or change by half an hour.
    ("America/Santiago", datetime.date(2026, 9, 4)),
    ("Australia/Lord_Howe", datetime.date(2026, 4, 3)),
    ("Australia/Lord_Howe", datetime.date(2026, 10, 2)),
]
HOURS = ("0", "1", "2", "3", "8", "23", "1-3", "0-4,22")
DATES = (
    one_of("*", "1", "29", "31", "28-31", "*/2"),
    one_of("*", "3-4", "oct", "9,11", "12"),
    one_of("*", "0", "mon-fri", "sat", "*/2"),
)


def ours_and_cronsims(text: str, clock: ZoneInfo, day: datetime.date) -> tuple[set[float], ...]:
    """Return the matches of five days according to this module and to cronsim."""
    start = datetime.datetime.combine(day, datetime.time(), clock)
    end = start.timestamp() + 5 * 86400
    ours: set[float] = set()
    at = cron.next_after(parsed(text), clock, start.timestamp())
    while at is not None and at <= end:
        ours.add(at)
        at = cron.next_after(parsed(text), clock, at)
    theirs: set[float] = set()
    for match in CronSim(text, start):
        if match.timestamp() > end:
            break
        theirs.add(match.timestamp())
    return ours, theirs


@pytest.mark.slow
@settings(max_examples=150)
@given(
    change=st.sampled_from(CHANGES),
    minutes=one_of("0", "15", "30", "0,45", "10-40/10"),
    hours=one_of(*HOURS),
    dates=st.tuples(*DATES),
)
def test_times_of_day_are_those_of_cronsim(
    change: tuple[str, datetime.date], minutes: str, hours: str, dates: tuple[str, ...]
) -> None:
    text = " ".join((minutes, hours, *dates))
    assume(parsed(text).exists)
    zone, day = change
    ours, theirs = ours_and_cronsims(text, ZoneInfo(zone), day)
    assert ours == theirs


@pytest.mark.slow
@settings(max_examples=150)
@given(
    change=st.sampled_from([each for each in CHANGES if each not in LOST_BY_CRONSIM]),
    minutes=one_of("*/15", "*/20", "30", "0"),
    hours=one_of("*", "*/2", "*/6", *HOURS),
    dates=st.tuples(*DATES),
)
def test_repeated_times_are_those_of_cronsim_but_for_clock_changes(
    change: tuple[str, datetime.date], minutes: str, hours: str, dates: tuple[str, ...]
) -> None:
    """With a `*` in the minute or the hour, cronsim follows Debian's cron, which runs jobs.

    A job that runs every 15 minutes runs again in the repeated hour, and not in the skipped one. A
    schedule needs the wall times instead: `*/15 2 * * *` must start once on each day, so the second
    pass of a repeated hour is not a match, and a skipped wall time matches at the clock change.
    """
    text = " ".join((minutes, hours, *dates))
    assume(parsed(text).exists)
    zone, day = change
    clock = ZoneInfo(zone)
    ours, theirs = ours_and_cronsims(text, clock, day)
    for at in theirs - ours:
        assert datetime.datetime.fromtimestamp(at, clock).fold == 1
    for at in ours - theirs:
        before, after = (datetime.datetime.fromtimestamp(t, clock) for t in (at - 1, at))
        offsets = before.utcoffset(), after.utcoffset()
        assert None not in offsets
        assert offsets[1] > offsets[0]  # type: ignore[operator]
