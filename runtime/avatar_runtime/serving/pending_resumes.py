"""The connections that are to continue a session and have not done so yet."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from avatar_contracts import refusals
from avatar_runtime.errors import ProtocolError
from avatar_runtime.protocol import resume_limits
from avatar_runtime.serving import live_session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from avatar_runtime.metrics import Metrics

RESUME_S: Final = 5.0
"""How long a connection with `?resume=` may take to continue a session."""


@dataclass(eq=False, slots=True)
class _Pending:
    caller: str
    deadline: asyncio.Timeout
    is_displaced: bool = False

    def displace(self) -> None:
        """End the wait now."""
        self.is_displaced = True
        self.deadline.reschedule(asyncio.get_running_loop().time())


class PendingResumes:
    """Bounds the connections that have no session and no slot.

    Each has `RESUME_S`. When there are more than `resume_limits.MAX_PENDING`, one makes room
    (`resume_limits.choose_displaced`), so that silent connections keep nobody out.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._pending: list[_Pending] = []  # the oldest one first

    def __len__(self) -> int:
        return len(self._pending)

    @asynccontextmanager
    async def entered(self, caller: str) -> AsyncIterator[None]:
        """Run the body for a new connection of a caller, within `RESUME_S`.

        Raises:
            ProtocolError: the time is over, or the connection makes room for another one; its
                `close` says how to close.
        """
        entry = None
        try:
            async with asyncio.timeout(RESUME_S) as deadline:
                entry = _Pending(caller, deadline)
                self._add(entry)
                try:
                    yield
                finally:
                    if entry in self._pending:
                        self._pending.remove(entry)
        except TimeoutError:
            if entry is not None and entry.is_displaced:
                raise _displaced() from None
            raise live_session.refused() from None

    def _add(self, entry: _Pending) -> None:
        self._pending.append(entry)
        if len(self._pending) > resume_limits.MAX_PENDING:
            callers = [each.caller for each in self._pending]
            self._pending.pop(resume_limits.choose_displaced(callers)).displace()
            self._metrics.count_resume("displaced")


def _displaced() -> ProtocolError:
    limit = resume_limits.MAX_PENDING
    return ProtocolError(
        "no_capacity",
        f"{limit} newer connections wait to resume; send session.resume at once, and try again",
        value=limit + 1,
        limit=limit,
        close=refusals.TRY_LATER_CLOSE,
    )
