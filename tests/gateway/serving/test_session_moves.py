"""The gateway moves the sessions of pods that leave, and brings their callers after them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from websockets.asyncio.client import connect

from avatar_contracts import session_ids, tokens

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

BEARER = {"Authorization": "Bearer a-key-of-some-length"}
DOCUMENT = {"schema": 1, "state": {}}


async def come_back(gateway: Any, session: str) -> None:
    """Resume a session, and hear an echo of the pod that has it."""
    address = f"{gateway.url}?model=acme/concierge&resume={session}"
    async with connect(address, additional_headers=BEARER, compression=None) as caller:
        await caller.send("hello")
        assert await caller.recv() == "hello"


async def pods_of(gateway: Any, count: int, **state: Any) -> tuple[Any, list[Any], str]:
    """Return a pod that drains, others, and the id of a session of the first one."""
    source, *others = [await gateway.pod(f"p{number}") for number in range(count)]
    gateway.report_state(source, draining=True, free=0)
    for other in others:
        gateway.report_state(other, **state)
    source.exported = (200, DOCUMENT)
    return source, others, session_ids.new(source.name)


async def test_the_session_of_a_pod_that_leaves_moves_to_the_fullest_pod(gateway: Any) -> None:
    source, (empty, fuller), session = await pods_of(gateway, 3)
    gateway.report_state(fuller, free=2)
    await come_back(gateway, session)
    export = {"destination": fuller.name, "only_if_asked": True}
    assert source.moves == [(f"/control/v1/sessions/{session}/export", export)]
    assert fuller.moves == [("/control/v1/sessions", DOCUMENT)]
    assert empty.moves == empty.requests == source.requests == []
    (request,) = fuller.requests
    assert request.query["resume"] == session
    # The caller may not have got the new id: it is led to the same pod without another move.
    await come_back(gateway, session)
    assert (len(source.moves), len(fuller.moves), len(fuller.requests)) == (1, 1, 2)


async def test_the_gateway_shows_the_token_of_each_key(gateway: Any) -> None:
    gateway.keys[:] = ["new-key", "old-key"]
    source, (other,), session = await pods_of(gateway, 2)
    source.accepted = f"Bearer {tokens.session_token('old-key', 'acme/concierge')}"
    await come_back(gateway, session)
    assert len(source.tokens) == 2
    assert len(other.moves) == 1


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (404, "session_not_found"),
        (409, "session_not_asked"),
        (409, "session_not_movable"),
        (500, ""),
    ],
)
async def test_a_session_that_its_pod_keeps_stays(gateway: Any, status: int, code: str) -> None:
    source, (other,), session = await pods_of(gateway, 2)
    source.exported = (status, {"error": {"code": code}})
    await come_back(gateway, session)
    assert len(source.requests) == 1
    assert other.moves == []


async def test_a_session_stays_if_no_pod_has_room(gateway: Any) -> None:
    source, _, session = await pods_of(gateway, 3, free=0)
    await come_back(gateway, session)
    assert source.moves == []  # it was not stopped for nothing
    assert len(source.requests) == 1


async def test_a_pod_that_does_not_drain_is_not_asked(gateway: Any) -> None:
    source, _, session = await pods_of(gateway, 2)
    gateway.report_state(source)
    await come_back(gateway, session)
    assert source.moves == []


async def test_the_next_pod_takes_what_the_first_one_refuses(gateway: Any) -> None:
    _, (second, first), session = await pods_of(gateway, 3)
    gateway.report_state(first, free=1)
    first.imported = (503, {"error": {"code": "no_capacity"}})
    await come_back(gateway, session)
    assert len(first.moves) == len(second.moves) == 1
    assert len(second.requests) == 1


async def test_the_pod_that_it_came_from_takes_back_what_nobody_takes(gateway: Any) -> None:
    source, others, session = await pods_of(gateway, 3)
    for other in others:
        other.imported = (400, {"error": {"code": "avatar_not_found"}})
    await come_back(gateway, session)
    assert [path.rpartition("/")[2] for path, _ in source.moves] == ["export", "sessions"]
    assert len(source.requests) == 1


async def test_a_session_that_another_gateway_has_moved_is_found(gateway: Any) -> None:
    source, others, session = await pods_of(gateway, 3)
    source.exported = (410, {"error": {"code": "session_moved", "value": others[1].name}})
    await come_back(gateway, session)
    assert [len(other.requests) for other in others] == [0, 1]
    assert [other.moves for other in others] == [[], []]


@pytest.mark.parametrize("value", ["other", "", None, 7, "../p1", "p1"])
async def test_a_pod_leads_no_caller_to_another_service(gateway: Any, value: object) -> None:
    source, (_,), session = await pods_of(gateway, 2)
    other = await gateway.pod("other")
    gateway.registry.set_pod(replace(other.as_pod(), service="acme/other"))
    gateway.report_state(source, draining=True, free=0)
    source.exported = (410, {"error": {"code": "session_moved", "value": value}})
    if value == "p1":  # the other pod of the service
        await come_back(gateway, session)
        assert source.requests == []
        return
    await come_back(gateway, session)
    assert other.requests == []
    assert len(source.requests) == 1


async def test_moves_are_followed_from_pod_to_pod(gateway: Any) -> None:
    first, (second, third), session = await pods_of(gateway, 3)
    first.exported = (410, {"error": {"code": "session_moved", "value": second.name}})
    second.exported = (200, DOCUMENT)
    gateway.report_state(second, draining=True)
    await come_back(gateway, session)
    assert len(third.requests) == len(third.moves) == 1


async def test_callers_of_one_session_share_one_attempt(
    gateway: Any, until: Callable[..., Awaitable[None]]
) -> None:
    source, (other,), session = await pods_of(gateway, 2)
    source.may_export = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        left = group.create_task(come_back(gateway, session))
        await until(lambda: source.moves)
        for _ in range(3):
            group.create_task(come_back(gateway, session))
        left.cancel()  # a caller that leaves does not stop the move
        await asyncio.sleep(0)
        source.may_export.set()
    assert len(source.moves) == len(other.moves) == 1
    assert len(other.requests) >= 3
