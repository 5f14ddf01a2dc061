"""The writer of GPUProfiles' statuses: once for each change, and only while it leads."""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from avatar_operator.controllers import profile_controller
from avatar_operator.core.cache.store import Kind, News, Observations
from avatar_operator.errors import Conflict, TemporaryError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from tests.operator.conftest import Body, Make

    from avatar_operator.core.resources.state import PodState

DEADLINE_S = 10.0


class Api:
    """Stores statuses as the API server does, and fails when told to."""

    def __init__(self, profile: Body) -> None:
        self.profile = profile
        self.version = 10
        self.asked = 0
        self.faults: list[Exception] = []
        self.changed = asyncio.Event()

    async def apply_profile_status(self, name: str, uid: str, status: Body) -> Body:
        assert (name, uid) == ("rtx-4090", "rtx-4090")
        self.asked += 1
        self.changed.set()
        if self.faults:
            raise self.faults.pop(0)
        self.version += 1
        self.profile["metadata"]["resourceVersion"] = str(self.version)
        self.profile["status"] = status
        return copy.deepcopy(self.profile)


class Desk:
    """A calibrator with what it sees."""

    def __init__(self, make: Make) -> None:
        self.make = make
        self.api = Api(make.profile_body())
        self.seen = Observations([])
        self.heard: dict[str, PodState] = {}
        self.leads = True
        api: Any = self.api
        self.news: list[News] = []
        self.calibrator = profile_controller.Calibrator(
            api, self.seen, self.states, lambda: self.leads, self.observe
        )
        self.seen.observe(Kind.PROFILES, copy.deepcopy(self.api.profile))
        self.seen.observe(Kind.NODES, make.node_body())

    def observe(self, kind: Kind, body: Body) -> None:
        self.news.append(self.seen.observe(kind, body))

    def states(self, uids: Iterable[str]) -> Mapping[str, PodState]:
        return {uid: self.heard[uid] for uid in uids if uid in self.heard}

    def start_pod(self, name: str, factor: float | None = 1.0, device: str = "cuda") -> None:
        self.seen.observe(Kind.PODS, self.make.pod_body(name))
        curve = None
        if factor is not None:
            curve = self.make.curve(3100, 306, [(1, 22.2 * factor), (64, 790.5 * factor)])
        self.heard[f"uid-{name}"] = self.make.state(device=device, calibration=curve)
        self.calibrator.hear(f"uid-{name}")

    async def asked(self, times: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while self.api.asked < times:
                self.api.changed.clear()
                await self.api.changed.wait()

    @property
    def measured(self) -> list[Body]:
        found: list[Body] = self.api.profile.get("status", {}).get("calibrations", [])
        return found


@pytest_asyncio.fixture
async def desk(make: Make, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    monkeypatch.setattr(profile_controller, "GATHER_S", 0.0)
    monkeypatch.setattr(profile_controller, "RETRY_S", 0.0)
    desk = Desk(make)
    task = asyncio.create_task(desk.calibrator.run())
    yield desk
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def look_again(desk: Desk) -> None:
    """Let the calibrator look at everything once more."""
    desk.calibrator.wake()
    for _ in range(10):
        await asyncio.sleep(0)


async def test_what_a_pod_measured_is_written_once(desk: Desk) -> None:
    desk.start_pod("p0")
    await desk.asked(1)
    assert [item["pod"] for item in desk.measured] == ["acme/p0"]
    desk.calibrator.hear("uid-p0")
    desk.start_pod("p1", 1.01)
    await look_again(desk)
    assert desk.api.asked == 1
    (profile,) = desk.seen.profiles()
    assert profile.calibrations
    assert [news.everyone for news in desk.news] == [True]  # plans follow before any watch tells


@pytest.mark.parametrize(("factor", "device"), [(None, "cuda"), (1.0, "cpu"), (1.0, "simulated")])
async def test_what_counts_for_nothing_is_not_written(
    desk: Desk, factor: float | None, device: str
) -> None:
    desk.start_pod("p0", factor, device)
    await look_again(desk)
    assert desk.api.asked == 0


async def test_a_standby_writes_nothing_until_it_leads(desk: Desk) -> None:
    desk.leads = False
    desk.start_pod("p0")
    await look_again(desk)
    assert desk.api.asked == 0
    desk.leads = True
    desk.calibrator.wake()
    await desk.asked(1)


async def test_a_fault_of_the_api_is_tried_again(desk: Desk) -> None:
    desk.api.faults = [TemporaryError("PATCH", 503, "later")]
    desk.start_pod("p0")
    await desk.asked(2)
    assert desk.measured


async def test_a_profile_that_became_another_one_waits_for_news_of_it(desk: Desk) -> None:
    desk.api.faults = [Conflict("PATCH", 409, "another uid")]
    desk.start_pod("p0")
    await desk.asked(1)
    await look_again(desk)
    assert desk.measured


async def test_a_pod_that_is_gone_measures_no_more(desk: Desk) -> None:
    desk.leads = False
    desk.start_pod("p0")
    desk.start_pod("p1")
    desk.seen.forget(Kind.PODS, "uid-p0")
    desk.calibrator.forget("uid-p1")
    desk.calibrator.hear("uid-gone")
    desk.leads = True
    await look_again(desk)
    assert desk.api.asked == 0
