"""The loop of a controller that writes the status of all objects of a kind."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final

from avatar_operator.core.claims import Claim, read_claim
from avatar_operator.errors import AvatarOperatorError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from avatar_operator.controllers.claims import Claims

DELAY_S: Final = 0.25  # collects changes: the pods of a rollout start together
RETRY_S: Final = 2.0

_log = logging.getLogger(__name__)


class StatusLoop:
    """Calls a function after changes, while this replica leads."""

    def __init__(
        self, kind: str, write_all: Callable[[], Awaitable[None]], leads: Callable[[], bool],
        claims: Claims, duty: float = 0.0,
    ) -> None:  # fmt: skip
        """Make a loop that waits for `wake`.

        Args:
            kind: the kind of the objects, for the log.
            write_all: writes each status that changed.
            leads: returns whether this replica leads.
            claims: knows the other installations.
            duty: a long call is followed by a pause of this many times its duration.
        """
        self._kind = kind
        self._write_all = write_all
        self._leads = leads
        self._claims = claims
        self._duty = duty
        self._awake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def wake(self) -> None:
        """Write again: an object, what it describes, or the leadership changed."""
        self._awake.set()

    def wake_after(self, seconds: float) -> None:
        """Write again after a time, or earlier: a call decides all delays again.

        Only the earliest of all delays has a timer, however often the objects of a kind ask.
        """
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= loop.time() + seconds:
                return
            self._timer.cancel()
        self._timer = loop.call_later(seconds, self._wake_by_timer)

    def _wake_by_timer(self) -> None:
        self._timer = None
        self.wake()

    async def run(self) -> None:
        """Write after each change, until cancelled."""
        while True:
            await self._awake.wait()
            await asyncio.sleep(DELAY_S)
            self._awake.clear()
            if not self._leads():
                continue  # leadership wakes it again
            started = time.monotonic()
            try:
                await self._write_all()
            except AvatarOperatorError as error:
                _log.warning("cannot write the status of a %s fault=%s", self._kind, error)
                await asyncio.sleep(RETRY_S)
                self.wake()
            if self._duty:
                await asyncio.sleep(self._duty * (time.monotonic() - started))

    async def may_write(self, status: Mapping[str, object]) -> bool:
        """Return whether no other installation writes a status; otherwise look again later."""
        holder = read_claim(status)
        if await self._claims.check(holder) is not Claim.HELD:
            return True
        self.wake_after(self._claims.recheck_s(holder))
        return False
