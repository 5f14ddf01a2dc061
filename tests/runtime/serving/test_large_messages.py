"""Large messages of several sessions take turns; small ones do not wait."""

from __future__ import annotations

import asyncio
import itertools
import time

from avatar_runtime.serving.large_messages import LARGE_BYTES, REST, LargeMessages

WORK_S = 0.01


async def test_large_messages_leave_most_of_the_loop_to_others() -> None:
    messages, spans = LargeMessages(), list[tuple[float, float]]()

    async def handle() -> None:
        async with messages.turn(LARGE_BYTES):
            started = time.monotonic()
            while time.monotonic() < started + WORK_S:
                pass  # as the parser does
            spans.append((started, time.monotonic()))

    await asyncio.gather(*(handle() for _ in range(4)))
    pairs = itertools.pairwise(spans)
    assert all(later[0] - earlier[1] >= 0.9 * REST * WORK_S for earlier, later in pairs)


async def test_a_small_message_does_not_wait_for_a_large_one() -> None:
    messages, order = LargeMessages(), list[str]()
    is_handled = asyncio.Event()

    async def large() -> None:
        async with messages.turn(LARGE_BYTES):
            await is_handled.wait()
            order.append("large")

    task = asyncio.create_task(large())
    await asyncio.sleep(0)
    async with messages.turn(LARGE_BYTES - 1):
        order.append("small")
    is_handled.set()
    await task
    assert order == ["small", "large"]
