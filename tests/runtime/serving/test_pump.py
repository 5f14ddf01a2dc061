"""What the pump makes of the device's memory; frames themselves are shown by the sockets' tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

from avatar_runtime.engine.device import Memory
from avatar_runtime.engine.worker import Statistics
from avatar_runtime.metrics import Metrics
from avatar_runtime.serving.pump import Pump

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.runtime.serving.conftest import FakeEngine, Serve


class _Hands:
    """A pump, its clock, and whether it was told that the limit changed."""

    def __init__(self, engine: FakeEngine) -> None:
        self.now = 100.0
        self.told: list[int] = []
        self.metrics = Metrics("simulated", "rtx-4090")
        self.pump = Pump(engine, 16, self.metrics, lambda: self.now, self._limited)

    def _limited(self) -> None:
        self.told.append(self.pump.batch_limit)


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


async def test_an_allocation_that_was_refused_halves_the_limit_and_is_counted(
    make_engine: Callable[..., FakeEngine],
) -> None:
    engine = make_engine()
    hands = _Hands(engine)
    engine.done = Statistics(oom_recoveries=3, refused_frames=8)
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
