"""Ranks the pods for a session: the fullest pod with a free slot comes first.

Filling one pod after another lets the other pods become empty, so that the operator can remove
them. Pods of the reserve come last, so that they stay empty until they are needed.

The last state of a pod is a moment old, so the gateway adds the sessions that it has placed there
since. That sum only ranks the pods: a pod whose own state has a free slot stays in the list, and
the pod decides whether it accepts the session.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import TYPE_CHECKING, Final

from avatar_contracts import session_ids
from avatar_contracts.state import STALE_S as STALE_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from avatar_gateway.core.model import State

MAX_TRIES: Final = 4
"""Maximum number of pods that are tried for one caller."""


class Shortage(Enum):
    """Why no pod can accept a session; the value is the error code for the caller."""

    NOT_READY = "not_ready"
    """No pod has a fresh state that says ready."""
    DRAINING = "draining"
    """All ready pods are draining."""
    NO_CAPACITY = "no_capacity"
    """All ready pods are full."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pod of the requested service."""

    key: str
    usable: bool
    """Whether it has an address and is not being deleted."""
    state: State | None
    """The last reported state; None before the first one."""
    placed: int
    """Sessions that this gateway placed there and that `state` may not count yet."""
    reserve: bool = False
    """Whether the pod belongs to the reserve."""

    def is_ready(self, now: float) -> bool:
        """Return whether the pod is usable, and reported a short time ago that it is ready."""
        state = self.state
        return self.usable and state is not None and state.ready and now - state.at <= STALE_S


def order(candidates: Sequence[Candidate], now: float) -> Sequence[str] | Shortage:
    """Return the keys of the pods to try, the best first, or the reason why no pod is usable."""
    ready = [(pod, pod.state) for pod in candidates if pod.state and pod.is_ready(now)]
    if not ready:
        return Shortage.NOT_READY
    accepting = [(pod, state) for pod, state in ready if not state.draining]
    if not accepting:
        return Shortage.DRAINING
    free = [(pod, state) for pod, state in accepting if state.free > 0]
    if not free:
        return Shortage.NO_CAPACITY
    ranked = sorted(free, key=lambda item: _rank(*item))
    return [pod.key for pod, _ in ranked[:MAX_TRIES]]


def holders(session_id: str, pods: Iterable[str]) -> Sequence[str]:
    """Return the keys of the pods that may have a session: nearly always one, or none.

    Neither its state nor a drain matters: the pod has the session, and its slot.
    """
    found = (key for key in pods if session_ids.belongs_to(session_id, key.rpartition("/")[2]))
    return list(islice(found, MAX_TRIES))


def _rank(pod: Candidate, state: State) -> tuple[bool, bool, float, int, str]:
    """Return the sort key: not full by the gateway's count, not reserve, highest load."""
    taken = state.capacity - state.free + pod.placed
    is_full = pod.placed >= state.free
    return (is_full, pod.reserve, -taken / state.capacity, -taken, pod.key)
