"""The engine over a device that the test holds in its hands."""

from __future__ import annotations

import asyncio
import shutil
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

from avatar_runtime import errors
from avatar_runtime.batching.frames import AudioWindow, Frame, FrameRequest
from avatar_runtime.engine import device
from avatar_runtime.engine.engine import Engine
from avatar_runtime.engine.networks import weights

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path
    from types import SimpleNamespace

    from avatar_runtime.avatars import cache


DEADLINE_S = 20.0


@dataclass
class ScriptedInFlight:
    """A batch of the device that the test holds."""

    owner: ScriptedDevice
    batch: Sequence[FrameRequest]

    def wait_forward(self) -> None:
        self.owner.threads.add(threading.current_thread().name)

    def finish(self) -> device.Rendered:
        return self.owner.deliver(self.batch)


class ScriptedDevice:
    """Refuses batches over `room` and fails when reported to; keeps what it was asked."""

    name = "scripted"

    def __init__(self, room: int = 64, *, overlaps: bool = False) -> None:
        self.room = room
        self.overlaps = overlaps
        self.fault: Exception | None = None
        self.late_fault: Exception | None = None  # in `finish`
        self.batches: list[list[int]] = []
        self.threads: set[str] = set()
        self.finishers: set[str] = set()
        self.may_finish = threading.Event()
        self.may_finish.set()
        self.closed = False
        self.pads = False
        self.out_of_memory_at: list[str] = []  # points at which it refuses, one entry a refusal
        self.releases = 0
        self.delivering = 0
        self.was_disturbed = False
        """Whether something was taken from it while it delivered."""

    def _fail_at(self, point: str) -> None:
        if point in self.out_of_memory_at:
            self.out_of_memory_at.remove(point)
            raise errors.DeviceMemoryError(None, 0)

    def release(self) -> None:
        self.was_disturbed |= self.delivering > 0
        self.releases += 1

    def load(self, model_dir: Path) -> device.ModelInfo:
        self._fail_at("load")
        found = weights.find(model_dir)
        return device.ModelInfo("v15", weights.vae_hash(found.vae), 3, "v15/sd-vae/none")

    def serve(self, avatars: Mapping[str, cache.Avatar]) -> None:
        self._fail_at("serve")
        self.threads.add(threading.current_thread().name)

    def launch(self, batch: Sequence[FrameRequest]) -> ScriptedInFlight:
        self.threads.add(threading.current_thread().name)
        if self.fault is not None:
            raise self.fault
        self._fail_at("step")
        if len(batch) > self.room:
            raise errors.DeviceMemoryError(len(batch), self.room)
        self.batches.append([request.frame_index for request in batch])
        return ScriptedInFlight(self, batch)

    def render(self, batch: Sequence[FrameRequest]) -> device.Rendered:
        return self.launch(batch).finish()

    def deliver(self, batch: Sequence[FrameRequest]) -> device.Rendered:
        self.delivering += 1
        self.finishers.add(threading.current_thread().name)
        assert self.may_finish.wait(DEADLINE_S), "the test never let the batch finish"
        self.delivering -= 1
        self._fail_at("finish")
        if self.late_fault is not None:
            raise self.late_fault
        frames = [Frame(request, b"jpeg") for request in batch]
        return device.Rendered(frames, dict.fromkeys(device.STAGES, 0.5))

    def buckets(self, batch_size: int) -> Sequence[int]:
        return (1, batch_size)

    def curve(self) -> None:
        return None

    def memory(self) -> device.Memory:
        return device.Memory(1, 2)

    def close(self) -> None:
        self.was_disturbed |= self.delivering > 0
        self.closed = True


async def eventually(scripted: ScriptedDevice, **wanted: int) -> None:
    """Wait until the engine's threads have brought the device to a state."""

    def seen() -> dict[str, int]:
        state = {"launched": len(scripted.batches), "delivering": scripted.delivering}
        return {name: state[name] for name in wanted}

    try:
        async with asyncio.timeout(DEADLINE_S):
            while seen() != wanted:  # noqa: ASYNC110 - threads set no event of the loop's
                await asyncio.sleep(0.001)
    except TimeoutError:
        pytest.fail(f"never {wanted}; last seen: {seen()}")


