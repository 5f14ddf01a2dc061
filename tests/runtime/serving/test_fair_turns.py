"""Turns that callers share."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from avatar_runtime.errors import Rejection
from avatar_runtime.serving import fair_turns
from avatar_runtime.serving.fair_turns import FairTurns


class Work:
    """Requests that each note their caller in a turn."""

    def __init__(self) -> None:
        self.turns = FairTurns()
        self.gate = asyncio.Event()
        self.served: list[str] = []

    async def run(self, caller: str) -> None:
        async with self.turns.taken(caller):
            self.served.append(caller)
            await self.gate.wait()

    async def start(self, callers: str) -> list[asyncio.Task[None]]:
        tasks = [asyncio.create_task(self.run(caller)) for caller in callers]
        await asyncio.sleep(0)
        return tasks

    async def finish(self, tasks: list[asyncio.Task[None]]) -> str:
        self.gate.set()
        await asyncio.gather(*tasks)
        return "".join(self.served)


async def test_callers_are_served_in_turn() -> None:
    work = Work()
    tasks = await work.start("aaaaaabbc")
    assert await work.finish(tasks) == "aabcabaaa"
    assert len(work.turns) == 0


async def test_too_many_requests_refuse_their_own_caller_only() -> None:
    work = Work()
    most = fair_turns.MAX_PER_CALLER
    tasks = await work.start("a" * most)
    with pytest.raises(Rejection, match=f"the limit is {most}") as refused:
        await work.run("a")
    assert (refused.value.status, refused.value.code) == (503, "no_capacity")
    assert (refused.value.limit, refused.value.retry_after_s) == (most, 1)
    tasks += await work.start("b")
    assert (await work.finish(tasks)).startswith("aab" if most > 2 else "ab")
    await work.run("a")  # its places are free again


async def test_a_full_queue_displaces_the_caller_that_has_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fair_turns, "MAX_WAITING", 4)
    work = Work()
    first = await work.start("aaabb")
    [late] = await work.start("c")
    work.gate.set()
    results = await asyncio.gather(*first, late, return_exceptions=True)
    refused = [index for index, each in enumerate(results) if isinstance(each, Rejection)]
    assert refused == [2]
    assert sorted(work.served) == ["a", "a", "b", "b", "c"]


async def test_a_request_that_is_cancelled_passes_its_turn_on() -> None:
    work = Work()
    tasks = await work.start("abcb")
    for task in (tasks[0], tasks[1]):  # the one that has the turn, and the one that gets it
        task.cancel()
    with suppress(asyncio.CancelledError):
        await tasks[0]
    with suppress(asyncio.CancelledError):
        await tasks[1]
    work.gate.set()
    await asyncio.gather(*tasks[2:])
    assert work.served == ["a", "c", "b"]
    assert len(work.turns) == 0


async def test_a_failure_gives_the_turn_back() -> None:
    turns = FairTurns()
    with pytest.raises(ValueError, match="broken"):
        async with turns.taken("a"):
            raise ValueError("broken")
    async with turns.taken("a"):
        assert len(turns) == 0
