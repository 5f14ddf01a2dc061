from __future__ import annotations

import asyncio

import pytest

from avatar_operator.errors import NotLeading
from avatar_operator.fence import Fence, clock


def test_nothing_passes_before_it_is_opened_and_after_it_is_closed() -> None:
    fence = Fence()
    with pytest.raises(NotLeading, match="does not lead"), fence.passage():
        pytest.fail("a write passed")
    fence.open_until(clock() + 60, epoch=3)
    assert fence.is_open()
    assert fence.epoch == 3
    fence.close()
    assert not fence.is_open()
    with pytest.raises(NotLeading), fence.passage():
        pytest.fail("a write passed")


def test_what_passes_hears_how_long_it_may_take() -> None:
    fence = Fence()
    fence.open_until(clock() + 2.5, epoch=1)
    with fence.passage() as left_s:
        assert 0 < left_s <= 2.5


def test_it_closes_by_itself_when_its_time_is_over() -> None:
    fence = Fence()
    fence.open_until(clock(), epoch=1)
    assert not fence.is_open()
    with pytest.raises(NotLeading), fence.passage():
        pytest.fail("a write passed")


async def test_whoever_closes_it_can_wait_for_those_inside(fence: Fence) -> None:
    with fence.passage():
        with fence.passage():
            pass
        waiting = asyncio.create_task(fence.emptied())
        fence.close()
        await asyncio.sleep(0)
        assert not waiting.done()
    await waiting
