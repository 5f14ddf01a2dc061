"""Turns at work that is done one at a time, shared fairly between callers."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from avatar_runtime.errors import Rejection
from avatar_runtime.protocol import resume_limits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MAX_PER_CALLER: Final = 64
"""Requests of one caller that wait or are served, at most: a client asks for a few at a time."""
MAX_WAITING: Final = 1024
"""Requests of all callers that wait, at most."""
_RETRY_AFTER_S: Final = 1

_Turn = asyncio.Future[None]


class FairTurns:
    """Gives one turn at a time, to one caller after another.

    The requests of a caller wait behind its own requests only: with *n* callers, each gets one of
    *n* turns, however many requests the others have. When all places are taken, a request of the
    caller that has most of them makes room.
    """

    def __init__(self) -> None:
        self._is_taken = False
        self._counts: dict[str, int] = {}
        self._queues: OrderedDict[str, deque[_Turn]] = OrderedDict()  # the next caller first

    def __len__(self) -> int:
        """Return how many requests wait."""
        return sum(map(len, self._queues.values()))

    @asynccontextmanager
    async def taken(self, caller: str) -> AsyncIterator[None]:
        """Run the body in a turn of a caller.

        Raises:
            Rejection: the caller has too many requests, or this one makes room for another caller.
        """
        count = self._counts.get(caller, 0)
        if count >= MAX_PER_CALLER:
            raise _refused(f"{count} requests of this caller wait", MAX_PER_CALLER)
        self._counts[caller] = count + 1
        try:
            await self._wait(caller)
            try:
                yield
            finally:
                self._pass_on()
        finally:
            self._counts[caller] -= 1
            if not self._counts[caller]:
                del self._counts[caller]

    async def _wait(self, caller: str) -> None:
        if not self._is_taken:
            self._is_taken = True
            return
        turn: _Turn = asyncio.get_running_loop().create_future()
        self._queues.setdefault(caller, deque()).append(turn)
        if len(self) > MAX_WAITING:
            self._displace()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._pass_on()
            else:
                self._remove(caller, turn)
            raise

    def _pass_on(self) -> None:
        """Give the turn to the caller that has waited longest for one."""
        while self._queues:
            caller, queue = self._queues.popitem(last=False)
            turn = queue.popleft()
            if queue:
                self._queues[caller] = queue
            if not turn.done():
                turn.set_result(None)
                return
        self._is_taken = False

    def _displace(self) -> None:
        callers = [caller for caller, queue in self._queues.items() for _ in queue]
        caller = callers[resume_limits.choose_displaced(callers)]
        turn = self._queues[caller].pop()
        if not self._queues[caller]:
            del self._queues[caller]
        turn.set_exception(_refused(f"{MAX_WAITING} requests wait", MAX_WAITING))

    def _remove(self, caller: str, turn: _Turn) -> None:
        queue = self._queues.get(caller)
        if queue is not None and turn in queue:
            queue.remove(turn)
            if not queue:
                del self._queues[caller]


def _refused(fault: str, limit: int) -> Rejection:
    return Rejection(
        503,
        1013,
        "no_capacity",
        f"{fault}, the limit is {limit}",
        value=limit,
        limit=limit,
        retry_after_s=_RETRY_AFTER_S,
    )
