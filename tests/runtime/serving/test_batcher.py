"""The batch limit and the order of batches; test_connection.py covers the frames themselves."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx
import pytest

from avatar_runtime import metrics
from avatar_runtime.audio import voice_activity
from avatar_runtime.audio.decoding import AudioDecoder
from avatar_runtime.engine.device import Curve, Memory
from avatar_runtime.engine.engine import Statistics
from avatar_runtime.metrics import Metrics
from avatar_runtime.protocol.session import Session, SessionLimits
from avatar_runtime.protocol.session_config import Character, ReadOnlyFields, SessionConfig
from avatar_runtime.serving import engine_health
from avatar_runtime.serving.batcher import Batcher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.runtime.serving.conftest import FakeEngine, Serve

    from avatar_runtime.batching.frames import AudioWindow
    from avatar_runtime.protocol.frame_flow import FrameDue


class _Harness:
    """A batcher, its clock, and the limits that it reported."""

    def __init__(self, engine: FakeEngine) -> None:
        self.now = 100.0
        self.reported: list[int] = []
        self.metrics = Metrics("simulated", "rtx-4090")
        self.batcher = Batcher(engine, 16, self.metrics, lambda: self.now, self._on_limit_change)

    def _on_limit_change(self) -> None:
        self.reported.append(self.batcher.limit.value)


def _speaking(now: float, frames: int, name: str = "sess_1") -> Session[AudioWindow]:
    anna = Character("anna", 64, 64)
    session = Session(
        SessionConfig(anna),
        {"anna": anna},
        ReadOnlyFields(name, "acme/concierge", 1_800_000_000, 25),
        limits=SessionLimits(7200, 300),
        open_utterance=lambda audio: AudioDecoder(audio, 25, 3),
        open_detector=voice_activity.SileroDetector,
        now=now,
    )
    audio = base64.b64encode(bytes(2 * 960 * frames)).decode()
    for event in (
        {"type": "input_audio_buffer.append", "audio": audio},
        {"type": "input_audio_buffer.commit"},
    ):
        session.receive(json.dumps(event), now)
    return session


async def test_the_limit_follows_the_memory_and_each_change_is_reported(
    make_engine: Callable[..., FakeEngine],
) -> None:
    engine = make_engine()
    harness = _Harness(engine)
    for used in (69, 70, 90, 90, 60, 60, 60):
        engine.used = Memory(used, 100)
        harness.batcher.limit.update()
        harness.now += 0.6

    assert harness.reported == [8, 4, 8, 16]


async def test_the_planned_memory_does_not_shrink_the_batch(
    make_engine: Callable[..., FakeEngine],
) -> None:
    engine = make_engine(curve=Curve("v15", 4000, 1080, ((16, 300.0),)))
    harness = _Harness(engine)
    for used in (21_280, 22_400, 22_600):  # the plan is 21,280 MiB
        engine.used = Memory(used << 20, 24_576 << 20)
        harness.batcher.limit.update()

    assert harness.reported == [8]


async def test_a_failed_allocation_halves_the_limit_and_is_counted(
    make_engine: Callable[..., FakeEngine],
) -> None:
    engine = make_engine()
    harness = _Harness(engine)
    engine.done = Statistics(oom_recoveries=3, oom_frames=8)
    harness.batcher.limit.update()
    harness.batcher.limit.update()

    assert harness.batcher.limit.value == 4
    assert b"avatar_runtime_oom_recoveries_total 3.0" in harness.metrics.render()


async def test_the_smaller_of_the_requested_limit_and_that_of_memory_applies(
    make_engine: Callable[..., FakeEngine],
) -> None:
    engine = make_engine()
    harness = _Harness(engine)
    harness.batcher.limit.requested = 6
    assert harness.batcher.limit.value == 6
    engine.used = Memory(95, 100)
    harness.batcher.limit.update()

    assert harness.batcher.limit.value == 4


async def test_the_state_shows_the_limit_of_memory_without_batches(serve: Serve) -> None:
    async with serve() as served, httpx.AsyncClient(base_url=f"http://{served.admin}") as http:
        served.engine.used = Memory(75, 100)
        await served.eventually(lambda: served.runtime.batcher.limit.value == 4, "halved")
        state = (await http.get("/control/v1/state")).json()
        assert (state["batch_size"], state["batch_limit"]) == (8, 4)

        async with served.client() as client:
            await client.speak(10)
            await client.until("response.done")
        assert served.engine.releases == 1
        assert max(len(batch) for batch in served.engine.batches) <= 4

        served.engine.used = Memory(50, 100)
        await served.eventually(lambda: served.runtime.batcher.limit.value == 8, "full again")


async def test_an_overload_drops_late_frames_and_the_response_completes(
    make_engine: Callable[..., FakeEngine],
) -> None:
    engine = make_engine()
    harness = _Harness(engine)
    session = _speaking(harness.now, frames=25)
    harness.batcher.limit.requested = 4
    harness.batcher.add(session, lambda: None)
    harness.batcher.collect_due(session.id)
    harness.now += 2.0  # the device was busy; the first batch of a response drops nothing
    await engine.start()
    events: list[str] = []
    async with _running(harness.batcher):
        while not any("response.video.done" in text for text in events):
            await asyncio.sleep(0)
            while (outgoing := session.pull(harness.now)) is not None:
                events.append(str(outgoing.message))

    [done] = [json.loads(text) for text in events if "response.video.done" in text]
    assert (done["status"], done["frames"], done["dropped"]) == ("completed", 8, 17)
    [dropped] = [json.loads(text) for text in events if "response.video.dropped" in text]
    assert (dropped["first_frame_index"], dropped["last_frame_index"]) == (4, 20)
    assert b'frames_discarded_total{reason="overload"} 17.0' in harness.metrics.render()


@pytest.mark.parametrize(("overlaps", "in_flight"), [(False, 1), (True, 2)])
async def test_the_next_batch_is_taken_when_the_device_is_free_and_not_before(
    make_engine: Callable[..., FakeEngine], overlaps: bool, in_flight: int
) -> None:
    engine = make_engine(overlaps=overlaps)
    await engine.start()
    engine.gate.clear()
    harness = _Harness(engine)
    harness.batcher.limit.requested = 4
    sessions = [_speaking(harness.now, 25), _speaking(harness.now, 25, "sess_2")]
    async with _running(harness.batcher):
        _serve_session(harness.batcher, sessions[0])
        await _until(lambda: len(engine.batches) == in_flight)
        harness.now += 0.1
        _serve_session(harness.batcher, sessions[1])
        for _ in range(20):
            await asyncio.sleep(0)  # iterations in which a third batch could be taken
        assert len(engine.batches) == in_flight
        engine.gate.set()
        await _until(lambda: len(engine.batches) > in_flight)

        # The newest request is a first frame, and no other batch was taken before it.
        assert engine.batches[in_flight][0].session == "sess_2"
        await _until(lambda: sum(len(batch) for batch in engine.batches) == 50)
    assert [r.frame_index for b in engine.batches for r in b if r.session == "sess_1"] == [
        *range(25)
    ]


async def test_time_that_two_batches_share_counts_as_busy_once(
    make_engine: Callable[..., FakeEngine],
) -> None:
    harness, engine = await _two_in_flight(make_engine)
    async with _running(harness.batcher):
        await _until(lambda: len(engine.batches) == 2)
        harness.now += 3.0
        engine.gate.set()
        both = b'frame_latency_seconds_count{stage="engine"} 2.0'
        await _until(lambda: both in harness.metrics.render())

    load = harness.metrics.load(harness.now)
    assert load.busy_ratio == pytest.approx(3.0 / metrics.RECENT_S)
    assert load.batch_fill_ratio == 1.0


async def test_health_reports_how_long_the_older_of_two_batches_runs(
    make_engine: Callable[..., FakeEngine],
) -> None:
    harness, engine = await _two_in_flight(make_engine)
    async with _running(harness.batcher):
        await _until(lambda: len(engine.batches) == 2)
        harness.now += engine_health.HUNG_S + 1
        assert harness.batcher.health() == "a batch has been running for 31 s"
        engine.gate.set()
        await _until(lambda: harness.batcher.health() is None)


async def _two_in_flight(make_engine: Callable[..., FakeEngine]) -> tuple[_Harness, FakeEngine]:
    """Return a batcher with two batches of four to run, and its engine, which waits."""
    engine = make_engine(overlaps=True)
    await engine.start()
    engine.gate.clear()
    harness = _Harness(engine)
    harness.batcher.limit.requested = 4
    _serve_session(harness.batcher, _speaking(harness.now, 8))
    return harness, engine


def _serve_session(served: Batcher, session: Session[AudioWindow]) -> None:
    served.add(session, lambda: None)
    served.collect_due(session.id)


@asynccontextmanager
async def _running(served: Batcher) -> AsyncIterator[None]:
    task = asyncio.create_task(served.run(), name="batcher")
    async with asyncio.timeout(20):
        yield
    task.cancel()


async def _until(claim: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if claim():
            return
        await asyncio.sleep(0)
    pytest.fail("not true within ten thousand iterations of the event loop")


async def test_the_frames_of_an_old_epoch_are_not_generated(
    make_engine: Callable[..., FakeEngine],
) -> None:
    engine = make_engine()
    await engine.start()
    harness = _Harness(engine)
    session = _speaking(harness.now, 8)
    _serve_session(harness.batcher, session)
    session.receive(json.dumps({"type": "response.cancel"}), harness.now)
    harness.batcher.collect_due(session.id)
    async with _running(harness.batcher):
        for _ in range(100):
            await asyncio.sleep(0)
    assert engine.batches == []


async def test_the_time_of_each_frame_in_the_queue_is_observed(
    make_engine: Callable[..., FakeEngine],
) -> None:
    engine = make_engine()
    await engine.start()
    harness = _Harness(engine)
    harness.batcher.limit.requested = 4
    _serve_session(harness.batcher, _speaking(harness.now, 4))
    harness.now += 0.5
    async with _running(harness.batcher):
        observed = b'frame_latency_seconds_count{stage="queue"} 4.0'
        await _until(lambda: observed in harness.metrics.render())
    assert b'frame_latency_seconds_sum{stage="queue"} 2.0' in harness.metrics.render()


async def test_frames_that_a_live_speaker_has_passed_count_as_missed_deadlines(
    make_engine: Callable[..., FakeEngine],
) -> None:
    harness = _Harness(make_engine())
    session = _speaking(harness.now, 0)
    harness.batcher.add(session, lambda: None)
    audio = base64.b64encode(bytes(2 * 960)).decode()
    append = json.dumps({"type": "input_audio_buffer.append", "audio": audio})
    for _ in range(100):  # 4 s from a microphone, and no engine runs
        harness.now += 0.04
        session.receive(append, harness.now)
        session.tick(harness.now)
        harness.batcher.collect_due(session.id)

    text = harness.metrics.render().decode()
    assert session.frames_lapsed > 70
    assert f"deadline_misses_total {session.frames_lapsed}.0\n" in text
    assert f'frames_discarded_total{{reason="overload"}} {session.frames_lapsed}.0\n' in text
    assert harness.metrics.load(harness.now).deadline_miss_ratio == 1.0


async def test_a_frame_that_becomes_due_while_frames_are_collected_is_not_forgotten(
    make_engine: Callable[..., FakeEngine],
) -> None:
    harness = _Harness(make_engine())
    readings = 0

    def clock() -> float:
        nonlocal readings
        readings += 1
        return harness.now + 0.001 * readings  # time passes between two readings

    harness.batcher = Batcher(make_engine(), 16, harness.metrics, clock, lambda: None)
    session = _speaking(clock(), frames=60)
    harness.batcher.add(session, lambda: None)
    for frame in list(session.due(clock())):
        session.deliver(frame.response_ref, frame.epoch, frame.frame_index, b"jpeg", clock())
    while session.pull(clock()) is not None:
        pass
    due = session.next_due()
    assert due is not None
    entry = harness.batcher._sessions[session.id]
    for early_ms in range(20, 0, -1):  # the frame becomes due at any of the readings
        readings, harness.now = 0, due - early_ms / 4000
        harness.batcher.collect_due(session.id)
        assert entry.timer is not None or session.next_due() != due


async def test_a_session_sends_the_frames_behind_one_that_lapses_while_they_are_collected(
    make_engine: Callable[..., FakeEngine],
) -> None:
    harness = _Harness(make_engine())
    session = _speaking(harness.now, 0)
    woken: list[float] = []
    harness.batcher.add(session, lambda: woken.append(harness.now))
    audio = base64.b64encode(bytes(2 * 960)).decode()
    append = json.dumps({"type": "input_audio_buffer.append", "audio": audio})
    in_flight: list[FrameDue[AudioWindow]] = []
    for _ in range(20):  # 0.8 s from a microphone
        harness.now += 0.04
        session.receive(append, harness.now)
        in_flight.extend(session.due(harness.now))
    last = in_flight[-1]
    harness.batcher.collect_due(session.id)
    while session.pull(harness.now) is not None:
        pass
    assert session.deliver(last.response_ref, last.epoch, last.frame_index, b"jpeg", harness.now)
    assert session.pull(harness.now) is None  # those before it are still in flight
    woken.clear()

    harness.now += 1.0
    harness.batcher.collect_due(session.id)
    assert woken == [harness.now]
    sent = []
    while (outgoing := session.pull(harness.now)) is not None:
        sent.append(outgoing)
    assert [each.frame.frame_index for each in sent if each.frame] == [last.frame_index]
