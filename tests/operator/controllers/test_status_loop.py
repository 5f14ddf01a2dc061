"""The write of one object's status delays no other object, however slow or refused it is."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest_asyncio

from avatar_operator.controllers import status_loop
from avatar_operator.errors import TemporaryError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import pytest

DEADLINE_S = 10.0


class Objects:
    """Objects that are written once each; some writes never end, some are refused."""

    def __init__(self, count: int) -> None:
        self.wanted = [f"uid-{number}" for number in range(count)]
        self.slow: set[str] = set()
        self.refused: set[str] = set()
        self.tries: Counter[str] = Counter()
        self.written: set[str] = set()
        self.most_at_once = 0
        self.released = asyncio.Event()
        self._at_once = 0
        self._changed = asyncio.Event()
        claims: Any = None
        self.loop = status_loop.StatusLoop("thing", self._check_all, lambda: True, claims)

    async def _check_all(self) -> None:
        self.loop.keep(self.wanted)
        for uid in self.wanted:
            if uid not in self.written and self.loop.may_start(uid):
                self.loop.start(uid, self._write(uid))

    async def _write(self, uid: str) -> None:
        self.tries[uid] += 1
        is_refused = uid in self.refused
        self._changed.set()
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            if uid in self.slow:
                await self.released.wait()
            await asyncio.sleep(0)
            if is_refused:
                raise TemporaryError("PATCH", 500, "a webhook refused it")
        finally:
            self._at_once -= 1
        self.written.add(uid)
        self._changed.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not holds():
                self._changed.clear()
                await self._changed.wait()


@pytest_asyncio.fixture
async def objects(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Objects]:
    monkeypatch.setattr(status_loop, "DELAY_S", 0.0)
    objects = Objects(3 * status_loop.MAX_WRITES)
    task = asyncio.create_task(objects.loop.run())
    yield objects
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_slow_write_delays_its_own_object_only(objects: Objects) -> None:
    objects.slow = {"uid-0", "uid-7"}
    objects.loop.wake()
    await objects.until(lambda: len(objects.written) == len(objects.wanted) - 2)
    assert objects.written == set(objects.wanted) - objects.slow
    assert objects.most_at_once == status_loop.MAX_WRITES
    objects.released.set()
    await objects.until(lambda: objects.slow <= objects.written)
    assert set(objects.tries.values()) == {1}


async def test_a_refused_write_delays_its_own_object_only(objects: Objects) -> None:
    objects.refused = {"uid-0"}
    objects.loop.wake()
    await objects.until(lambda: len(objects.written) == len(objects.wanted) - 1)
    assert objects.tries["uid-0"] == 1
    objects.loop.wake()  # a change of another object does not end the delay
    for _ in range(10):
        await asyncio.sleep(0)
    assert objects.tries["uid-0"] == 1


async def test_the_delay_of_a_refused_write_doubles_and_ends_with_success(
    objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_loop, "RETRY_S", 0.02)
    monkeypatch.setattr(status_loop, "LONGEST_RETRY_S", 0.05)
    objects.wanted, objects.refused = ["uid-0"], {"uid-0"}
    clock = asyncio.get_running_loop().time
    times = []
    objects.loop.wake()
    for number in range(1, 6):
        await objects.until(lambda number=number: objects.tries["uid-0"] == number)  # type: ignore[misc]
        times.append(clock())
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert all(
        pause >= least - 0.002
        for pause, least in zip(pauses, [0.02, 0.04, 0.05, 0.05], strict=True)
    )
    objects.refused = set()
    await objects.until(lambda: bool(objects.written))
    assert objects.tries["uid-0"] == 6
