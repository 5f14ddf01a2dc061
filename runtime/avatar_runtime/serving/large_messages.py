"""Lets the large messages of all sessions take turns, so that they do not delay small ones."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LARGE_BYTES: Final = 256 * 1024
"""A message from this size on takes turns: 4 s of audio at 24 kHz in base64."""
REST: Final = 3.0
"""Time without a large message after each, as a multiple of the time that it took.

A message is handled in one piece: 19 MiB take about 50 ms of the event loop. Other sessions wait
for one of them at most, and large messages use at most a quarter of the loop.
"""


class LargeMessages:
    """The turns of one process."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def turn(self, size: int) -> AsyncIterator[None]:
        """Handle a message of `size` bytes in the body; a small one does not wait."""
        if size < LARGE_BYTES:
            yield
            return
        loop = asyncio.get_running_loop()
        async with self._lock:
            started = loop.time()
            yield
            await asyncio.sleep(REST * (loop.time() - started))
