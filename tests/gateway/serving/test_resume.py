"""A caller that continues its session comes to the pod that has it, through any gateway."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from avatar_contracts import session_ids
from avatar_gateway.core import routing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

KEY = "a-key-of-some-length"
BEARER = {"Authorization": f"Bearer {KEY}"}
MODEL = "model=acme/concierge"


def _open(gateway: Any, session: str, model: str = MODEL, **options: Any) -> connect:
    options = {"additional_headers": BEARER, "compression": None} | options
    return connect(f"{gateway.url}?{model}&resume={session}", **options)


@pytest.mark.parametrize("state", [{"free": 0}, {"draining": True}, {"ready": False}])
async def test_the_pod_that_has_the_session_gets_the_caller_whatever_its_state(
    gateway: Any, state: dict[str, Any]
) -> None:
    pods = [await gateway.pod(f"p{number}") for number in range(6)]
    for pod in pods:
        gateway.report_state(pod, **state)
    for pod in reversed(pods):
        session = session_ids.new(pod.name)
        async with _open(gateway, session) as caller:
            await caller.send("hello")
            assert await caller.recv() == "hello"
        (request,) = pod.requests
        assert dict(request.query) == {"model": "acme/concierge", "resume": session}


async def _refusal(gateway: Any, session: str, **options: Any) -> tuple[Any, int]:
    async with _open(gateway, session, **options) as caller:
        event = json.loads(await caller.recv())
        with pytest.raises(ConnectionClosed) as closed:
            await caller.recv()
    assert closed.value.rcvd is not None
    return event, closed.value.rcvd.code


@pytest.mark.parametrize("session", ["sess_0123456789abcdef01234567", "sess_1", "x" * 2000, "%00"])
async def test_a_session_of_no_pod_is_refused_as_a_pod_would(gateway: Any, session: str) -> None:
    pod = await gateway.pod("p1")
    event, code = await _refusal(gateway, session)
    assert code == 4411
    assert event == {
        "type": "error",
        "event_id": "event_refused",
        "error": {
            "type": "invalid_request_error",
            "code": "resume_refused",
            "message": "no session can be resumed with this id and token",
            "param": None,
            "event_id": None,
            "value": None,
            "limit": None,
        },
    }
    assert pod.requests == []


async def test_a_pod_that_does_not_answer_may_be_asked_again(gateway: Any) -> None:
    pod = await gateway.pod("p1")
    pod.port = 1
    gateway.report_state(pod)
    with pytest.raises(InvalidStatus) as refused:
        await _open(gateway, session_ids.new("p1"))
    assert refused.value.response.status_code == 503
    assert json.loads(refused.value.response.body or b"")["error"]["code"] == "not_ready"


async def test_the_key_and_the_service_are_checked_before_the_session(gateway: Any) -> None:
    pod = await gateway.pod("p1")
    session = session_ids.new("p1")
    with pytest.raises(InvalidStatus) as refused:
        await _open(gateway, session, additional_headers={})
    assert refused.value.response.status_code == 401
    # A pod of another service is not asked.
    _, code = await _refusal(gateway, session, model="model=acme/other")
    assert code == 4411
    assert pod.requests == []


async def test_the_pod_learns_whether_its_caller_may_come_back(
    gateway: Any, until: Callable[..., Awaitable[None]]
) -> None:
    pod = await gateway.pod("p1")
    async with connect(f"{gateway.url}?{MODEL}", additional_headers=BEARER) as caller:
        await caller.close(1000)
    await until(lambda: pod.closed_with == [1000])
    async with connect(f"{gateway.url}?{MODEL}", additional_headers=BEARER) as caller:
        caller.transport.abort()
        await until(lambda: pod.closed_with == [1000, 1001])


def test_an_id_names_its_pod_and_nothing_else() -> None:
    pods = [f"acme/pod-{number}" for number in range(500)]
    for name in ("pod-7", "pod-499"):
        session = session_ids.new(name)
        assert routing.holders(session, pods) == [f"acme/{name}"]
        assert name not in session
    assert routing.holders("sess_", pods) == []
    assert session_ids.new("a") != session_ids.new("a")