@pytest.fixture(params=[False, True], ids=["in turn", "overlapping"])
def scripted(request: pytest.FixtureRequest) -> ScriptedDevice:
    return ScriptedDevice(overlaps=request.param)


@pytest.fixture
def delays() -> list[float]:
    """Return the seconds that the engine has slept."""
    return []


@pytest.fixture
async def engine(
    assets: SimpleNamespace, scripted: ScriptedDevice, delays: list[float]
) -> AsyncIterator[Engine]:
    made = Engine(scripted, assets.model, assets.avatars, 8, sleep=delays.append)
    await made.start()
    scripted.batches.clear()
    scripted.finishers.clear()
    yield made
    await made.stop()


@pytest.fixture
def batch(request_of: Callable[..., FrameRequest]) -> list[FrameRequest]:
    samples = np.zeros(1920, np.float32).data.toreadonly()
    windows = [AudioWindow(i, 0, samples, -4, 6, silent=True) for i in range(8)]
    return [request_of(window) for window in windows]


async def test_start_knows_the_avatars_and_the_curve(engine: Engine) -> None:
    assert engine.avatars["anna"].frames == 6
    assert engine.model.context_s == 3
    assert engine.curve is not None
    assert [size for size, _ in engine.curve.frame_batch_ms] == [1, 8]


async def test_frames_have_the_order_of_the_requests(
    engine: Engine, batch: list[FrameRequest]
) -> None:
    frames = await engine.run(batch)

    assert [frame.request for frame in frames] == batch


async def test_idle_frames_are_made_without_the_device_and_while_it_is_busy(
    engine: Engine, scripted: ScriptedDevice, batch: list[FrameRequest]
) -> None:
    asked = len(scripted.batches)
    scripted.fault = RuntimeError("the device is not to be asked")

    frames = await engine.idle_frames(batch)

    assert [frame.request for frame in frames] == batch
    assert all(frame.image[:2] == b"\xff\xd8" for frame in frames)
    assert len(scripted.batches) == asked


async def test_idle_frames_of_an_unknown_avatar_are_rejected(
    engine: Engine, request_of: Callable[..., FrameRequest], batch: list[FrameRequest]
) -> None:
    with pytest.raises(errors.EngineError, match="avatar 'ben' is not loaded, loaded are: anna"):
        await engine.idle_frames([request_of(batch[0].window, avatar="ben")])


async def test_only_one_thread_uses_the_device(
    engine: Engine, scripted: ScriptedDevice, batch: list[FrameRequest]
) -> None:
    await engine.run(batch)

    assert len(scripted.threads) == 1
    assert threading.current_thread().name not in scripted.threads | scripted.finishers


@pytest.mark.parametrize("scripted", [False], ids=["in turn"], indirect=True)
async def test_a_device_that_does_not_overlap_is_free_when_its_batch_ends(
    engine: Engine, scripted: ScriptedDevice, batch: list[FrameRequest]
) -> None:
    assert await engine.run(batch, lambda: pytest.fail("it was free before"))
    assert scripted.threads == scripted.finishers


@pytest.mark.parametrize("scripted", [True], ids=["overlapping"], indirect=True)
async def test_a_batch_is_launched_while_the_one_before_it_is_finished(
    engine: Engine, scripted: ScriptedDevice, batch: list[FrameRequest]
) -> None:
    scripted.may_finish.clear()
    is_free = asyncio.Event()
    async with asyncio.timeout(DEADLINE_S):
        first = asyncio.create_task(engine.run(batch[:4], is_free.set))
        await is_free.wait()
        second = asyncio.create_task(engine.run(batch[4:]))
        await eventually(scripted, launched=2)
    assert not first.done()
    scripted.may_finish.set()

    assert [frame.request for frame in [*await first, *await second]] == batch
    assert scripted.threads.isdisjoint(scripted.finishers)


