"""The sessions of a pod that is lost go on on another one, from their last snapshots."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from avatar_contracts import session_ids
from avatar_contracts.state import STALE_S

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Until = Callable[..., Awaitable[None]]

BEARER = {"Authorization": "Bearer a-key-of-some-length"}
DOCUMENT = b'{"schema": 1, "state": {}}'


def dial(gateway: Any, query: str = "&resumes=1") -> connect:
    address = f"{gateway.url}?model=acme/concierge{query}"
    return connect(address, additional_headers=BEARER, compression=None)


async def pods_of(gateway: Any) -> tuple[Any, Any, str]:
    """Return the fuller one of two pods, the other one, and the id of a session of the first."""
    first, second = [await gateway.pod(name) for name in ("p1", "p2")]
    for pod in (first, second):
        pod.resume_s = 30
    gateway.report_state(first, free=2)
    return first, second, session_ids.new(first.name)


async def snapshot(gateway: Any, until: Until, pod: Any, session: str) -> None:
    """Send a snapshot, and wait until the gateway has it."""
    pod.snapshot(session, DOCUMENT)
    await until(lambda: f"snapshot_bytes {len(DOCUMENT)}.0" in gateway.metrics.render().decode())


async def end_of(caller: ClientConnection) -> tuple[list[dict[str, Any]], int]:
    """Return the events until the connection ends, and its close code."""
    events = []
    try:
        while True:
            events.append(json.loads(await caller.recv()))
    except ConnectionClosed as closed:
        return events, closed.rcvd.code if closed.rcvd else 1006


async def status_of_resume(gateway: Any, session: str) -> int:
    """Return the status of a resume, 101 if it is led to a pod, or its close code."""
    try:
        async with dial(gateway, f"&resume={session}") as caller:
            await caller.send("hello")
            assert await caller.recv() == "hello"
            return 101
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else 1006
    except InvalidStatus as refused:
        return refused.response.status_code


def counted(gateway: Any, result: str) -> bool:
    text = f'avatar_gateway_recoveries_total{{result="{result}"}} 1.0'
    return text in gateway.metrics.render().decode()


@pytest.mark.parametrize("is_deleted", [False, True], ids=["restarted", "deleted"])
async def test_the_session_of_a_lost_pod_goes_on_on_another_one(
    gateway: Any, until: Until, is_deleted: bool
) -> None:
    first, second, session = await pods_of(gateway)
    async with dial(gateway) as caller:
        await snapshot(gateway, until, first, session)
        if is_deleted:
            gateway.registry.remove_pod("acme/p1")
        first.lose()
        events, code = await end_of(caller)
    assert code == 1012
    assert [(e["type"], e["reason"], e["session_id"]) for e in events] == [
        ("session.migrate", "pod_lost", "sess_new")
    ]
    assert second.moves == [("/control/v1/sessions", json.loads(DOCUMENT))]
    assert second.queries[0].startswith("recovered_ms=")
    assert len(first.moves) == (0 if is_deleted else 1)  # a pod that is there is asked
    assert counted(gateway, "recovered")
    # The caller may not have got the new id: its former one leads to the same pod.
    assert await status_of_resume(gateway, session) == 101
    assert len(second.moves) == 1
    assert b"snapshot_bytes 0.0" in gateway.metrics.render()


async def test_a_pod_that_has_the_session_still_keeps_it(gateway: Any, until: Until) -> None:
    first, second, session = await pods_of(gateway)
    first.exported = (409, {"error": {"code": "session_not_asked"}})
    async with dial(gateway) as caller:
        await snapshot(gateway, until, first, session)
        first.lose()
        assert await end_of(caller) == ([], 1011)
    assert second.moves == []
    assert not any(counted(gateway, each) for each in ("recovered", "kept", "lost"))
    assert await status_of_resume(gateway, session) == 101


async def test_a_session_that_was_about_to_move_takes_its_state_along(
    gateway: Any, until: Until
) -> None:
    first, second, session = await pods_of(gateway)
    first.exported = (200, {"schema": 1, "state": {"newer": True}})
    async with dial(gateway) as caller:
        await snapshot(gateway, until, first, session)
        first.lose()
        _, code = await end_of(caller)
    assert code == 1012
    assert second.moves == [("/control/v1/sessions", {"schema": 1, "state": {"newer": True}})]
    assert second.queries == [""]


async def test_a_session_for_which_no_pod_has_room_is_kept(gateway: Any, until: Until) -> None:
    first, second, session = await pods_of(gateway)
    gateway.report_state(second, free=0)
    async with dial(gateway) as caller:
        await snapshot(gateway, until, first, session)
        gateway.registry.remove_pod("acme/p1")
        first.lose()
        assert await end_of(caller) == ([], 1011)
    assert counted(gateway, "kept")
    assert await status_of_resume(gateway, session) == 503
    gateway.report_state(second, free=1)
    second.imported = (503, {"error": {"code": "no_capacity"}})
    assert await status_of_resume(gateway, session) == 503
    second.imported = (200, {"session": {"id": "sess_new"}})
    assert await status_of_resume(gateway, session) == 101
    assert len(second.moves) == 2


async def test_a_document_that_all_pods_refuse_is_tried_again(gateway: Any) -> None:
    first, second, session = await pods_of(gateway)
    gateway.report_state(first, draining=True, free=0)
    first.exported = (200, json.loads(DOCUMENT))
    first.imported = second.imported = (503, {"error": {"code": "no_capacity"}})
    assert await status_of_resume(gateway, session) == 503
    second.imported = (200, {"session": {"id": "sess_new"}})
    assert await status_of_resume(gateway, session) == 101
    assert [path.rpartition("/")[2] for path, _ in first.moves] == ["export", "sessions"]
    assert len(second.moves) == 2
    assert len(second.requests) == 1


@pytest.mark.parametrize("query", ["", "&resumes=0"])
async def test_only_clients_that_resume_have_snapshots(gateway: Any, query: str) -> None:
    first, _, _ = await pods_of(gateway)
    async with dial(gateway, query) as caller:
        await caller.send("hello")
        await caller.recv()
        assert first.followers == []
        first.lose()
        assert await end_of(caller) == ([], 1011)


async def test_a_session_without_a_snapshot_is_lost(gateway: Any, until: Until) -> None:
    first, second, session = await pods_of(gateway)
    async with dial(gateway) as caller:
        await snapshot(gateway, until, first, session)
        first.snapshot(session, b"")  # it cannot move as it is now
        await until(lambda: b"snapshot_bytes 0.0" in gateway.metrics.render())
        gateway.registry.remove_pod("acme/p1")
        first.lose()
        assert await end_of(caller) == ([], 1011)
    assert second.moves == []
    assert counted(gateway, "lost")


async def test_a_pod_gives_snapshots_of_its_own_connections_only(
    gateway: Any, until: Until
) -> None:
    first, second, session = await pods_of(gateway)
    async with dial(gateway):
        gateway.report_state(first, free=0)
        async with dial(gateway):
            await until(lambda: second.followers)
            of_the_other = first.requests[-1].headers["Avatar-Connection"]
            second.snapshot(session, DOCUMENT, connection=of_the_other)
            await snapshot(gateway, until, second, session)  # this one is kept, and no other


@pytest.mark.parametrize(
    "record",
    [
        b"no json\n",
        b"[]\n",
        b"x" * 2000 + b"\n",
        b'{"connection": 7, "session": "s", "bytes": 1, "resume_s": 1}\n',
        b'{"connection": "c", "session": null, "bytes": 1, "resume_s": 1}\n',
        b'{"connection": "c", "session": "s", "bytes": -1, "resume_s": 1}\n',
        b'{"connection": "c", "session": "s", "bytes": 1e12, "resume_s": 1}\n',
        b'{"connection": "c", "session": "s", "bytes": true, "resume_s": 1}\n',
        b'{"connection": "c", "session": "s", "bytes": 1, "resume_s": 301}\n',
    ],
    ids=range(9),
)
async def test_a_wrong_record_ends_the_stream_which_is_read_again(
    gateway: Any, until: Until, record: bytes
) -> None:
    first, _, session = await pods_of(gateway)
    async with dial(gateway) as caller:
        first.records.put_nowait(record)
        await until(lambda: len(first.followers) == 2)
        first.records.put_nowait(None)  # ends the first stream, which nobody reads
        await caller.send("hello")
        assert await caller.recv() == "hello"
        await snapshot(gateway, until, first, session)


async def test_the_session_of_a_removed_pod_may_be_with_another_gateway(gateway: Any) -> None:
    await gateway.pod("p1")
    await gateway.pod("p2")
    session = session_ids.new("p1")
    gateway.registry.remove_pod("acme/p1")
    assert await status_of_resume(gateway, session) == 503
    assert await status_of_resume(gateway, session_ids.new("p3")) == 4411


async def test_the_session_of_a_pod_that_is_silent_goes_on_on_another_one(
    make_gateway: Callable[..., Any], until: Until
) -> None:
    async with make_gateway() as gateway:
        first, second, session = await pods_of(gateway)
        silent_pods = gateway.silent_pods
        async with dial(gateway) as caller:
            await snapshot(gateway, until, first, session)
            now = asyncio.get_running_loop().time()
            silent_pods.check(now + STALE_S - 0.5)
            await caller.send("hello")
            assert await caller.recv() == "hello"
            now = asyncio.get_running_loop().time()
            first.may_export = asyncio.Event()  # it answers nothing
            gateway.report_state(second, at=now + 2 * STALE_S)
            gateway.report_state(first, free=2, at=now + 2 * STALE_S)
            silent_pods.check(now + 2 * STALE_S)  # its state is fresh
            await caller.send("hello")
            assert await caller.recv() == "hello"
            gateway.report_state(first, free=2, at=now - 1)
            silent_pods.check(now + STALE_S + 0.5)
            events, code = await end_of(caller)
        assert code == 1012
        assert [(e["reason"], e["session_id"]) for e in events] == [("pod_lost", "sess_new")]
        assert second.moves == [("/control/v1/sessions", json.loads(DOCUMENT))]
        first.may_export.set()


async def test_a_gateway_that_was_stopped_itself_takes_no_pod_as_lost(gateway: Any) -> None:
    await gateway.pod("p1")
    checks: list[float] = []
    silent_pods = gateway.silent_pods
    silent_pods.check = checks.append
    running = asyncio.create_task(silent_pods.run())
    await asyncio.sleep(0)
    time.sleep(2.5)  # noqa: ASYNC251, the event loop stands still
    started = asyncio.get_running_loop().time()
    while not checks:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    running.cancel()
    assert checks[0] - started > STALE_S - 0.6
