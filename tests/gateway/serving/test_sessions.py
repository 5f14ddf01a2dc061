from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING

from avatar_gateway.serving import proxy
from avatar_gateway.serving import sessions as sessions_module
from avatar_gateway.serving.sessions import CLOSE_TIMEOUT_S, Sessions

if TYPE_CHECKING:
    import pytest

SERVICE = "acme/concierge"
DEPLOYMENT = "charts/avatar-operator/templates/gateway/deployment.yaml"


async def test_a_drain_without_sessions_returns_immediately() -> None:
    sessions = Sessions()
    assert await sessions.drain(3600) == 0
    assert sessions.draining


async def test_a_drain_waits_for_the_last_session() -> None:
    sessions = Sessions()
    stops = [sessions.start(SERVICE) for _ in range(2)]
    drain = asyncio.create_task(sessions.drain(3600))
    for stop in stops:
        await asyncio.sleep(0)
        assert not drain.done()
        assert not stop.done()
        sessions.finish(SERVICE, stop)
    assert await drain == 0
    assert sessions.live == 0


async def test_a_drain_has_a_time_limit_for_sessions_that_do_not_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sessions = Sessions()
    stop = sessions.start(SERVICE)
    async with asyncio.timeout(5):
        assert await sessions.drain(0, close_timeout_s=0.01) == 1
    assert stop.result() == proxy.End(proxy.Side.GATEWAY, 1012, "the gateway restarts")
    assert sessions.live == 1
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "sessions=1 timeout_s=0.01" in record.getMessage()


async def test_a_drain_hands_over_the_sessions_whose_callers_can_resume(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sessions_module, "_NEW_S", 0.01)
    sessions = Sessions()
    loyal = sessions.start(SERVICE)
    resumable = [sessions.start(SERVICE, can_resume=True) for _ in range(60)]
    drain = asyncio.create_task(sessions.drain(3600))
    async with asyncio.timeout(10):
        for stop in resumable:
            assert await stop == proxy.End(proxy.Side.GATEWAY, 1012, "the gateway restarts")
            sessions.finish(SERVICE, stop)
        assert not loyal.done()
        sessions.finish(SERVICE, loyal)
        assert await drain == 0


async def test_a_new_session_is_handed_over_when_its_caller_has_its_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sessions_module, "_NEW_S", 3600.0)
    sessions = Sessions()
    stop = sessions.start(SERVICE, can_resume=True)
    assert await sessions.drain(0.05, close_timeout_s=0.0) == 1  # the drain itself ended it
    assert stop.done()


async def test_a_repeated_drain_counts_the_sessions_that_still_end() -> None:
    sessions = Sessions()
    sessions.start(SERVICE)
    async with asyncio.timeout(5):
        assert await sessions.drain(0, close_timeout_s=0.0) == 1
        assert await sessions.drain(0, close_timeout_s=0.0) == 1


def test_the_process_ends_within_the_grace_period_of_the_chart() -> None:
    text = (Path(__file__).parents[3] / DEPLOYMENT).read_text()
    # The delay before the drain is added, too.
    found = re.search(
        r"GracePeriodSeconds: {{ add .Values.gateway.drainTimeoutSeconds (\d+) "
        r'\(include "avatar.drainDelay" .\) }}',
        text,
    )
    assert found is not None
    # After the drain, each of the two listeners gets 1 s, and cancelled handlers get 5 s.
    assert CLOSE_TIMEOUT_S + 2 * 1 + 5 < int(found[1])


async def test_a_change_wakes_those_who_wait_for_one() -> None:
    sessions = Sessions()
    sequence = sessions.state("g", frozenset(), 0)["sequence"]
    waiting = asyncio.create_task(sessions.wait_for_change(sequence, 3600))
    await asyncio.sleep(0)
    assert not waiting.done()
    sessions.set_waiting(SERVICE, 0)  # no change
    await asyncio.sleep(0)
    assert not waiting.done()
    sessions.set_waiting(SERVICE, 2)
    async with asyncio.timeout(5):
        await waiting
        await sessions.wait_for_change(sequence, 3600)  # the state is already newer
    state = sessions.state("g", frozenset({SERVICE}), 0)
    assert state["services"][SERVICE]["waiting"] == 2


def test_a_deleted_service_with_waiting_callers_stays_in_the_state() -> None:
    sessions = Sessions()
    sessions.set_waiting(SERVICE, 1)
    assert sessions.state("g", frozenset(), 0)["services"][SERVICE]["waiting"] == 1
    sessions.set_waiting(SERVICE, 0)
    assert sessions.state("g", frozenset(), 0)["services"] == {}
