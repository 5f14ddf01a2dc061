"""Tests of the profile controller: one write per change, and only by the leader."""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from avatar_operator.controllers import profile_controller, status_loop
from avatar_operator.controllers.claims import Claims
from avatar_operator.core.cache.entries import ChangeImpact, Kind
from avatar_operator.core.cache.store import Store
from avatar_operator.errors import Conflict, TemporaryError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from tests.operator.conftest import Body, Make, Pauses

    from avatar_operator.core.resources.state import PodState

DEADLINE_S = 10.0


class Api:
    """Stores statuses as the API server does; raises the errors in `faults` first."""

    def __init__(self, profile: Body) -> None:
        self.profile = profile
        self.version = 10
        self.requests_sent = 0
        self.faults: list[Exception] = []
        self.changed = asyncio.Event()

    async def read_lease(self, *_: object) -> Body:
        return {"spec": {"holderIdentity": "other", "renewTime": "now"}}

    async def apply_profile_status(self, name: str, uid: str, version: int, status: Body) -> Body:
        assert (name, uid) == ("rtx-4090", "rtx-4090")
        assert version == int(self.profile["metadata"].get("resourceVersion", "0"))
        self.requests_sent += 1
        self.changed.set()
        if self.faults:
            raise self.faults.pop(0)
        self.version += 1
        self.profile["metadata"]["resourceVersion"] = str(self.version)
        self.profile["status"] = status
        return copy.deepcopy(self.profile)


