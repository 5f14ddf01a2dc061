"""The state of a runtime without sockets, in virtual time."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from avatar_runtime import settings
from avatar_runtime.batching.buckets import within
from avatar_runtime.engine.device import Curve
from avatar_runtime.metrics import Metrics
from avatar_runtime.serving.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.runtime.serving.conftest import FakeEngine

VARIABLES = {
    "AVATAR_MODEL": "model",
    "AVATAR_AVATAR_FOLDER": "avatars",
    "AVATAR_CAPACITY": "3",
    "AVATAR_BATCH_SIZE": "8",
    "AVATAR_SERVICE": "acme/concierge",
    "AVATAR_POD": "concierge-0",
    "AVATAR_GPU_CLASS": "rtx-4090",
    "AVATAR_AVATARS": "ben,anna,absent",
    "AVATAR_MAX_DURATION_S": "60",
    "AVATAR_IDLE_TIMEOUT_S": "7",
    "AVATAR_FPS": "20",
}


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _runtime(engine: FakeEngine, clock: Clock) -> Runtime:
    read = settings.from_env(VARIABLES)
    return Runtime(read, engine, Metrics("simulated", "rtx-4090"), clock=clock)


@pytest.fixture
def runtime(make_engine: Callable[..., FakeEngine], clock: Clock) -> Runtime:
    return _runtime(make_engine(), clock)


async def test_the_state_of_a_new_runtime_is_not_ready(runtime: Runtime) -> None:
    assert runtime.state() == {
        "pod": "concierge-0",
        "service": "acme/concierge",
        "gpu_class": "rtx-4090",
        "batch_size": 8,
        "batch_limit": 8,
        "capacity": 3,
        "sessions": 0,
        "speaking": 0,
        "free": 0,
        "draining": False,
        "ready": False,
        "vram": {"used_bytes": 0, "total_bytes": 0, "ratio": 0.0},
        "latency_ms": {"first_frame_p95": None, "frame_p95": None},
        "deadline_miss_ratio": 0.0,
        "batch_fill_ratio": 0.0,
        "device": "simulated",
        "calibration": None,
        "start": {"stage": "process", "seconds": {}},
        "sequence": 1,
    }


async def test_the_state_reports_how_far_the_start_is(
    clock: Clock, make_engine: Callable[..., FakeEngine]
) -> None:
    engine = make_engine()
    runtime = _runtime(engine, clock)
    await runtime.start()
    engine.start_stages = {"weights": 2.00049, "avatars": 0.5}
    runtime.slots.is_ready = False
    start = runtime.state()["start"]
    assert start["stage"] == "warm_up"
    assert start["seconds"]["weights"] == 2.0
    assert start["seconds"]["process"] > 0
    engine.start_stages = {**engine.start_stages, "warm_up": 1.0}
    runtime.slots.is_ready = True
    assert runtime.state()["start"]["stage"] == "ready"
    assert list(runtime.state()["start"]["seconds"]) == ["process", "weights", "avatars", "warm_up"]


async def test_the_state_reports_sessions_load_and_calibration(
    clock: Clock, make_engine: Callable[..., FakeEngine]
) -> None:
    calibration = Curve("v15", 4000, 1080, ((16, 300.0),))
    runtime = _runtime(make_engine(curve=calibration), clock)
    await runtime.start()
    runtime.slots.acquire()
    runtime.set_speaking("sess_1", True)
    runtime.set_batch_limit(within(6))
    runtime.set_draining(True)
    clock.now += 1.0
    metrics = runtime.metrics
    metrics.observe_batch(3, 8, 0.1, clock.now)
    for is_late in (True, False, False):
        metrics.count_finished(is_late, clock.now)
    metrics.observe_first_frame(0.12345, clock.now)
    metrics.count_sent("drawn", 0.04321, clock.now)
    state = runtime.state()
    assert {name: state[name] for name in ("sessions", "speaking", "free", "capacity")} == {
        "sessions": 1,
        "speaking": 1,
        "free": 0,
        "capacity": 3,
    }
    assert (state["draining"], state["ready"]) == (True, True)
    assert (state["batch_size"], state["batch_limit"]) == (8, within(6))
    assert state["vram"] == {"used_bytes": 3, "total_bytes": 12, "ratio": 0.25}
    assert state["latency_ms"] == {"first_frame_p95": 123.5, "frame_p95": 43.2}
    assert (state["deadline_miss_ratio"], state["batch_fill_ratio"]) == (0.3333, 0.375)
    assert state["calibration"] == calibration.as_document()
    assert runtime.state()["sequence"] == 2


async def test_the_load_of_the_state_is_at_most_half_a_second_old(
    runtime: Runtime, clock: Clock
) -> None:
    runtime.metrics.count_finished(True, clock.now)
    clock.now += 0.5
    assert runtime.state()["deadline_miss_ratio"] == 0.0
    clock.now += 0.01
    assert runtime.state()["deadline_miss_ratio"] == 1.0


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda runtime: runtime.slots.acquire(), id="acquire"),
        pytest.param(lambda runtime: runtime.set_draining(True), id="drain"),
        pytest.param(lambda runtime: runtime.set_batch_limit(2), id="batch limit"),
        pytest.param(lambda runtime: runtime.set_speaking("sess_1", True), id="speaking"),
        pytest.param(lambda runtime: runtime.stop_watchers(), id="stop"),
    ],
)
async def test_each_change_of_the_state_wakes_the_watchers(runtime: Runtime, change: Any) -> None:
    await runtime.start()
    waiting = asyncio.create_task(runtime.changes.wait(runtime.changes.count, 60.0))
    await asyncio.sleep(0)
    assert not waiting.done()
    change(runtime)
    async with asyncio.timeout(5.0):
        await waiting


async def test_a_state_that_stays_the_same_is_not_notified(runtime: Runtime) -> None:
    runtime.set_speaking("sess_1", True)
    count = runtime.changes.count
    runtime.set_speaking("sess_1", True)
    runtime.set_speaking("sess_2", False)
    assert runtime.changes.count == count


async def test_the_gauges_follow_the_slots(runtime: Runtime) -> None:
    await runtime.start()
    runtime.slots.acquire()
    text = runtime.metrics.render().decode()
    for line in ("sessions 1.0", "session_capacity 3.0", "sessions_free 2.0", "batch_size 8.0"):
        assert f"\navatar_runtime_{line}\n" in text
    assert "\navatar_runtime_vram_used_ratio 0.25\n" in text


async def test_avatars_are_those_of_the_settings_that_are_loaded(runtime: Runtime) -> None:
    assert runtime.avatars == {}
    await runtime.start()
    assert list(runtime.avatars) == ["ben", "anna"]


@pytest.mark.parametrize(
    ("points", "sessions"),
    [(((1, 10.0), (8, 20.0)), 18), (((1, 100.0), (8, 700.0)), 1)],
    ids=["what-the-device-carries", "one-on-a-slow-device"],
)
async def test_without_a_capacity_the_calibration_decides(
    make_engine: Callable[..., FakeEngine],
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    points: tuple[tuple[int, float], ...],
    sessions: int,
) -> None:
    variables = {name: text for name, text in VARIABLES.items() if name != "AVATAR_CAPACITY"}
    engine = make_engine(curve=Curve("v15/sd-vae/fp16", 3100, 306, points))
    made = Runtime(settings.from_env(variables), engine, Metrics("simulated", "none"), clock=clock)
    assert made.state()["capacity"] == 0
    await made.start()
    assert made.state()["capacity"] == sessions
    assert ("too slow for one session" in caplog.text) is (sessions == 1)


@pytest.mark.parametrize(("avatar", "name"), [(None, "ben"), ("anna", "anna")])
async def test_a_session_has_the_limits_of_the_settings(
    runtime: Runtime, clock: Clock, avatar: str | None, name: str
) -> None:
    await runtime.start()
    session = runtime.open_session(avatar, "acme/b")
    assert session.wakeup() == clock.now + 7
    created = session.pull(clock.now)
    assert created is not None
    described = json.loads(created.message)["session"]
    assert (described["model"], described["id"]) == ("acme/b", session.id)
    assert session.id.startswith("sess_")
    assert described["avatar"]["character"] == name
    assert described["avatar"]["fps"] == 20
    for _ in range(9):
        clock.now += 6.5
        session.receive('{"type": "output_video_buffer.request_keyframe"}', clock.now)
        session.tick(clock.now)
    assert session.closing is None
    session.tick(1000.0 + 60)
    assert session.closing is not None
    assert session.closing.code == 4410


async def test_a_drain_that_ends_in_time_closes_no_session(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    await runtime.drain()
    assert "drain timed out" not in caplog.text
