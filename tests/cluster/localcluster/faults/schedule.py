"""Decides which requests to an API server go wrong, and how: by seed, request and attempt alone.

Pure: `localcluster.faults.proxy` carries the decisions out. How requests interleave changes
nothing, so a seed always means the same faults, and each request is faulted a bounded number of
times: a client that tries again gets through in the end.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum
from typing import Final


class Kind(Enum):
    """What a request is, as far as faults differ."""

    LIST = "list"
    WATCH = "watch"
    READ = "read"
    WRITE = "write"


@dataclass(frozen=True, slots=True)
class Call:
    """A request by what it is about: the same one again is the same `Call`."""

    kind: Kind
    target: str
    """Method and path; for a create also the name in the body."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """The server answers an error and does nothing."""

    status: int
    retry_after_s: int | None = None


@dataclass(frozen=True, slots=True)
class Delay:
    """The server is slow."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reset:
    """The connection breaks before the server has seen the request."""


@dataclass(frozen=True, slots=True)
class LoseAnswer:
    """The server does what was asked, and the connection breaks before it says so."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A watch ends after a while, in the middle of a line if it is torn."""

    after_s: float
    torn: bool


@dataclass(frozen=True, slots=True)
class Expire:
    """A watch is told that its version is too old (410): the client must list again."""


@dataclass(frozen=True, slots=True)
class Fail:
    """A watch is told that the server failed (500): the client must list again all the same."""


Fault = Refuse | Delay | Reset | LoseAnswer | Cut | Expire | Fail

MOST_FAULTS: Final = 6
"""Attempts of one request that may go wrong; later ones never do."""

SHARE: Final[dict[Kind, float]] = {Kind.LIST: 0.3, Kind.WATCH: 0.8, Kind.READ: 0.3, Kind.WRITE: 0.4}
"""Of the attempts that may go wrong, how many do."""

LONGEST_DELAY_S: Final = 0.4
LONGEST_WATCH_S: Final = 6.0
RETRY_AFTER_S: Final = 1


def decide(seed: int, call: Call, attempt: int) -> Fault | None:
    """Return what happens to the attempt, counted from 0, at a request; None lets it pass."""
    if attempt >= MOST_FAULTS:
        return None
    # A text seeds by its SHA-512, the same on every machine.
    chance = random.Random(f"{seed} {call.kind.value} {call.target} {attempt}")
    if chance.random() >= SHARE[call.kind]:
        return None
    delay = Delay(round(chance.uniform(0.02, LONGEST_DELAY_S), 3))
    faults: list[Fault] = [
        Refuse(429, RETRY_AFTER_S),
        Refuse(500),
        Refuse(503),
        delay,
        Reset(),
    ]
    match call.kind:
        case Kind.WRITE:
            # The nastiest, most often: the client believes that nothing happened.
            faults += [LoseAnswer(), LoseAnswer(), LoseAnswer(), Refuse(409)]
        case Kind.WATCH:
            cut = Cut(round(chance.uniform(0.0, LONGEST_WATCH_S), 3), chance.random() < 0.5)
            faults += [cut, cut, cut, Expire(), Fail()]
    return chance.choice(faults)
