"""Which pod gets a session: the fullest that still has room, so that others can empty.

Pods of the reserve come last, so that they stay empty until they are needed, and nobody waits
until they are promoted.

A pod's own word is a moment old, so the gateway adds what it has placed there since. That
sum only orders the pods: a pod that by its own word has room is tried as a last resort, and
the pod's answer decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from avatar_contracts.state import STALE_S as STALE_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from avatar_gateway.core.model import State

MAX_TRIES: Final = 4
"""Pods asked for one caller; more refusals than that mean that there is no room."""


class Shortage(Enum):
    """Why no pod can take a session, as the code the caller is told."""

    NOT_READY = "not_ready"  # no pod serves yet, or none that is heard of
    DRAINING = "draining"  # pods serve, but all are to go
    NO_CAPACITY = "no_capacity"  # pods serve, and all are full


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pod of the service asked for."""

    key: str
    usable: bool
    """Whether it has an address and is not being deleted."""
    state: State | None
    placed: int
    """Sessions that this gateway placed there and that `state` may not count yet."""
    reserve: bool = False

    def is_heard(self, now: float) -> bool:
        """Return whether the pod serves, and said so a short time ago."""
        state = self.state
        return self.usable and state is not None and state.ready and now - state.at <= STALE_S


def order(candidates: Sequence[Candidate], now: float) -> Sequence[str] | Shortage:
    """Return the pods to try, best first, or why there is none."""
    heard = [(c, c.state) for c in candidates if c.state and c.is_heard(now)]
    if not heard:
        return Shortage.NOT_READY
    serving = [(each, state) for each, state in heard if not state.draining]
    if not serving:
        return Shortage.DRAINING
    room = [(each, state) for each, state in serving if state.free > 0]
    if not room:
        return Shortage.NO_CAPACITY
    ranked = sorted(room, key=lambda item: _rank(*item))
    return [each.key for each, _ in ranked[:MAX_TRIES]]


def _rank(each: Candidate, state: State) -> tuple[bool, bool, float, int, str]:
    """Return a sort key: pods with room by our own count first, then the fullest share."""
    taken = state.capacity - state.free + each.placed
    full = each.placed >= state.free
    return (full, each.reserve, -taken / state.capacity, -taken, each.key)
