"""Waits for conditions that nobody announces."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

POLL_S: Final = 0.05


async def until(holds: Callable[[], Awaitable[bool]], what: str, timeout_s: float) -> None:
    """Return once `holds()` is true. Raises `TimeoutError` that says what was waited for."""
    deadline = time.monotonic() + timeout_s
    while True:
        if await holds():
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_s:g} s")
        await asyncio.sleep(POLL_S)
