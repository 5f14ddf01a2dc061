"""Generates and reads traces: when sessions arrive, and how long they last."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from enum import Enum
from math import cos, log, pi
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from avatar_operator.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

HEADER: Final = ("arrival_s", "duration_s")
HOUR_S: Final = 3600.0
SHORTEST_S: Final = 5.0  # duration of a generated session


class RandomSource(Protocol):
    """A source of random numbers, for example `random.Random`."""

    def random(self) -> float:
        """Return a number in [0, 1)."""


class Session(NamedTuple):
    """One session that a caller requests."""

    arrival_s: float
    duration_s: float


class Kind(Enum):
    """The shapes of generated traces."""

    DIURNAL = "diurnal"  # a day: quiet at night, busy at noon
    STEP = "step"  # the arrival rate grows tenfold at once
    SPIKES = "spikes"  # low load with a burst of one minute every ten
    FLASH = "flash"  # low load with a burst within seconds
    DRAIN = "drain"  # from full load to none over one hour


@dataclass(frozen=True, slots=True)
class Scale:
    """The size of a generated trace."""

    sessions_at_once: float = 40.0  # approximate maximum
    duration_s: float = 300.0  # of a session, on average


def make(kind: Kind, scale: Scale, draw: RandomSource) -> tuple[Session, ...]:
    """Return a generated trace: Poisson arrivals whose rate has the shape of the kind."""
    most = scale.sessions_at_once / scale.duration_s  # Little's law
    length_s, rate = _course(kind, most)
    peak = max(rate(length_s * step / 1440) for step in range(1440))
    sessions = []
    now = 0.0
    while (now := now + _exponential(1 / peak, draw)) < length_s:
        if draw.random() * peak < rate(now):  # Lewis and Shedler's thinning
            stay_s = max(SHORTEST_S, _exponential(scale.duration_s, draw))
            sessions.append(Session(round(now, 3), round(stay_s, 3)))
    return tuple(sessions)


def parse(path: str, lines: Iterable[str]) -> tuple[Session, ...]:
    """Return the sessions of a CSV file, by arrival.

    Raises:
        InputError: a line is not a session, or there is no line.
    """
    sessions = []
    for row in csv.DictReader(lines):
        try:
            session = Session(*(float(row[name]) for name in HEADER))
        except (KeyError, TypeError, ValueError) as error:
            fault = f"has the line {dict(row)}, {' and '.join(HEADER)} must be numbers"
            raise InputError("--trace", path, fault) from error
        if not (session.arrival_s >= 0 and 0 < session.duration_s < float("inf")):
            raise InputError(
                "--trace",
                path,
                f"has {session}, arrival_s must not be negative and duration_s must be positive",
            )
        sessions.append(session)
    if not sessions:
        raise InputError("--trace", path, "does not contain a session")
    return tuple(sorted(sessions))


def lines(sessions: Sequence[Session]) -> list[str]:
    """Return a trace as lines of a CSV file."""
    return [",".join(HEADER), *(f"{s.arrival_s:g},{s.duration_s:g}" for s in sessions)]


def _course(kind: Kind, most: float) -> tuple[float, Callable[[float], float]]:
    """Return the length of a kind in seconds, and its arrival rate by time."""
    match kind:
        case Kind.DIURNAL:
            day_s = 24 * HOUR_S
            return day_s, lambda now: most * (0.04 + 0.48 * (1 - cos(2 * pi * now / day_s)))
        case Kind.STEP:
            return HOUR_S, lambda now: most if now >= HOUR_S / 4 else most / 10
        case Kind.SPIKES:
            return HOUR_S, lambda now: most * (2 if now % 600 >= 540 else 0.2)
        case Kind.FLASH:
            return HOUR_S, lambda now: most * (20 if 900 <= now < 915 else 0.1)
        case Kind.DRAIN:
            return 1.5 * HOUR_S, lambda now: most * max(0.0, 1 - now / HOUR_S)


def _exponential(mean: float, draw: RandomSource) -> float:
    return -mean * log(1 - draw.random())