async def test_a_batch_that_runs_out_of_memory_at_its_end_is_halved_in_order(
    engine: Engine, scripted: ScriptedDevice, batch: list[FrameRequest]
) -> None:
    scripted.out_of_memory_at = ["finish"] * 2
    before = engine.statistics()

    frames = await engine.run(batch)

    assert [frame.request for frame in frames] == batch
    after = engine.statistics()
    assert (after.oom_recoveries - before.oom_recoveries, after.oom_frames) == (2, 4)
    assert scripted.batches[-4:] == [[0, 1], [2, 3], [4, 5], [6, 7]]


@pytest.mark.parametrize(
    ("last_act", "is_cancelled"),
    [("release", False), ("stop", False), ("stop", True)],
    ids=["release", "stop", "stop after a cancel"],
)
async def test_nothing_is_released_while_a_batch_is_delivered(
    assets: SimpleNamespace,
    scripted: ScriptedDevice,
    batch: list[FrameRequest],
    last_act: str,
    is_cancelled: bool,
) -> None:
    engine = Engine(scripted, assets.model, assets.avatars, 8)
    await engine.start()
    scripted.batches.clear()
    scripted.may_finish.clear()
    run = asyncio.create_task(engine.run(batch))
    await eventually(scripted, delivering=1)
    if is_cancelled:  # as a batcher does that is reported to end
        run.cancel()
    act = asyncio.create_task(getattr(engine, last_act)())
    await asyncio.sleep(0)
    assert (scripted.releases, scripted.closed) == (0, False)
    scripted.may_finish.set()
    await act
    if last_act == "release":
        await engine.stop()

    assert run.cancelled() if is_cancelled else len(await run) == len(batch)
    assert scripted.closed
    assert not scripted.was_disturbed


async def test_a_batch_that_does_not_fit_is_halved_in_order(
    engine: Engine, scripted: ScriptedDevice, batch: list[FrameRequest]
) -> None:
    scripted.room = 3
    before = engine.statistics()

    frames = await engine.run(batch)

    assert [frame.request for frame in frames] == batch
    assert scripted.batches == [[0, 1], [2, 3], [4, 5], [6, 7]]
    after = engine.statistics()
    assert after.oom_recoveries - before.oom_recoveries == 2
    assert after.oom_frames == 4
    assert after.frames - before.frames == 8
    assert scripted.releases == 2


async def test_a_single_frame_that_does_not_fit_fails_and_the_engine_goes_on(
    engine: Engine,
    scripted: ScriptedDevice,
    batch: list[FrameRequest],
    delays: list[float],
) -> None:
    scripted.room = 0
    with pytest.raises(errors.DeviceMemoryError):
        await engine.run(batch)
    assert 5 < sum(delays) < 30  # waits for memory of other processes, but not indefinitely
    scripted.room = 8

    assert len(await engine.run(batch)) == 8


async def test_a_single_frame_is_retried_until_memory_is_free(
    engine: Engine,
    scripted: ScriptedDevice,
    batch: list[FrameRequest],
    delays: list[float],
) -> None:
    scripted.out_of_memory_at = ["step"] * 6  # 8, 4, 2 frames, then one frame three times

    frames = await engine.run(batch)

    assert [frame.request for frame in frames] == batch
    assert [index for part in scripted.batches for index in part] == list(range(8))
    assert delays == [0.05, 0.1, 0.1]
    assert scripted.releases == 6  # before every attempt that follows a failed one


@pytest.mark.parametrize("point", ["load", "serve", "step"])
async def test_a_start_waits_for_memory(
    assets: SimpleNamespace, scripted: ScriptedDevice, delays: list[float], point: str
) -> None:
    scripted.out_of_memory_at = [point] * 2
    engine = Engine(scripted, assets.model, assets.avatars, 8, sleep=delays.append)
    await engine.start()
    await engine.stop()

    assert engine.statistics().oom_recoveries == 2
    assert delays == [0.05, 0.1]


