"""Waits for conditions with a deadline; the error message has the last value."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

POLL_S: Final = 0.05
LONGEST_POLL_S: Final = 0.25
"""Seconds between two reads: as long as the read took, within these limits, so that reads by a
process leave the processors to what they wait for."""
T = TypeVar("T")


async def until(
    read: Callable[[], Awaitable[T]], holds: Callable[[T], bool], what: str, within_s: float = 30
) -> T:
    """Return the first value of `read` for which `holds` is true.

    Raises:
        TimeoutError: it does not hold within `within_s` seconds; the message has `what` and the
            last value.
    """
    deadline = time.monotonic() + within_s
    while True:
        begun = time.monotonic()
        seen = await read()
        if holds(seen):
            return seen
        now = time.monotonic()
        if now > deadline:
            raise TimeoutError(f"{what}: not within {within_s:g} s, last seen: {seen!r}")
        await asyncio.sleep(min(max(POLL_S, now - begun), LONGEST_POLL_S))
