"""Tests of the worker: concurrency, retries, and the permission to reconcile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest_asyncio

from avatar_operator.controllers import worker
from avatar_operator.controllers.worker import Worker
from avatar_operator.errors import NotLeading, Refused, TemporaryError
from avatar_operator.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest


class Setup:
    """A worker whose reconciles the test scripts."""

    def __init__(self) -> None:
        self.results: dict[str, list[Exception | float | None]] = {}
        self.started: list[str] = []
        self.changed = asyncio.Condition()
        self.hold: asyncio.Event | None = None
        self.may_work = True
        self.metrics = Metrics()
        self.worker = Worker(self.reconcile, lambda: self.may_work, self.metrics)

    async def reconcile(self, uid: str) -> float | None:
        self.started.append(uid)
        async with self.changed:
            self.changed.notify_all()
        if self.hold is not None:
            await self.hold.wait()
        results = self.results.get(uid, [])
        result = results.pop(0) if results else None
        if isinstance(result, Exception):
            raise result
        return result

    async def until_started(self, *uids: str) -> None:
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(lambda: self.started == list(uids))

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    def reconciles(self, outcome: str) -> str:
        prefix = "avatar_operator_reconcile_duration_seconds_count"
        lines = self.metrics.render().decode().splitlines()
        found = [line for line in lines if line.startswith(f'{prefix}{{outcome="{outcome}"}}')]
        return found[0].split()[-1] if found else "0"


@pytest_asyncio.fixture
async def setup() -> AsyncIterator[Setup]:
    setup = Setup()
    task = asyncio.create_task(setup.worker.run())
    yield setup
    task.cancel()
    if setup.hold is not None:
        setup.hold.set()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_success_is_reconciled_again_only_when_it_asks_for_it(setup: Setup) -> None:
    setup.results["a"] = [0.0]
    setup.worker.add_after("a", 0.0)
    await setup.until_started("a", "a")
    await setup.settle()
    assert setup.started == ["a", "a"]
    assert (setup.reconciles("success"), setup.reconciles("failure")) == ("2.0", "0")


async def test_a_failure_is_retried_and_logged(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    setup.results["a"] = [Refused("POST /pods", 403, "quota")]
    setup.worker.add_after("a", 0.0)
    await setup.until_started("a", "a")
    await setup.settle()
    assert "reconcile failed uid=a" in caplog.text
    assert "403 quota" in caplog.text
    assert (setup.reconciles("success"), setup.reconciles("failure")) == ("1.0", "1.0")


async def test_the_delay_that_the_api_server_asks_for_is_respected(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    setup.results["a"] = [TemporaryError("POST /pods", 429, "busy", 3600.0)]
    setup.worker.add_after("a", 0.0)
    await setup.until_started("a")
    await setup.settle()
    assert "retry_s=3600.0" in caplog.text
    setup.worker.forget("a")  # its spec changed: no reason to wait
    setup.worker.add_after("a", 0.0)
    await setup.until_started("a", "a")


async def test_a_bug_in_one_reconcile_does_not_stop_the_others(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    setup.results["a"] = [ZeroDivisionError("bug")]
    setup.worker.add_after("a", 0.0)
    await setup.until_started("a")
    setup.worker.add_after("b", 0.0)
    await setup.until_started("a", "b")
    assert "reconcile failed uid=a" in caplog.text
    assert "ZeroDivisionError" in caplog.text
    assert setup.reconciles("failure") == "1.0"


async def test_a_lost_term_is_not_a_failure_and_the_service_stays_due(setup: Setup) -> None:
    setup.results["a"] = [NotLeading()]
    setup.may_work = True
    setup.worker.add_after("a", 0.0)
    await setup.until_started("a", "a")
    await setup.settle()
    assert (setup.reconciles("success"), setup.reconciles("failure")) == ("1.0", "0")


async def test_nothing_is_reconciled_until_it_is_allowed(setup: Setup) -> None:
    setup.may_work = False
    setup.worker.add_after("a", 0.0)
    await setup.settle()
    assert setup.started == []
    setup.may_work = True
    setup.worker.check_now()
    await setup.until_started("a")


async def test_a_removed_service_is_not_reconciled(setup: Setup) -> None:
    setup.may_work = False
    setup.worker.add_after("a", 0.0)
    setup.worker.add_after("b", 0.0)
    setup.worker.remove("a")
    setup.may_work = True
    setup.worker.check_now()
    await setup.until_started("b")


async def test_the_number_of_concurrent_reconciles_is_limited(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup.hold = asyncio.Event()
    uids = [f"s{number:02}" for number in range(worker.MAX_CONCURRENT + 1)]
    for uid in uids:
        setup.worker.add_after(uid, 0.0)
    await setup.until_started(*uids[:-1])
    await setup.settle()
    assert len(setup.started) == worker.MAX_CONCURRENT
    setup.hold.set()
    await setup.until_started(*uids)


async def test_a_service_is_not_reconciled_twice_at_once(setup: Setup) -> None:
    setup.hold = asyncio.Event()
    setup.worker.add_after("a", 0.0)
    await setup.until_started("a")
    setup.worker.add_after("a", 0.0)
    await setup.settle()
    assert setup.started == ["a"]
    setup.hold.set()
    await setup.until_started("a", "a")
