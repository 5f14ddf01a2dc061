"""Works on services when they are due: many at once, each once at a time, failures again later."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Final

from avatar_operator import metrics
from avatar_operator.core.workqueue import Agenda
from avatar_operator.errors import AvatarOperatorError, NotLeading, TemporaryError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

IN_WORK: Final = 32  # services at once: nearly all of their time they wait for answers
LOOK_S: Final = 1.0  # the longest that nobody looks whether work may begin

_log = logging.getLogger(__name__)


class Worker:
    """The owner of the agenda of services, by their UIDs."""

    def __init__(
        self,
        reconcile: Callable[[str], Awaitable[float | None]],
        may_work: Callable[[], bool],
    ) -> None:
        """`reconcile` goes one round and returns after how many seconds to go another one.

        None is only when something wakes the service. What it raises is tried again.
        """
        self._reconcile = reconcile
        self._may_work = may_work
        self._agenda: Agenda[str] = Agenda()
        self._awake = asyncio.Event()

    def wake(self, uid: str, after_s: float) -> None:
        """Let a service be due after some seconds, or sooner if it already is."""
        self._agenda.wake(uid, asyncio.get_running_loop().time() + after_s)
        self._awake.set()

    def look(self) -> None:
        """Look now whether work may begin."""
        self._awake.set()

    def pardon(self, uid: str) -> None:
        """Forget that work on a service failed, since its spec is another one now."""
        self._agenda.pardon(uid)

    def forget(self, uid: str) -> None:
        """Let a service that is gone be due no more."""
        self._agenda.forget(uid)

    async def run(self) -> None:
        """Start work on whatever is due, as long as there is room, until cancelled."""
        room = asyncio.Semaphore(IN_WORK)

        async def work(uid: str) -> None:
            try:
                await self._work(uid)
            finally:
                room.release()
                self._awake.set()  # it may be due again, sooner than anything else

        async with asyncio.TaskGroup() as tasks:
            while True:
                await room.acquire()
                while (uid := self._due()) is None:
                    await self._until_due()
                tasks.create_task(work(uid), name=f"work on {uid}")

    def _due(self) -> str | None:
        return self._agenda.take(asyncio.get_running_loop().time()) if self._may_work() else None

    async def _until_due(self) -> None:
        """Wait until a service is due, or for a while: who leads changes without a word."""
        self._awake.clear()
        due_at = self._agenda.next_at()
        wait_s = LOOK_S
        if due_at is not None and self._may_work():
            wait_s = min(LOOK_S, max(0.0, due_at - asyncio.get_running_loop().time()))
        try:
            async with asyncio.timeout(wait_s):
                await self._awake.wait()
        except TimeoutError:
            pass

    async def _work(self, uid: str) -> None:
        """Go one round; whatever goes wrong is tried again, less and less often."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            wake_after_s = await self._reconcile(uid)
        except NotLeading:
            self._agenda.finish(uid)
            self.wake(uid, 0.0)  # for the day that this process leads again
        except AvatarOperatorError as error:
            asked_s = error.delay_s if isinstance(error, TemporaryError) else None
            delay_s = self._agenda.fail(uid, loop.time(), random.random(), asked_s or 0.0)
            metrics.observe_reconcile(loop.time() - started, succeeded=False)
            _log.warning("reconcile failed uid=%s retry_s=%.1f fault=%s", uid, delay_s, error)
        except Exception:
            # A fault of ours in one service must not end the service of all others.
            self._agenda.fail(uid, loop.time(), random.random())
            metrics.observe_reconcile(loop.time() - started, succeeded=False)
            _log.exception("reconcile broke uid=%s", uid)
        else:
            self._agenda.finish(uid)
            metrics.observe_reconcile(loop.time() - started, succeeded=True)
            if wake_after_s is not None:
                self.wake(uid, wake_after_s)
