"""The connection of a session to its upstream: its states and its tries. It has no socket."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from avatar_contracts import backoff
from avatar_runtime.protocol import state_table

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_FAILURES: Final = 3
"""Failed tries in a row after which the session ends."""
STABLE_S: Final = 10.0
"""A connection that was usable this long is no failed try."""
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 8.0
MAX_RETRY_AFTER_S: Final = 30.0
"""Longest pause that an upstream can ask for with Retry-After, seconds."""


class LinkState(Enum):
    """The state of the connection."""

    WAITING = "waiting"
    """The next try starts at `Link.connects_at`."""
    CONNECTING = "connecting"
    """The socket is being connected."""
    GREETING = "greeting"
    """The socket is open; `session.created` has not come."""
    OPEN = "open"
    """Events go both ways."""
    CLOSED = "closed"
    """There is no further try."""


LinkStep = Enum("LinkStep", "CONNECT OPENED GREETED LOST CLOSE")

TRANSITIONS: Final[Mapping[LinkState, Mapping[LinkStep, LinkState]]] = {
    LinkState.WAITING: {
        LinkStep.CONNECT: LinkState.CONNECTING,
        LinkStep.CLOSE: LinkState.CLOSED,
    },
    LinkState.CONNECTING: {
        LinkStep.OPENED: LinkState.GREETING,
        LinkStep.LOST: LinkState.WAITING,
        LinkStep.CLOSE: LinkState.CLOSED,
    },
    LinkState.GREETING: {
        LinkStep.GREETED: LinkState.OPEN,
        LinkStep.LOST: LinkState.WAITING,
        LinkStep.CLOSE: LinkState.CLOSED,
    },
    LinkState.OPEN: {LinkStep.LOST: LinkState.WAITING, LinkStep.CLOSE: LinkState.CLOSED},
    LinkState.CLOSED: {},
}
"""The state after each allowed step, by state. A state without steps is final."""


def advance(state: LinkState, step: LinkStep) -> LinkState:
    """Return the state after `step`.

    Raises:
        IllegalEvent: `TRANSITIONS` does not allow the step in this state.
    """
    return state_table.advance(TRANSITIONS, state, step)


@dataclass(frozen=True, slots=True)
class UpstreamFault:
    """Why a connection ended or was not made. It names no address and no key."""

    code: str
    """`upstream_unavailable`, `upstream_rate_limited` or `upstream_refused`."""
    message: str
    is_final: bool = False
    """Whether another try fails as well, as with a wrong key."""
    retry_after_s: float = 0.0
    """The pause that the upstream asks for, seconds."""


class Link:
    """The tries of one session. The shell connects at `connects_at`."""

    def __init__(self, now: float) -> None:
        self.state = LinkState.WAITING
        self.connects_at: float | None = now
        """When the next try starts, monotonic seconds; `None` unless the state is `WAITING`."""
        self.connections = 0
        """Connections that became usable."""
        self._failures = 0
        self._open_at = now

    @property
    def is_open(self) -> bool:
        """Whether events go both ways."""
        return self.state is LinkState.OPEN

    @property
    def is_closed(self) -> bool:
        """Whether there is no further try."""
        return self.state is LinkState.CLOSED

    def connect(self) -> None:
        """Record that a try starts."""
        self._step(LinkStep.CONNECT)

    def opened(self) -> None:
        """Record that the socket is open."""
        self._step(LinkStep.OPENED)

    def greeted(self, now: float) -> None:
        """Record that `session.created` has come."""
        self._step(LinkStep.GREETED)
        self._open_at = now
        self.connections += 1

    def lost(self, fault: UpstreamFault, now: float, chance: float) -> None:
        """Record the end of a try or of a connection; the state is `CLOSED` after the last try.

        `chance` is a random number from 0 to 1: clients do not come back in step.
        """
        was_stable = self.is_open and now - self._open_at >= STABLE_S
        self._failures = 0 if was_stable else self._failures + 1
        if fault.is_final or self._failures >= MAX_FAILURES:
            self._step(LinkStep.CLOSE)
            return
        self._step(LinkStep.LOST)
        pause_s = backoff.doubled(_FIRST_PAUSE_S, _LONGEST_PAUSE_S, max(1, self._failures))
        pause_s = max(
            backoff.jittered(pause_s, chance), min(fault.retry_after_s, MAX_RETRY_AFTER_S)
        )
        self.connects_at = now + pause_s

    def close(self) -> None:
        """Make no further try: the session ends."""
        if not self.is_closed:
            self._step(LinkStep.CLOSE)

    def _step(self, step: LinkStep) -> None:
        self.state = advance(self.state, step)
        self.connects_at = None
