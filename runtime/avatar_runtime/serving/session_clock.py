"""The clock of one session, which stands still while its client is away."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class SessionClock:
    """Monotonic seconds of a session: the clock of the runtime without the pauses.

    A client that has lost its connection plays nothing and says nothing. With a clock that stands
    still, nothing in the session is late when the client comes back, and no time limit of the
    session passes meanwhile.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` is the clock of the runtime, monotonic seconds."""
        self._clock = clock
        self._paused_s = 0.0
        self._stopped_at: float | None = None

    def __call__(self) -> float:
        """Return the time of the session, seconds."""
        now = self._clock() if self._stopped_at is None else self._stopped_at
        return now - self._paused_s

    @property
    def is_stopped(self) -> bool:
        """Whether the clock stands still."""
        return self._stopped_at is not None

    def stop(self) -> None:
        """Stand still from now on."""
        if self._stopped_at is None:
            self._stopped_at = self._clock()

    def start(self) -> None:
        """Go on."""
        if self._stopped_at is not None:
            self._paused_s += self._clock() - self._stopped_at
            self._stopped_at = None

    def advance(self, seconds: float) -> None:
        """Skip a time that has passed on another pod."""
        self._paused_s -= seconds

    def runtime_time(self, at: float) -> float:
        """Return the time of the runtime at a time of the session, without further pauses."""
        pause_s = 0.0 if self._stopped_at is None else self._clock() - self._stopped_at
        return at + self._paused_s + pause_s
