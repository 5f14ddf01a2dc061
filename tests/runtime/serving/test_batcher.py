"""What the pump makes of the device's memory; frames themselves are shown by the sockets' tests."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx
import pytest

from avatar_runtime import metrics
from avatar_runtime.audio.decoding import AudioDecoder
from avatar_runtime.engine.device import Curve, Memory
from avatar_runtime.engine.engine import Statistics
from avatar_runtime.metrics import Metrics
from avatar_runtime.protocol.session import Session, Terms
from avatar_runtime.protocol.session_config import Character, Configuration, ReadOnly
from avatar_runtime.serving import batcher
from avatar_runtime.serving.batcher import Pump

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.runtime.serving.conftest import FakeEngine, Serve

    from avatar_runtime.batching.frames import AudioWindow


class _Hands:
    """A pump, its clock, and whether it was told that the limit changed."""

    def __init__(self, engine: FakeEngine) -> None:
        self.now = 100.0
        self.told: list[int] = []
        self.metrics = Metrics("simulated", "rtx-4090")
        self.pump = Pump(engine, 16, self.metrics, lambda: self.now, self._limited)

    def _limited(self) -> None:
        self.told.append(self.pump.batch_limit)


def _speaking(now: float, frames: int, name: str = "sess_1") -> Session[AudioWindow]:
    anna = Character("anna", 64, 64)
    session = Session(
        Configuration(anna),
        {"anna": anna},
        ReadOnly(name, "acme/concierge", 1_800_000_000, 25),
        terms=Terms(7200, 300),
        open_utterance=lambda audio: AudioDecoder(audio, 25, 3),
        now=now,
    )
    audio = base64.b64encode(bytes(2 * 960 * frames)).decode()
    for event in (
        {"type": "input_audio_buffer.append", "audio": audio},
        {"type": "input_audio_buffer.commit"},
    ):
        session.receive(json.dumps(event), now)
    return session


async def test_the_limit_follows_the_memory_and_is_told_when_it_changes(
    make_engine: Callable[..., FakeEngine],
) -> None:
    engine = make_engine()
    hands = _Hands(engine)
    for used in (69, 70, 90, 90, 60, 60, 60):
        engine.used = Memory(used, 100)
        hands.pump.govern()
        hands.now += 0.6

    assert hands.told == [8, 4, 8, 16]


async def test_what_the_plan_itself_fills_does_not_shrink_the_batch(
    make_engine: Callable[..., FakeEngine],
) -> None:
    engine = make_engine(curve=Curve("v15", 4000, 1080, ((16, 300.0),)))
    hands = _Hands(engine)
    for used in (21_280, 22_400, 22_600):  # the plan is 21,280 MiB
        engine.used = Memory(used << 20, 24_576 << 20)
        hands.pump.govern()

    assert hands.told == [8]


async def test_an_allocation_that_was_refused_halves_the_limit_and_is_counted(
    make_engine: Callable[..., FakeEngine],
) -> None:
    engine = make_engine()
    hands = _Hands(engine)
    engine.done = Statistics(oom_recoveries=3, oom_frames=8)
    hands.pump.govern()
    hands.pump.govern()

    assert hands.pump.batch_limit == 4
    assert b"avatar_runtime_oom_recoveries_total 3.0" in hands.metrics.render()


async def test_an_asked_limit_and_that_of_memory_hold_both(
    make_engine: Callable[..., FakeEngine],
) -> None:
    engine = make_engine()
    hands = _Hands(engine)
    hands.pump.asked_limit = 6
    assert hands.pump.batch_limit == 6
    engine.used = Memory(95, 100)
    hands.pump.govern()

    assert hands.pump.batch_limit == 4


async def test_the_state_shows_the_limit_of_memory_while_no_batch_runs(serve: Serve) -> None:
    async with serve() as served, httpx.AsyncClient(base_url=f"http://{served.admin}") as http:
        served.engine.used = Memory(75, 100)
        await served.eventually(lambda: served.runtime.pump.batch_limit == 4, "halved")
        state = (await http.get("/control/v1/state")).json()
        assert (state["batch_size"], state["batch_limit"]) == (8, 4)

        async with served.client() as client:
            await client.speak(10)
            await client.until("response.done")
        assert served.engine.releases == 1
        assert max(len(batch) for batch in served.engine.batches) <= 4

        served.engine.used = Memory(50, 100)
        await served.eventually(lambda: served.runtime.pump.batch_limit == 8, "full again")


async def test_an_overload_drops_late_frames_and_the_response_completes(
    make_engine: Callable[..., FakeEngine],
) -> None:
    engine = make_engine()
    hands = _Hands(engine)
    session = _speaking(hands.now, frames=25)
    hands.pump.asked_limit = 4
    hands.pump.add(session, lambda: None)
    hands.pump.attend(session.id)
    hands.now += 2.0  # the device was busy; a batch that starts a speaker loses nothing
    await engine.start()
    events: list[str] = []
    async with _running(hands.pump):
        while not any("response.video.done" in text for text in events):
            await asyncio.sleep(0)
            while (outgoing := session.pull(hands.now)) is not None:
                events.append(outgoing.text)

    [done] = [json.loads(text) for text in events if "response.video.done" in text]
    assert (done["status"], done["frames"], done["dropped"]) == ("completed", 8, 17)
    [told] = [json.loads(text) for text in events if "response.video.dropped" in text]
    assert (told["first_frame_index"], told["last_frame_index"]) == (4, 20)
    assert b'frames_discarded_total{reason="overload"} 17.0' in hands.metrics.render()


@pytest.mark.parametrize(("overlaps", "in_flight"), [(False, 1), (True, 2)])
async def test_the_next_batch_is_taken_when_the_device_is_free_and_no_sooner(
    make_engine: Callable[..., FakeEngine], overlaps: bool, in_flight: int
) -> None:
    engine = make_engine(overlaps=overlaps)
    await engine.start()
    engine.gate.clear()
    hands = _Hands(engine)
    hands.pump.asked_limit = 4
    sessions = [_speaking(hands.now, 25), _speaking(hands.now, 25, "sess_2")]
    async with _running(hands.pump):
        _attend(hands.pump, sessions[0])
        await _until(lambda: len(engine.batches) == in_flight)
        hands.now += 0.1
        _attend(hands.pump, sessions[1])
        for _ in range(20):
            await asyncio.sleep(0)  # turns of the loop in which a third batch might be taken
        assert len(engine.batches) == in_flight
        engine.gate.set()
        await _until(lambda: len(engine.batches) > in_flight)

        # Asked for last, but a first frame, and nothing else was decided before it came.
        assert engine.batches[in_flight][0].session == "sess_2"
        await _until(lambda: sum(len(batch) for batch in engine.batches) == 50)
    assert [r.frame_index for b in engine.batches for r in b if r.session == "sess_1"] == [
        *range(25)
    ]


async def test_what_two_batches_in_flight_share_is_busy_once(
    make_engine: Callable[..., FakeEngine],
) -> None:
    hands, engine = await _two_in_flight(make_engine)
    async with _running(hands.pump):
        await _until(lambda: len(engine.batches) == 2)
        hands.now += 3.0
        engine.gate.set()
        both = b'frame_latency_seconds_count{stage="engine"} 2.0'
        await _until(lambda: both in hands.metrics.render())

    load = hands.metrics.load(hands.now)
    assert load.busy_ratio == pytest.approx(3.0 / metrics.RECENT_S)
    assert load.batch_fill_ratio == 1.0


async def test_the_older_of_two_batches_says_that_the_engine_hangs(
    make_engine: Callable[..., FakeEngine],
) -> None:
    hands, engine = await _two_in_flight(make_engine)
    async with _running(hands.pump):
        await _until(lambda: len(engine.batches) == 2)
        hands.now += batcher.HUNG_S + 1
        assert hands.pump.health() == "a batch has been running for 31 s"
        engine.gate.set()
        await _until(lambda: hands.pump.health() is None)


async def _two_in_flight(make_engine: Callable[..., FakeEngine]) -> tuple[_Hands, FakeEngine]:
    """Return a pump that will have two batches of four to make, and its engine, which waits."""
    engine = make_engine(overlaps=True)
    await engine.start()
    engine.gate.clear()
    hands = _Hands(engine)
    hands.pump.asked_limit = 4
    _attend(hands.pump, _speaking(hands.now, 8))
    return hands, engine


def _attend(served: Pump, session: Session[AudioWindow]) -> None:
    served.add(session, lambda: None)
    served.attend(session.id)


@asynccontextmanager
async def _running(served: Pump) -> AsyncIterator[None]:
    task = asyncio.create_task(served.run(), name="pump")
    async with asyncio.timeout(20):
        yield
    task.cancel()


async def _until(claim: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if claim():
            return
        await asyncio.sleep(0)
    pytest.fail("not within ten thousand turns of the loop")
