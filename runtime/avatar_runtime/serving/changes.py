"""Notifies every watcher that the state has changed. No change between two waits is missed."""

from __future__ import annotations

import asyncio


class ChangeNotifier:
    """A change counter that watchers can wait on."""

    def __init__(self) -> None:
        self.count = 0
        """Number of changes so far."""
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Count a change and wake every watcher."""
        self.count += 1
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def wait(self, seen: int, timeout_s: float) -> None:
        """Return once the count differs from `seen`, or after the timeout."""
        if self.count != seen:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return
