from __future__ import annotations

import asyncio

import pytest

from avatar_operator.errors import NotLeading
from avatar_operator.fence import Fence, clock


def test_no_write_passes_before_opening_and_after_closing() -> None:
    fence = Fence()
    with pytest.raises(NotLeading, match="does not lead"), fence.guard():
        pytest.fail("a write passed")
    fence.open_until(clock() + 60, epoch=3)
    assert fence.is_open()
    assert fence.epoch == 3
    fence.close()
    assert not fence.is_open()
    with pytest.raises(NotLeading), fence.guard():
        pytest.fail("a write passed")


def test_a_write_gets_its_time_limit() -> None:
    fence = Fence()
    fence.open_until(clock() + 2.5, epoch=1)
    with fence.guard() as left_s:
        assert 0 < left_s <= 2.5


def test_the_fence_closes_when_the_term_ends() -> None:
    fence = Fence()
    fence.open_until(clock(), epoch=1)
    assert not fence.is_open()
    with pytest.raises(NotLeading), fence.guard():
        pytest.fail("a write passed")


def test_the_time_without_writes_before_a_term_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("avatar_operator.fence.clock", lambda: now)
    fence = Fence()
    fence.open_until(now + 2.5, epoch=1)
    assert fence.gap_s == 0.0
    now += 1.0
    fence.open_until(now + 2.5, epoch=1)  # renewed in time
    assert fence.gap_s == 0.0
    now += 62.5  # suspended; the term ended 60 s before
    fence.open_until(now + 2.5, epoch=1)
    assert fence.gap_s == 60.0
    now += 1.0
    fence.close()
    now += 5.0
    fence.close()
    now += 5.0
    fence.open_until(now + 2.5, epoch=2)
    assert fence.gap_s == 10.0


async def test_writes_in_flight_can_be_awaited_after_closing(fence: Fence) -> None:
    with fence.guard():
        with fence.guard():
            pass
        waiting = asyncio.create_task(fence.wait_until_idle())
        fence.close()
        await asyncio.sleep(0)
        assert not waiting.done()
    await waiting
