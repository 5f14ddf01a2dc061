"""Two batches at once, in virtual time: what they cost, and what refusals do to them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avatar_runtime import errors
from avatar_runtime.batching.frames import AudioWindow, Frame, FrameRequest
from avatar_runtime.engine import device
from avatar_runtime.engine.engine import Engine, Statistics
from avatar_runtime.engine.networks import weights
from avatar_runtime.engine.pipeline import Pipeline

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence
    from pathlib import Path
    from types import SimpleNamespace

    from tests.runtime.conftest import VirtualLoop

    from avatar_runtime.avatars import cache

FRAMES = 4  # in a batch


@dataclass(frozen=True)
class Given:
    """One batch: what its halves take, and how often each of them is refused."""

    device_s: int
    host_s: int
    refused_launches: int = 0
    refused_finishes: int = 0
    waits: bool = True
    """Whether it is given when the device is free, as the batcher does, or at once."""


@dataclass
class Stay:
    """One attempt at frames of one batch, from its launch to its end."""

    batch: int
    began: float
    ended: float = inf


@dataclass
class TimedDevice:
    """Takes the time it is told to and refuses as often as it is told to."""

    loop: VirtualLoop
    plan: Sequence[Given]
    stays: list[Stay] = field(default_factory=list)
    refusals: dict[tuple[int, str], int] = field(default_factory=dict)
    name: str = "timed"
    pads: bool = False
    overlaps: bool = True

    def load(self, model_dir: Path) -> device.ModelInfo:
        vae = weights.vae_hash(weights.find(model_dir).vae)
        return device.ModelInfo("v15", vae, 3, "v15/sd-vae/none")

    def serve(self, avatars: Mapping[str, cache.Avatar]) -> None:
        """Draw nobody."""

    def refuse(self, batch: int, half: str, times: int) -> None:
        done = self.refusals.get((batch, half), 0)
        if done < times:
            self.refusals[batch, half] = done + 1
            raise errors.DeviceMemoryError(None, 0)

    def launch(self, requests: Sequence[FrameRequest]) -> Timed:
        number = requests[0].response_ref
        self.refuse(number, "launch", self.plan[number].refused_launches)
        self.stays.append(Stay(number, self.loop.clock()))
        return Timed(self, requests, self.stays[-1])

    def render(self, requests: Sequence[FrameRequest]) -> device.Rendered:
        pending = self.launch(requests)
        pending.wait_drawn()
        return pending.finish()

    def buckets(self, batch_size: int) -> Sequence[int]:
        return ()

    def curve(self) -> device.Calibration:
        return device.Calibration("v15", 0, 0, ((1, 1.0),))

    def memory(self) -> device.Memory:
        return device.Memory(1, 2)

    def release(self) -> None:
        """Take memory only from a device at rest."""
        now = self.loop.clock()
        assert all(stay.ended <= now for stay in self.stays), "memory taken from a batch in flight"

    def close(self) -> None:
        self.release()


@dataclass
class Timed:
    """A batch of the timed device."""

    owner: TimedDevice
    requests: Sequence[FrameRequest]
    stay: Stay

    def wait_drawn(self) -> None:
        self.owner.loop.sleep(self.owner.plan[self.stay.batch].device_s)

    def finish(self) -> device.Rendered:
        plan = self.owner.plan[self.stay.batch]
        self.owner.loop.sleep(plan.host_s)
        self.stay.ended = self.owner.loop.clock()
        self.owner.refuse(self.stay.batch, "finish", plan.refused_finishes)
        frames = [Frame(request, b"jpeg") for request in self.requests]
        return device.Rendered(frames, dict.fromkeys(device.STAGES, 0.0))


def batch_of(number: int) -> list[FrameRequest]:
    window = AudioWindow(0, 0, memoryview(b""), 0, 0, silent=False)
    return [
        FrameRequest("s", number, 1, i, 0.0, "anna", i, window, 80, 64, 64) for i in range(FRAMES)
    ]


@dataclass
class Made:
    """What has come of a plan."""

    device: TimedDevice
    statistics: Statistics
    frames: list[tuple[int, int]] = field(default_factory=list)
    seconds: float = 0.0


async def make(loop: VirtualLoop, assets: SimpleNamespace, plan: Sequence[Given]) -> Made:
    timed = TimedDevice(loop, plan)
    engine = Engine(timed, assets.model, assets.avatars, FRAMES, sleep=loop.sleep)
    await engine.start()
    began = loop.time()
    made = Made(timed, engine.statistics())

    async def run(number: int, is_free: asyncio.Event) -> None:
        frames = await engine.run(batch_of(number), is_free.set)
        made.frames += [(f.request.response_ref, f.request.frame_index) for f in frames]
        is_free.set()

    async with asyncio.TaskGroup() as group:
        for number, batch in enumerate(plan):
            is_free = asyncio.Event()
            group.create_task(run(number, is_free))
            if batch.waits:
                await is_free.wait()
    made.seconds = loop.time() - began
    made.statistics = engine.statistics()
    await engine.stop()
    return made


def run_in(virtual_loop: type[VirtualLoop], assets: SimpleNamespace, plan: Sequence[Given]) -> Made:
    with asyncio.Runner(loop_factory=virtual_loop) as runner:
        loop = cast("VirtualLoop", runner.get_loop())
        return runner.run(make(loop, assets, plan))


def seconds_of(plan: Sequence[Given]) -> float:
    """Return when two rooms without a place between them are through with everything."""
    device_free = host_free = 0.0
    for batch in plan:
        drawn = device_free + batch.device_s
        device_free = max(drawn, host_free)
        host_free = device_free + batch.host_s
    return host_free


@pytest.mark.parametrize(
    ("device_s", "host_s", "expected"), [(30, 10, 310), (10, 30, 310), (20, 20, 220), (30, 0, 300)]
)
def test_a_batch_costs_its_longer_half(
    virtual_loop: type[VirtualLoop],
    assets: SimpleNamespace,
    device_s: int,
    host_s: int,
    expected: int,
) -> None:
    """Ten batches one after the other would take ten times the sum of both halves."""
    made = run_in(virtual_loop, assets, [Given(device_s, host_s)] * 10)

    assert made.seconds == expected


plans = st.lists(
    st.builds(
        Given,
        device_s=st.integers(0, 5),
        host_s=st.integers(0, 5),
        refused_launches=st.sampled_from([0, 0, 0, 1, 2, 4]),
        refused_finishes=st.sampled_from([0, 0, 0, 1, 2, 4]),
        waits=st.booleans(),
    ),
    min_size=1,
    max_size=8,
)


@pytest.mark.slow
@given(plan=plans)
@settings(deadline=None, max_examples=200)
def test_whatever_is_refused_every_frame_comes_once_and_in_order(
    virtual_loop: type[VirtualLoop], assets: SimpleNamespace, plan: list[Given]
) -> None:
    """A loop in which every task waits for ever fails by itself."""
    made = run_in(virtual_loop, assets, plan)

    assert made.frames == [(n, i) for n in range(len(plan)) for i in range(FRAMES)]
    refused = sum(batch.refused_launches + batch.refused_finishes for batch in plan)
    assert made.statistics.oom_recoveries == refused
    stays = sorted(made.device.stays, key=lambda stay: (stay.began, stay.ended))
    for i, stay in enumerate(stays):
        beside = [s for s in stays[:i] if s.ended > stay.began]
        assert len(beside) <= 1, "three batches in flight"
    if refused == 0:
        assert made.seconds == seconds_of(plan)


def test_a_refused_batch_is_done_again_by_itself(
    virtual_loop: type[VirtualLoop], assets: SimpleNamespace
) -> None:
    plan = [Given(4, 2), Given(4, 2, refused_finishes=1), Given(4, 2), Given(4, 2)]
    stays = run_in(virtual_loop, assets, plan).device.stays

    # The third is on the device when the second is refused at 10 s, and the fourth has to wait.
    assert [(s.batch, s.began, s.ended) for s in stays] == [
        (0, 0, 6), (1, 4, 10), (2, 8, 14), (1, 14, 20), (1, 20, 26), (3, 26, 32),
    ]  # fmt: skip
    assert all(later.began >= earlier.began for earlier, later in pairwise(stays))


async def test_a_batch_that_is_cancelled_lets_nobody_past_those_before_it() -> None:
    pipeline, ended, gate = Pipeline(), list[int](), asyncio.Event()

    async def launched() -> str:
        await asyncio.sleep(0)  # so that all have asked for the device before the first ends
        return "launched"

    async def made(number: int) -> str | None:
        return "made" if number else None  # the first is refused

    async def again() -> str:
        await gate.wait()
        return "made again"

    async def run(number: int) -> None:
        await pipeline.run(launched, lambda _: made(number), again, lambda: None)
        ended.append(number)

    tasks = [asyncio.create_task(run(number)) for number in range(3)]
    await _until_all_wait()
    tasks[1].cancel()
    await _until_all_wait()
    assert ended == []
    gate.set()
    await asyncio.wait(tasks, timeout=20)

    assert ended == [0, 2]
    assert tasks[1].cancelled()


async def test_a_batch_that_fails_lets_those_before_it_end_first() -> None:
    pipeline, ended = Pipeline(), list[str]()
    gate = asyncio.Event()

    async def launched() -> str:
        return "launched"

    async def broken() -> str:
        raise errors.EngineError("a batch failed")

    async def finished(_: str) -> str:
        await gate.wait()
        return "finished"

    async def run(launch: Coroutine[None, None, str]) -> None:
        try:
            ended.append(await pipeline.run(lambda: launch, finished, _never, lambda: None))
        except errors.EngineError:
            ended.append("failed")

    tasks = [asyncio.create_task(run(launch)) for launch in (launched(), broken())]
    await _until_all_wait()
    assert ended == []
    gate.set()
    await asyncio.wait(tasks, timeout=20)

    assert ended == ["finished", "failed"]


async def _until_all_wait() -> None:
    for _ in range(20):  # turns of the loop; nothing here takes as many
        await asyncio.sleep(0)


async def _never(*_: object) -> str:
    raise AssertionError("this half is not to be reached")
