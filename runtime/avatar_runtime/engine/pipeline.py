"""Two batches at a time, one on the device and one on the host, that end in the order they began.

A batch has a launch, which lasts until the device is about to be free, and a finish. It gives the
device on only when it has the host, so that no third batch is ever launched. One that either half
has refused waits for those before it to end and for those after it to leave both halves, then is
done again by itself: what is later can fail or succeed, but never be first.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from avatar_runtime.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

Launched = TypeVar("Launched")
Result = TypeVar("Result")


class Pipeline:
    """Decides whose turn it is; the event loop is its only owner."""

    def __init__(self) -> None:
        # Both locks are fair, and taken in this order alone: there is no circle to wait in.
        self._device = asyncio.Lock()
        self._host = asyncio.Lock()
        self._last: asyncio.Future[None] | None = None

    async def run(
        self,
        launch: Callable[[], Awaitable[Launched | None]],
        finish: Callable[[Launched], Awaitable[Result | None]],
        again: Callable[[], Awaitable[Result]],
        on_free: Callable[[], None],
    ) -> Result:
        """Return what a batch has come to; `None` from one of its halves is a refusal.

        `again` runs while nothing else is in flight. `on_free` is called when the next batch may
        be given, unless the device has refused this one.
        """
        before, ended = self._last, asyncio.get_running_loop().create_future()
        self._last = ended
        try:
            try:
                result = await self._attempt(launch, finish, on_free)
            except EngineError:
                await _ended(before)
                raise
            await _ended(before)
            if result is None:
                async with self.alone():
                    result = await again()
            return result
        finally:
            # Also when this one is cancelled: those after it still wait for those before it.
            if before is None or before.done():
                ended.set_result(None)
            else:
                before.add_done_callback(lambda _: ended.set_result(None))

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Wait until nothing is in flight, and keep it so."""
        async with self._device, self._host:
            yield

    async def _attempt(
        self,
        launch: Callable[[], Awaitable[Launched | None]],
        finish: Callable[[Launched], Awaitable[Result | None]],
        on_free: Callable[[], None],
    ) -> Result | None:
        async with self._device:
            launched = await launch()
            if launched is None:
                return None
            await self._host.acquire()
        try:
            on_free()
            return await finish(launched)
        finally:
            self._host.release()


async def _ended(batch: asyncio.Future[None] | None) -> None:
    if batch is not None:
        await asyncio.shield(batch)  # whoever gives up waiting does not end it
