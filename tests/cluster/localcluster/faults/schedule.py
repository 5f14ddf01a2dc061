"""Decides which requests to an API server fail and how, from seed, request and attempt only.

The functions are pure; `localcluster.faults.proxy` applies the decisions. The order of requests has
no influence, so a seed always produces the same faults. Each request fails a limited number of
times, so a client that retries succeeds in the end.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum
from typing import Final


class Kind(Enum):
    """The kind of a request; faults differ by kind."""

    LIST = "list"
    WATCH = "watch"
    READ = "read"
    WRITE = "write"


@dataclass(frozen=True, slots=True)
class Call:
    """The identity of a request; a retry has the same `Call`."""

    kind: Kind
    target: str
    """Method and path, for a create request with the name in the body."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """The server answers with an error and changes nothing."""

    status: int
    retry_after_s: int | None = None


@dataclass(frozen=True, slots=True)
class Delay:
    """The server is slow."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reset:
    """The connection is reset before the server receives the request."""


@dataclass(frozen=True, slots=True)
class LoseAnswer:
    """The server executes the request, and the connection is reset before the answer."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A watch ends after some time; if `torn`, in the middle of a line."""

    after_s: float
    torn: bool


@dataclass(frozen=True, slots=True)
class Expire:
    """A watch receives 410 because its version is too old: the client must list again."""


@dataclass(frozen=True, slots=True)
class Fail:
    """A watch receives 500 because the server failed: the client must list again."""


Fault = Refuse | Delay | Reset | LoseAnswer | Cut | Expire | Fail

MOST_FAULTS: Final = 6
"""Maximum number of attempts of one request that may fail; later attempts succeed."""

SHARE: Final[dict[Kind, float]] = {Kind.LIST: 0.3, Kind.WATCH: 0.8, Kind.READ: 0.3, Kind.WRITE: 0.4}
"""Share of these attempts that fail."""

LONGEST_DELAY_S: Final = 0.4
LONGEST_WATCH_S: Final = 6.0
RETRY_AFTER_S: Final = 1


def decide(seed: int, call: Call, attempt: int) -> Fault | None:
    """Return the fault of an attempt, counted from 0, of a request; None for no fault."""
    if attempt >= MOST_FAULTS:
        return None
    # Random seeds a text by its SHA-512, which is the same on every machine.
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
            # The most difficult fault is the most frequent: the client assumes no change.
            faults += [LoseAnswer(), LoseAnswer(), LoseAnswer(), Refuse(409)]
        case Kind.WATCH:
            cut = Cut(round(chance.uniform(0.0, LONGEST_WATCH_S), 3), chance.random() < 0.5)
            faults += [cut, cut, cut, Expire(), Fail()]
    return chance.choice(faults)
