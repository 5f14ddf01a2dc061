"""The loop of a controller that writes the status of all objects of a kind."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from avatar_contracts.backoff import doubled
from avatar_operator.core.claims import Claim, read_claim
from avatar_operator.errors import AvatarOperatorError, Conflict, NotFound

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

    from avatar_operator.controllers.claims import Claims
    from avatar_operator.core.resources.fields import Body

DELAY_S: Final = 0.25  # collects changes: the pods of a rollout start together
RETRY_S: Final = 2.0  # after the first failed write of an object; doubles with each further one
LONGEST_RETRY_S: Final = 60.0
MAX_WRITES: Final = 16  # objects at once: a write mostly waits for the API server

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Failures:
    count: int
    retry_at: float
    """Seconds on the clock of the event loop."""


class StatusLoop:
    """Calls a function after changes, while this replica leads, and runs the writes it starts.

    Each object has its own write, with its own retries: one that is slow or refused delays no
    other object.
    """

    def __init__(
        self, kind: str, check_all: Callable[[], Awaitable[None]], leads: Callable[[], bool],
        claims: Claims, duty: float = 0.0,
    ) -> None:  # fmt: skip
        """Make a loop that waits for `wake`.

        Args:
            kind: the kind of the objects, for the log.
            check_all: starts the write of each status that changed; does no I/O itself.
            leads: returns whether this replica leads.
            claims: knows the other installations.
            duty: a long call is followed by a pause of this many times its duration.
        """
        self._kind = kind
        self._check_all = check_all
        self._leads = leads
        self._claims = claims
        self._duty = duty
        self._awake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._writes: dict[str, asyncio.Task[None]] = {}  # by UID of the object
        self._failures: dict[str, _Failures] = {}  # by UID of the object
        self._slots = asyncio.Semaphore(MAX_WRITES)
        self._checks_after_write = False

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
        """Check after each change, until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            while True:
                await self._awake.wait()
                await asyncio.sleep(DELAY_S)
                self._awake.clear()
                if not self._leads():
                    continue  # leadership wakes it again
                started = time.monotonic()
                await self._check_all()
                if self._duty:
                    await asyncio.sleep(self._duty * (time.monotonic() - started))

    def keep(self, uids: Collection[str]) -> None:
        """Forget the failures of all other objects: they were deleted."""
        self._failures = {uid: each for uid, each in self._failures.items() if uid in uids}

    def may_start(self, uid: str) -> bool:
        """Return whether a write of an object may start now; otherwise check again when it may."""
        if uid in self._writes:
            self._checks_after_write = True
            return False
        failures = self._failures.get(uid)
        if failures is None:
            return True
        wait_s = failures.retry_at - asyncio.get_running_loop().time()
        if wait_s > 0:
            self.wake_after(wait_s)
        return wait_s <= 0

    def start(self, uid: str, write: Awaitable[None]) -> None:
        """Start the write of one object, for which `may_start` returned True.

        It waits until fewer than `MAX_WRITES` others run.
        """
        self._writes[uid] = self._group.create_task(self._write(uid, write))

    async def _write(self, uid: str, write: Awaitable[None]) -> None:
        try:
            async with self._slots:
                await write
            self._failures.pop(uid, None)
        except AvatarOperatorError as error:
            _log.warning("cannot write the status of a %s fault=%s", self._kind, error)
            self._fail(uid)
        finally:
            del self._writes[uid]
            if self._checks_after_write:
                self._checks_after_write = False
                self.wake()

    def _fail(self, uid: str) -> None:
        before = self._failures.get(uid)
        count = 1 if before is None else before.count + 1
        wait_s = doubled(RETRY_S, LONGEST_RETRY_S, count)
        retry_at = asyncio.get_running_loop().time() + wait_s
        self._failures[uid] = _Failures(count, retry_at)
        self.wake_after(wait_s)

    async def apply(
        self,
        name: str,
        before: Mapping[str, object],
        status: Body,
        send: Callable[[Body], Awaitable[Body]],
    ) -> Body | None:
        """Write the status of an object as this installation.

        Args:
            name: the name of the object, for the log.
            before: its last status.
            status: the new one.
            send: writes it, and returns the object as stored.

        Returns:
            The object as stored; None if another installation writes its status, or if it was
            changed or deleted meanwhile. Its event or a later look wakes the loop then.
        """
        if not await self._may_write(before):
            return None
        try:
            return await send({**status, "operator": self._claims.own})
        except (Conflict, NotFound) as error:
            kind = self._kind
            _log.info("%s was changed or deleted %s=%s fault=%s", kind, kind, name, error)
            return None

    async def _may_write(self, status: Mapping[str, object]) -> bool:
        """Return whether no other installation writes a status; otherwise look again later."""
        holder = read_claim(status)
        if await self._claims.check(holder) is not Claim.HELD:
            return True
        self.wake_after(self._claims.recheck_s(holder))
        return False
