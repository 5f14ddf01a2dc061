"""Reconciles the services that are due: up to 32 at once, failures with back-off."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Final

from avatar_operator.core.workqueue import WorkQueue
from avatar_operator.errors import AvatarOperatorError, NotLeading, TemporaryError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from avatar_operator.metrics import Metrics

MAX_CONCURRENT: Final = 32  # services at once: a reconcile mostly waits for the API server
CHECK_S: Final = 1.0  # longest time between two checks whether this process may reconcile

_log = logging.getLogger(__name__)


class Worker:
    """Owns the work queue of services; keys are the UIDs of services."""

    def __init__(
        self,
        reconcile: Callable[[str], Awaitable[float | None]],
        may_work: Callable[[], bool],
        metrics: Metrics,
    ) -> None:
        """`reconcile` runs one reconcile and returns the seconds until the next one.

        None means: reconcile again only after a change. An error that it raises is retried.
        """
        self._reconcile = reconcile
        self._may_work = may_work
        self._metrics = metrics
        self._queue: WorkQueue[str] = WorkQueue()
        self._awake = asyncio.Event()

    def add_after(self, uid: str, delay_s: float) -> None:
        """Make a service due after a delay, or keep the earlier time at which it is due."""
        self._queue.add_after(uid, delay_s, asyncio.get_running_loop().time())
        self._awake.set()

    def check_now(self) -> None:
        """Check now whether this process may reconcile."""
        self._awake.set()

    def forget(self, uid: str) -> None:
        """Forget the failures of a service, because its spec or its objects have changed."""
        self._queue.forget(uid)

    def remove(self, uid: str) -> None:
        """Remove a deleted service from the queue."""
        self._queue.remove(uid)

    async def run(self) -> None:
        """Start a task for each service that is due, up to the limit, until cancelled."""
        slots = asyncio.Semaphore(MAX_CONCURRENT)

        async def work(uid: str) -> None:
            try:
                await self._process(uid)
            finally:
                slots.release()
                self._awake.set()  # the service may be due again before all others

        async with asyncio.TaskGroup() as tasks:
            while True:
                await slots.acquire()
                while (uid := self._due()) is None:
                    await self._until_due()
                tasks.create_task(work(uid), name=f"reconcile {uid}")

    def _due(self) -> str | None:
        return self._queue.get(asyncio.get_running_loop().time()) if self._may_work() else None

    async def _until_due(self) -> None:
        """Wait until a service is due, at most `CHECK_S`: a lost Lease sends no notification."""
        self._awake.clear()
        due_at = self._queue.next_at()
        wait_s = CHECK_S
        if due_at is not None and self._may_work():
            wait_s = min(CHECK_S, max(0.0, due_at - asyncio.get_running_loop().time()))
        try:
            async with asyncio.timeout(wait_s):
                await self._awake.wait()
        except TimeoutError:
            pass

    async def _process(self, uid: str) -> None:
        """Reconcile a service once; a failure is retried with exponential back-off."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            requeue_after_s = await self._reconcile(uid)
        except NotLeading:
            self._queue.done(uid)
            self.add_after(uid, 0.0)  # due as soon as this process leads again
        except AvatarOperatorError as error:
            asked_s = error.delay_s if isinstance(error, TemporaryError) else None
            delay_s = self._queue.fail(uid, loop.time(), random.random(), asked_s or 0.0)
            self._metrics.observe_reconcile(loop.time() - started, succeeded=False)
            _log.warning("reconcile failed uid=%s retry_s=%.1f fault=%s", uid, delay_s, error)
        except Exception:
            # A bug that one service triggers must not stop the reconciles of all others.
            delay_s = self._queue.fail(uid, loop.time(), random.random())
            self._metrics.observe_reconcile(loop.time() - started, succeeded=False)
            _log.exception("reconcile failed uid=%s retry_s=%.1f", uid, delay_s)
        else:
            self._queue.done(uid)
            self._metrics.observe_reconcile(loop.time() - started, succeeded=True)
            if requeue_after_s is not None:
                self.add_after(uid, requeue_after_s)