class Setup:
    """A profile controller with its store and a fake API."""

    def __init__(self, make: Make) -> None:
        self.make = make
        self.api = Api(make.profile_body())
        self.store = Store([])
        self.received: dict[str, PodState] = {}
        self.leads = True
        api: Any = self.api
        self.impacts: list[ChangeImpact] = []
        self.controller = profile_controller.ProfileController(
            *(api, self.store, self.states, lambda: self.leads),
            *(Claims(api, "system/own"), self.observe),
        )
        self.store.observe(Kind.PROFILES, copy.deepcopy(self.api.profile))
        self.store.observe(Kind.NODES, make.node_body())

    def observe(self, kind: Kind, body: Body) -> None:
        self.impacts.append(self.store.observe(kind, body))

    def states(self, uids: Iterable[str]) -> Mapping[str, PodState]:
        return {uid: self.received[uid] for uid in uids if uid in self.received}

    def start_pod(self, name: str, factor: float | None = 1.0, device: str = "cuda") -> None:
        self.store.observe(Kind.PODS, self.make.pod_body(name))
        curve = None
        if factor is not None:
            curve = self.make.curve(3100, 306, [(1, 22.2 * factor), (64, 790.5 * factor)])
        self.received[f"uid-{name}"] = self.make.state(device=device, calibration=curve)
        self.controller.on_state(f"uid-{name}")

    async def requests(self, times: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while self.api.requests_sent < times:
                self.api.changed.clear()
                await self.api.changed.wait()

    @property
    def measured(self) -> list[Body]:
        found: list[Body] = self.api.profile.get("status", {}).get("calibrations", [])
        return found


@pytest_asyncio.fixture
async def paused(
    make: Make, pauses: Pauses, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Setup]:
    """Yield a controller whose pauses the test ends."""
    pauses.replace_in(status_loop, monkeypatch)
    setup = Setup(make)
    task = asyncio.create_task(setup.controller.run())
    yield setup
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest_asyncio.fixture
async def setup(make: Make, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Setup]:
    monkeypatch.setattr(status_loop, "DELAY_S", 0.0)
    monkeypatch.setattr(status_loop, "RETRY_S", 0.0)
    setup = Setup(make)
    task = asyncio.create_task(setup.controller.run())
    yield setup
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def check_again(setup: Setup) -> None:
    """Let the controller check all profiles once more."""
    setup.controller.wake()
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_calibration_of_a_pod_is_written_once(setup: Setup) -> None:
    setup.start_pod("p0")
    await setup.requests(1)
    assert [item["pod"] for item in setup.measured] == ["acme/p0"]
    setup.controller.on_state("uid-p0")
    setup.start_pod("p1", 1.01)
    await check_again(setup)
    assert setup.api.requests_sent == 1
    (profile,) = setup.store.profiles()
    assert profile.calibrations
    assert [impact.all_services for impact in setup.impacts] == [True]  # before any watch event


@pytest.mark.parametrize(("factor", "device"), [(None, "cuda"), (1.0, "cpu"), (1.0, "simulated")])
async def test_a_calibration_that_is_missing_or_not_of_a_gpu_is_not_written(
    setup: Setup, factor: float | None, device: str
) -> None:
    setup.start_pod("p0", factor, device)
    await check_again(setup)
    assert setup.api.requests_sent == 0


async def test_a_standby_writes_nothing_until_it_leads(setup: Setup) -> None:
    setup.leads = False
    setup.start_pod("p0")
    await check_again(setup)
    assert setup.api.requests_sent == 0
    setup.leads = True
    setup.controller.wake()
    await setup.requests(1)


async def test_a_failed_write_is_retried(setup: Setup) -> None:
    setup.api.faults = [TemporaryError("PATCH", 503, "later")]
    setup.start_pod("p0")
    await setup.requests(2)
    assert setup.measured


async def test_a_conflict_is_not_retried_until_the_profile_is_observed_again(setup: Setup) -> None:
    setup.api.faults = [Conflict("PATCH", 409, "another uid")]
    setup.start_pod("p0")
    await setup.requests(1)
    await check_again(setup)
    assert setup.measured


async def test_the_calibration_of_a_deleted_pod_is_not_written(setup: Setup) -> None:
    setup.leads = False
    setup.start_pod("p0")
    setup.start_pod("p1")
    setup.store.observe_deletion(Kind.PODS, "uid-p0")
    setup.controller.forget("uid-p1")
    setup.controller.on_state("uid-gone")
    setup.leads = True
    await check_again(setup)
    assert setup.api.requests_sent == 0


async def test_changes_that_arrive_together_are_checked_once(paused: Setup, pauses: Pauses) -> None:
    paused.start_pod("p0")
    await pauses.settle()
    assert pauses.lengths == [status_loop.DELAY_S]
    assert paused.api.requests_sent == 0
    paused.start_pod("p1", 1.2)
    await pauses.end(status_loop.DELAY_S)
    assert paused.api.requests_sent == 1
    assert [item["pod"] for item in paused.measured] == ["acme/p1"]  # the slower one
    assert pauses.lengths == []  # the next check needs another change
    paused.controller.on_state("uid-p0")  # the same calibration
    await pauses.settle()
    assert pauses.lengths == []


async def test_a_failed_write_is_retried_after_a_time(
    paused: Setup,
    pauses: Pauses,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(status_loop, "RETRY_S", 0.05)
    paused.api.faults = [TemporaryError("PATCH", 503, "later")] * 2
    paused.start_pod("p0")
    started = asyncio.get_running_loop().time()
    await pauses.end(status_loop.DELAY_S)
    assert "cannot write the status of a profile fault=PATCH: 503 later" in caplog.text
    assert pauses.lengths == []
    await pauses.end(status_loop.DELAY_S)
    await pauses.end(status_loop.DELAY_S)
    assert asyncio.get_running_loop().time() - started >= 0.05 + 0.1
    assert paused.api.requests_sent == 3
    assert paused.measured


async def test_the_calibration_of_a_pod_that_does_not_run_is_not_written(
    paused: Setup, pauses: Pauses
) -> None:
    paused.store.observe(Kind.PODS, paused.make.pod_body("p0", status={"containerStatuses": []}))
    curve = paused.make.curve(3100, 306, [(1, 22.2), (64, 790.5)])
    paused.received["uid-p0"] = paused.make.state(device="cuda", calibration=curve)
    paused.controller.on_state("uid-p0")
    await pauses.end(status_loop.DELAY_S)
    assert paused.api.requests_sent == 0


async def test_the_profile_of_another_operator_is_not_written(setup: Setup) -> None:
    setup.start_pod("p0")
    await setup.requests(1)
    assert setup.api.profile["status"]["operator"] == "system/own"
    claimed = copy.deepcopy(setup.api.profile)
    claimed["status"] = {"operator": "elsewhere/other"}
    claimed["metadata"]["resourceVersion"] = "11000"
    setup.store.observe(Kind.PROFILES, claimed)
    await check_again(setup)
    await check_again(setup)
    assert setup.api.requests_sent == 1
