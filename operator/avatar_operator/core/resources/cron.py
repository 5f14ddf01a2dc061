"""Parses cron expressions and finds the times that they match in a time zone.

An expression has five fields: minute, hour, day of the month, month, day of the week, with lists,
ranges and steps. `PATTERN` is the complete grammar, so that the CRD can reject the same
expressions. Each matching wall time occurs exactly once per day: a wall time that a clock change
skips occurs at the moment of the change, and of a wall time that a clock change repeats only the
first one counts.
"""

from __future__ import annotations

import datetime
import re
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from zoneinfo import ZoneInfo

_MONTH_DAYS: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
LONGEST: Final = 100  # characters of an expression
SEARCHED_DAYS: Final = 2930
"""Days to search: the next 29th of February may be eight years away (2096 to 2104)."""


@dataclass(frozen=True, slots=True)
class _Field:
    number: str  # pattern of one number
    lowest: int
    highest: int
    names: tuple[str, ...] = ()  # names of `lowest` and the following numbers

    @property
    def pattern(self) -> str:
        one = f"({'|'.join((self.number, *self.names))})"
        part = f"([*]|{one}-{one})(/[1-9][0-9]?)?|{one}"
        return f"({part})(,({part}))*"

    def value(self, text: str) -> int:
        name = text.lower()
        return self.lowest + self.names.index(name) if name in self.names else int(text)


_MONTHS: Final = (
    "jan",
    "feb",
    "mar",
    "apr",
    "may",
    "jun",
    "jul",
    "aug",
    "sep",
    "oct",
    "nov",
    "dec",
)
_WEEKDAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: Final = (
    _Field("[0-5]?[0-9]", 0, 59),
    _Field("[01]?[0-9]|2[0-3]", 0, 23),
    _Field("0?[1-9]|[12][0-9]|3[01]", 1, 31),
    _Field("0?[1-9]|1[0-2]", 1, 12, _MONTHS),
    _Field("[0-7]", 0, 6, _WEEKDAYS),  # 7 is Sunday, too
)

PATTERN: Final = f"(?i)^{' '.join(each.pattern for each in _FIELDS)}$"
"""Pattern of all valid expressions; an expression that matches may still never occur."""

LIMIT: Final = "must have five cron fields: minute, hour, day of the month, month, day of the week"


@dataclass(frozen=True, slots=True)
class Cron:
    """The wall times that an expression matches; all tuples are in ascending order."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...]
    months: tuple[int, ...]
    weekdays: tuple[int, ...]
    """0 is Sunday."""
    either: bool
    """Whether a matching day or weekday is enough: cron's rule if neither starts with a `*`."""
    text: str = field(default="", compare=False)
    """The expression as it was written."""

    @property
    def exists(self) -> bool:
        """Whether at least one day matches."""
        longest = max(_MONTH_DAYS[month - 1] for month in self.months)
        return self.either or self.days[0] <= longest

    def matches(self, day: datetime.date) -> bool:
        """Return whether a day matches."""
        if day.month not in self.months:
            return False
        by_day, by_weekday = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return (by_day or by_weekday) if self.either else (by_day and by_weekday)


def parse(text: str) -> Cron | None:
    """Return the parsed expression, None if the text is not a valid one."""
    if len(text) > LONGEST or re.fullmatch(PATTERN, text) is None:
        return None
    parts = text.split(" ")
    minutes, hours, days, months, weekdays = (
        tuple(sorted(_numbers(each, part))) for each, part in zip(_FIELDS, parts, strict=True)
    )
    either = not (parts[2].startswith("*") or parts[4].startswith("*"))
    return Cron(minutes, hours, days, months, weekdays, either, text)


def next_after(cron: Cron, zone: ZoneInfo, at: float) -> float | None:
    """Return the first match after `at`, None if there is none; both in seconds since 1970."""
    # If clocks skip midnight, wall times of the previous day occur today. If they repeat it, wall
    # times of the next day occur today.
    for day in _days(cron, _date(zone, at) - datetime.timedelta(1), 1):
        times = _Times(cron, zone, day)
        index = bisect_right(times, at)
        if index < len(times):
            return times[index]
    return None


def last_until(cron: Cron, zone: ZoneInfo, at: float) -> float | None:
    """Return the last match at or before `at`, None if there is none; in seconds since 1970."""
    for day in _days(cron, _date(zone, at) + datetime.timedelta(1), -1):
        times = _Times(cron, zone, day)
        index = bisect_right(times, at)
        if index:
            return times[index - 1]
    return None


class _Times:
    """The times of one day in order, each worked out when it is asked for."""

    def __init__(self, cron: Cron, zone: ZoneInfo, day: datetime.date) -> None:
        self._cron, self._zone, self._day = cron, zone, day

    def __len__(self) -> int:
        return len(self._cron.hours) * len(self._cron.minutes)

    def __getitem__(self, index: int) -> float:
        hour, minute = divmod(index, len(self._cron.minutes))
        time = datetime.time(self._cron.hours[hour], self._cron.minutes[minute])
        return _first(datetime.datetime.combine(self._day, time, self._zone))


def _first(wall: datetime.datetime) -> float:
    """Return when a wall clock first shows a time, or skips it, in seconds since 1970."""
    at = wall.timestamp()
    before, after = wall.utcoffset(), wall.replace(fold=1).utcoffset()
    assert before is not None
    assert after is not None
    if before >= after:
        return at
    zone = wall.tzinfo
    low, high = int(wall.replace(fold=1).timestamp()), int(at)
    while high - low > 1:  # the clock change is between `low` and `high`
        middle = (low + high) // 2
        changed = datetime.datetime.fromtimestamp(middle, zone).utcoffset() == after
        low, high = (low, middle) if changed else (middle, high)
    return float(high)


def _days(cron: Cron, first: datetime.date, step: int) -> Iterator[datetime.date]:
    return (
        day
        for offset in range(SEARCHED_DAYS)
        if cron.matches(day := first + datetime.timedelta(step * offset))
    )


def _date(zone: ZoneInfo, at: float) -> datetime.date:
    return datetime.datetime.fromtimestamp(at, zone).date()


def _numbers(kind: _Field, text: str) -> set[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        low, dash, high = span.partition("-")
        if span == "*":
            numbers = [*range(kind.lowest, kind.highest + 1)]
        elif dash:
            numbers = _span(kind, kind.value(low), kind.value(high))
        else:
            numbers = [kind.value(low)]
        found.update(numbers[:: int(step or 1)])
    return {number % 7 for number in found} if kind.names == _WEEKDAYS else found


def _span(kind: _Field, low: int, high: int) -> list[int]:
    """Return the numbers of a range; 22-4 continues at the lowest number after the highest."""
    if low <= high:
        return [*range(low, high + 1)]
    return [*range(low, kind.highest + 1), *range(kind.lowest, high + 1)]
