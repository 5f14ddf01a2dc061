"""Tells every watcher that the state has changed, and loses no change between two looks."""

from __future__ import annotations

import asyncio


class Changes:
    """A counter that can be waited on."""

    def __init__(self) -> None:
        self.count = 0
        self._event = asyncio.Event()

    def touch(self) -> None:
        """Wake every watcher."""
        self.count += 1
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def wait(self, seen: int, timeout_s: float) -> None:
        """Return once the count is past `seen`, or after the timeout."""
        if self.count != seen:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return
