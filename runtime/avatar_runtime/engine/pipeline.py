"""Two batches at a time, one on the device and one on the host, that end in their start order.

A batch has two halves: a launch, which lasts until the device is about to be free, and a finish.
A batch keeps the device until it has the host, so that a third batch is never launched. If a half
of a batch runs out of memory, the batch waits until the batches before it have ended and the
batches after it have left both halves. Then it is retried alone. A later batch can succeed or
fail meanwhile, but it never ends first.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from avatar_runtime.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

Handle = TypeVar("Handle")
Result = TypeVar("Result")


class Pipeline:
    """Orders batches; only the event loop uses it."""

    def __init__(self) -> None:
        # Both locks are fair and always acquired in this order, so that no deadlock can occur.
        self._device = asyncio.Lock()
        self._host = asyncio.Lock()
        self._last: asyncio.Future[None] | None = None

    async def run(
        self,
        launch: Callable[[], Awaitable[Handle | None]],
        finish: Callable[[Handle], Awaitable[Result | None]],
        retry: Callable[[], Awaitable[Result]],
        on_free: Callable[[], None],
    ) -> Result:
        """Return the result of a batch; `None` from a half means that it ran out of memory.

        `retry` runs while no other batch is in flight. `on_free` is called when the next batch
        may be launched, unless the device ran out of memory for this one.
        """
        before, ended = self._last, asyncio.get_running_loop().create_future()
        self._last = ended
        try:
            try:
                result = await self._attempt(launch, finish, on_free)
            except EngineError:
                await _wait_for(before)
                raise
            await _wait_for(before)
            if result is None:
                async with self.exclusive():
                    result = await retry()
            return result
        finally:
            # Also if this call is cancelled: later batches still wait for the earlier ones.
            if before is None or before.done():
                ended.set_result(None)
            else:
                before.add_done_callback(lambda _: ended.set_result(None))

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Wait until no batch is in flight, and keep new ones from starting."""
        async with self._device, self._host:
            yield

    async def _attempt(
        self,
        launch: Callable[[], Awaitable[Handle | None]],
        finish: Callable[[Handle], Awaitable[Result | None]],
        on_free: Callable[[], None],
    ) -> Result | None:
        async with self._device:
            handle = await launch()
            if handle is None:
                return None
            await self._host.acquire()
        try:
            on_free()
            return await finish(handle)
        finally:
            self._host.release()


async def _wait_for(batch: asyncio.Future[None] | None) -> None:
    if batch is not None:
        await asyncio.shield(batch)  # a cancelled waiter must not cancel the future of the batch