async def test_a_bucket_that_does_not_fit_at_the_start_bounds_the_batches(
    assets: SimpleNamespace, scripted: ScriptedDevice
) -> None:
    scripted.room = 7
    engine = Engine(scripted, assets.model, assets.avatars, 8)
    await engine.start()
    await engine.stop()

    assert engine.curve is not None
    assert [size for size, _ in engine.curve.frame_batch_ms] == [1]
    assert (engine.statistics().oom_recoveries, engine.statistics().oom_frames) == (1, 8)


@pytest.mark.parametrize("where", ["fault", "late_fault"])
async def test_any_fault_of_a_batch_is_an_engine_error(
    engine: Engine, scripted: ScriptedDevice, batch: list[FrameRequest], where: str
) -> None:
    setattr(scripted, where, RuntimeError("CUDA error: an illegal memory access"))

    with pytest.raises(errors.EngineError, match="a batch of 8 failed"):
        await engine.run(batch)


async def test_an_avatar_that_is_not_loaded_is_rejected_before_the_device(
    engine: Engine,
    scripted: ScriptedDevice,
    batch: list[FrameRequest],
    request_of: Callable[..., FrameRequest],
) -> None:
    stranger = request_of(batch[0].window, avatar="zoe")

    with pytest.raises(errors.EngineError, match="avatar 'zoe' is not loaded, loaded are: anna"):
        await engine.run([*batch, stranger])
    assert scripted.batches == []


async def test_stage_times_are_reported_on_the_event_loop(
    assets: SimpleNamespace, scripted: ScriptedDevice, batch: list[FrameRequest]
) -> None:
    reported: list[tuple[str, float, str]] = []

    def observe(stage: str, seconds: float) -> None:
        reported.append((stage, seconds, threading.current_thread().name))

    engine = Engine(scripted, assets.model, assets.avatars, 8, observe=observe)
    await engine.start()
    await engine.run(batch)
    await engine.stop()

    here = threading.current_thread().name
    assert reported == [(stage, 0.5, here) for stage in device.STAGES]


async def test_stop_closes_the_device(assets: SimpleNamespace, scripted: ScriptedDevice) -> None:
    engine = Engine(scripted, assets.model, assets.avatars, 8)
    await engine.start()
    await engine.stop()

    assert scripted.closed


async def test_one_unusable_avatar_leaves_the_others(
    assets: SimpleNamespace, scripted: ScriptedDevice, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(scripted, assets.model, assets.avatars, 8, avatar_names=["anna", "gone"])
    await engine.start()
    await engine.stop()

    assert list(engine.avatars) == ["anna"]
    assert "avatar skipped" in caplog.text


async def test_an_avatar_of_another_model_stops_the_start_when_it_is_the_only_one(
    assets: SimpleNamespace, scripted: ScriptedDevice, tmp_path: Path
) -> None:
    from avatar_runtime.tools import random_model

    shutil.copytree(assets.avatars, tmp_path / "avatars")
    random_model.write(tmp_path / "other", random_model.PRESETS["tiny"], seed=1)
    engine = Engine(scripted, tmp_path / "other", tmp_path / "avatars", 8)

    with pytest.raises(errors.AssetError, match="vae_hash is"):
        await engine.start()
    await engine.stop()


async def test_a_folder_without_avatars_stops_the_start(
    assets: SimpleNamespace, scripted: ScriptedDevice, tmp_path: Path
) -> None:
    engine = Engine(scripted, assets.model, tmp_path, 8)

    with pytest.raises(errors.AssetError, match="no avatar can be served: the folder has none"):
        await engine.start()
    await engine.stop()


async def test_an_engine_that_is_not_started_has_no_model(
    assets: SimpleNamespace, scripted: ScriptedDevice
) -> None:
    with pytest.raises(errors.EngineError, match="not started"):
        _ = Engine(scripted, assets.model, assets.avatars, 8).model
