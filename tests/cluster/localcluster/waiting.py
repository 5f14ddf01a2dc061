"""Waits for conditions with a deadline; the error message has the last value."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

POLL_S: Final = 0.05
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
        seen = await read()
        if holds(seen):
            return seen
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {within_s:g} s, last seen: {seen!r}")
        await asyncio.sleep(POLL_S)
