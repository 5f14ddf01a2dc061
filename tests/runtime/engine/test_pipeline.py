"""Two batches at once, in virtual time: what they cost, and what failures do to them."""

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
class BatchPlan:
    """One batch: what its halves take, and how often each of them is refused."""

    device_s: int
    host_s: int
    failed_launches: int = 0
    failed_finishes: int = 0
    waits: bool = True
    """Whether it is given when the device is free, as the batcher does, or at once."""


@dataclass
class Attempt:
    """One attempt at frames of one batch, from its launch to its end."""

    batch: int
    began: float
    ended: float = inf


@dataclass
class TimedDevice:
    """Takes the time it is reported to and refuses as often as it is reported to."""

    loop: VirtualLoop
    plan: Sequence[BatchPlan]
    attempts: list[Attempt] = field(default_factory=list)
    failures: dict[tuple[int, str], int] = field(default_factory=dict)
    name: str = "timed"
    pads: bool = False
    overlaps: bool = True

    def load(self, model_dir: Path) -> device.ModelInfo:
        vae = weights.vae_hash(weights.find(model_dir).vae)
        return device.ModelInfo("v15", vae, 3, "v15/sd-vae/none")

    def serve(self, avatars: Mapping[str, cache.Avatar]) -> None:
        """Draw nobody."""

    def fail(self, batch: int, half: str, times: int) -> None:
        done = self.failures.get((batch, half), 0)
        if done < times:
            self.failures[batch, half] = done + 1
            raise errors.DeviceMemoryError(None, 0)

    def launch(self, requests: Sequence[FrameRequest]) -> TimedInFlight:
        number = requests[0].response_ref
        self.fail(number, "launch", self.plan[number].failed_launches)
        self.attempts.append(Attempt(number, self.loop.clock()))
        return TimedInFlight(self, requests, self.attempts[-1])

    def render(self, requests: Sequence[FrameRequest]) -> device.Rendered:
        in_flight = self.launch(requests)
        in_flight.wait_forward()
        return in_flight.finish()

    def buckets(self, batch_size: int) -> Sequence[int]:
        return ()

    def curve(self) -> device.Curve:
        return device.Curve("v15", 0, 0, ((1, 1.0),))

    def memory(self) -> device.Memory:
        return device.Memory(1, 2)

    def release(self) -> None:
        """Take memory only from a device at rest."""
        now = self.loop.clock()
        assert all(attempt.ended <= now for attempt in self.attempts), (
            "memory taken from a batch in flight"
        )

    def close(self) -> None:
        self.release()


@dataclass
class TimedInFlight:
    """A batch of the timed device."""

    owner: TimedDevice
    requests: Sequence[FrameRequest]
    attempt: Attempt

    def wait_forward(self) -> None:
        self.owner.loop.sleep(self.owner.plan[self.attempt.batch].device_s)

    def finish(self) -> device.Rendered:
        plan = self.owner.plan[self.attempt.batch]
        self.owner.loop.sleep(plan.host_s)
        self.attempt.ended = self.owner.loop.clock()
        self.owner.fail(self.attempt.batch, "finish", plan.failed_finishes)
        frames = [Frame(request, b"jpeg") for request in self.requests]
        return device.Rendered(frames, dict.fromkeys(device.STAGES, 0.0))


def batch_of(number: int) -> list[FrameRequest]:
    window = AudioWindow(0, 0, memoryview(b""), 0, 0, silent=False)
    return [
        FrameRequest("s", number, 1, i, 0.0, "anna", i, window, 80, 64, 64) for i in range(FRAMES)
    ]


@dataclass
class Outcome:
    """What has come of a plan."""

    device: TimedDevice
    statistics: Statistics
    frames: list[tuple[int, int]] = field(default_factory=list)
    seconds: float = 0.0


async def make(loop: VirtualLoop, assets: SimpleNamespace, plan: Sequence[BatchPlan]) -> Outcome:
    timed = TimedDevice(loop, plan)
    engine = Engine(timed, assets.model, assets.avatars, FRAMES, sleep=loop.sleep)
    await engine.start()
    began = loop.time()
    made = Outcome(timed, engine.statistics())

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


def run_in(
    virtual_loop: type[VirtualLoop], assets: SimpleNamespace, plan: Sequence[BatchPlan]
) -> Outcome:
    with asyncio.Runner(loop_factory=virtual_loop) as runner:
        loop = cast("VirtualLoop", runner.get_loop())
        return runner.run(make(loop, assets, plan))


def seconds_of(plan: Sequence[BatchPlan]) -> float:
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
    made = run_in(virtual_loop, assets, [BatchPlan(device_s, host_s)] * 10)

    assert made.seconds == expected


plans = st.lists(
    st.builds(
        BatchPlan,
        device_s=st.integers(0, 5),
        host_s=st.integers(0, 5),
        failed_launches=st.sampled_from([0, 0, 0, 1, 2, 4]),
        failed_finishes=st.sampled_from([0, 0, 0, 1, 2, 4]),
        waits=st.booleans(),
    ),
    min_size=1,
    max_size=8,
)


@pytest.mark.slow
@given(plan=plans)
@settings(max_examples=200)
def test_every_frame_comes_once_and_in_order_if_memory_runs_out(
    virtual_loop: type[VirtualLoop], assets: SimpleNamespace, plan: list[BatchPlan]
) -> None:
    """a loop in which every task waits indefinitely fails by itself."""
    made = run_in(virtual_loop, assets, plan)

    assert made.frames == [(n, i) for n in range(len(plan)) for i in range(FRAMES)]
    refused = sum(batch.failed_launches + batch.failed_finishes for batch in plan)
    assert made.statistics.oom_recoveries == refused
    attempts = sorted(made.device.attempts, key=lambda attempt: (attempt.began, attempt.ended))
    for i, attempt in enumerate(attempts):
        beside = [s for s in attempts[:i] if s.ended > attempt.began]
        assert len(beside) <= 1, "three batches in flight"
    if refused == 0:
        assert made.seconds == seconds_of(plan)


def test_a_batch_that_ran_out_of_memory_is_retried_alone(
    virtual_loop: type[VirtualLoop], assets: SimpleNamespace
) -> None:
    plan = [BatchPlan(4, 2), BatchPlan(4, 2, failed_finishes=1), BatchPlan(4, 2), BatchPlan(4, 2)]
    attempts = run_in(virtual_loop, assets, plan).device.attempts

    # The third is on the device when the second is refused at 10 s, and the fourth has to wait.
    assert [(s.batch, s.began, s.ended) for s in attempts] == [
        (0, 0, 6), (1, 4, 10), (2, 8, 14), (1, 14, 20), (1, 20, 26), (3, 26, 32),
    ]  # fmt: skip
    assert all(later.began >= earlier.began for earlier, later in pairwise(attempts))


async def test_a_cancelled_batch_does_not_let_later_ones_overtake_earlier_ones() -> None:
    pipeline, ended, gate = Pipeline(), list[int](), asyncio.Event()

    async def launched() -> str:
        await asyncio.sleep(0)  # so that all have asked for the device before the first ends
        return "launched"

    async def made(number: int) -> str | None:
        return "made" if number else None  # the first is refused

    async def retry() -> str:
        await gate.wait()
        return "retried"

    async def run(number: int) -> None:
        await pipeline.run(launched, lambda _: made(number), retry, lambda: None)
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


async def test_a_failed_batch_ends_after_the_earlier_ones() -> None:
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
