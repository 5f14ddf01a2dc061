"""Who is let in, and how the others are told."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from avatar_runtime.errors import Refusal
from avatar_runtime.serving import admission

if TYPE_CHECKING:
    from tests.runtime.serving.conftest import Serve

AVATARS = ("anna", "ben")


def caller(
    query: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
    subprotocols: tuple[str, ...] = (),
) -> admission.Caller:
    return admission.Caller(query or {}, {"host": "avatar.test", **(headers or {})}, subprotocols)


@pytest.mark.parametrize(
    ("query", "avatar"),
    [
        ({}, None),
        ({"model": "acme/concierge", "avatar": "ben", "wait_ms": "0", "refuse": "close"}, "ben"),
        ({"api-version": "2025-10-01", "call": "x"}, None),
    ],
    ids=["nothing", "everything", "another's fields"],
)
def test_a_right_query_passes(query: dict[str, str], avatar: str | None) -> None:
    assert admission.check(caller(query), "acme/concierge", AVATARS) == avatar


@pytest.mark.parametrize(
    ("who", "status", "close", "code", "param"),
    [
        (caller({"key": "s3cret"}), 400, 1008, "key_in_url", "key"),
        (caller({"API_KEY": "s3cret"}), 400, 1008, "key_in_url", "API_KEY"),
        (caller({"wait_ms": "-1"}), 400, 1008, "invalid_query", "wait_ms"),
        (caller({"wait_ms": "9999999"}), 400, 1008, "invalid_query", "wait_ms"),
        (caller({"resume": "sess_1"}), 400, 1008, "invalid_query", "resume"),
        (caller({"refuse": "now"}), 400, 1008, "invalid_query", "refuse"),
        (caller({"model": "acme/other"}), 404, 4404, "model_not_found", "model"),
        (caller({"avatar": "zoe"}), 404, 4404, "avatar_not_found", "avatar"),
        (
            caller(headers={"origin": "https://evil.test"}),
            403,
            4403,
            "origin_not_allowed",
            "Origin",
        ),
        (
            caller(headers={"openai-beta": "realtime=v1"}),
            400,
            1008,
            "invalid_query",
            "OpenAI-Beta",
        ),
        (
            caller(subprotocols=("realtime", "openai-beta.realtime-v1")),
            400,
            1008,
            "invalid_query",
            "OpenAI-Beta",
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, str | int) else "",
)
def test_a_wrong_caller_is_refused(
    who: admission.Caller, status: int, close: int, code: str, param: str
) -> None:
    with pytest.raises(Refusal) as refused:
        admission.check(who, "acme/concierge", AVATARS)
    refusal = refused.value
    assert (refusal.status, refusal.close, refusal.code, refusal.param) == (
        status,
        close,
        code,
        param,
    )
    assert "s3cret" not in f"{refusal}{refusal.value}"


def test_a_page_of_the_same_host_is_let_in() -> None:
    who = caller(headers={"origin": "https://avatar.test"})
    assert admission.check(who, "acme/concierge", AVATARS) is None


def test_a_door_lets_in_as_many_as_it_has_slots() -> None:
    changes: list[int] = []
    door = admission.Door(2, lambda: changes.append(1))
    with pytest.raises(Refusal, match="not ready"):
        door.enter()
    door.is_open = True
    door.enter()
    door.enter()
    with pytest.raises(Refusal) as refused:
        door.enter()
    assert (refused.value.code, refused.value.limit) == ("no_capacity", 2)
    assert refused.value.retry_after_s
    door.leave()
    assert door.free == 1
    door.set_draining(True)
    assert (door.free, door.sessions) == (0, 1)
    with pytest.raises(Refusal, match="draining"):
        door.enter()
    assert len(changes) == 4


@pytest.mark.slow
async def test_the_next_session_is_refused_before_the_upgrade(serve: Serve) -> None:
    async with serve(AVATAR_CAPACITY="1") as served, served.client():
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://{served.sessions}/v1/realtime")
        response = refused.value.response
        assert response.status_code == 503
        assert int(response.headers["Retry-After"]) >= 1
        error = json.loads(response.body or b"")["error"]
        assert (error["code"], error["limit"]) == ("no_capacity", 1)


@pytest.mark.slow
async def test_a_browser_is_told_by_an_event_and_a_close_code(serve: Serve) -> None:
    async with serve(AVATAR_CAPACITY="1") as served, served.client():
        address = f"ws://{served.sessions}/v1/realtime?refuse=close"
        async with connect(address, subprotocols=["realtime"]) as refused:  # type: ignore[list-item]
            assert refused.subprotocol == "realtime"
            event = json.loads(await refused.recv())
            assert (event["type"], event["error"]["code"]) == ("error", "no_capacity")
            assert "seq" not in event
            with pytest.raises(ConnectionClosed) as closed:
                await refused.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1013
        assert served.runtime.door.sessions == 1


@pytest.mark.slow
async def test_a_refused_query_takes_no_slot(serve: Serve) -> None:
    async with serve(AVATAR_CAPACITY="1") as served:
        for query, status in (("?model=a/b", 404), ("?avatar=spare", 404), ("?key=1", 400)):
            with pytest.raises(InvalidStatus) as refused:
                await connect(f"ws://{served.sessions}/v1/realtime{query}")
            assert refused.value.response.status_code == status
        assert served.runtime.door.sessions == 0


@pytest.mark.slow
async def test_nobody_is_let_in_before_the_engine_is_ready(serve: Serve) -> None:
    async with serve(ready=False) as served, httpx.AsyncClient() as http:
        assert (await http.get(f"http://{served.sessions}/readyz")).status_code == 503
        assert (await http.get(f"http://{served.sessions}/healthz")).status_code == 200
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://{served.sessions}/v1/realtime")
        assert json.loads(refused.value.response.body or b"")["error"]["code"] == "not_ready"
        await served.runtime.start()
        assert (await http.get(f"http://{served.sessions}/readyz")).status_code == 200
        async with served.client():
            pass


@pytest.mark.slow
async def test_plain_requests_get_the_page_or_a_hint(serve: Serve) -> None:
    async with serve() as served, httpx.AsyncClient(base_url=f"http://{served.sessions}") as http:
        hint = await http.get("/v1/realtime")
        assert (hint.status_code, hint.json()["error"]["code"]) == (426, "upgrade_required")
        page = await http.get("/")
        assert page.headers["content-type"].startswith("text/html")
        assert "http://" not in page.text.replace("http://www.w3.org", "")
        assert "https://" not in page.text


@pytest.mark.parametrize(
    ("named", "told"),
    [
        pytest.param("acme/second", "acme/second", id="taken over"),
        pytest.param(None, "acme/concierge", id="not taken over"),
        pytest.param("", "acme/concierge", id="empty"),
        pytest.param("second", "acme/concierge", id="no namespace"),
        pytest.param("acme/<b>", "acme/concierge", id="no name"),
        pytest.param("a" * 64 + "/b", "acme/concierge", id="too long"),
    ],
)
def test_a_session_is_told_the_service_that_the_gateway_names(named: str | None, told: str) -> None:
    headers = {} if named is None else {"avatar-service": named}
    assert admission.told_service(caller(headers=headers), "acme/concierge") == told


@pytest.mark.slow
async def test_a_session_on_a_pod_that_was_taken_over_reads_its_own_service(
    serve: Serve,
) -> None:
    async with serve() as served:
        address = f"ws://{served.sessions}/v1/realtime?model=acme/concierge"
        for headers, told in (({}, "acme/concierge"), ({"Avatar-Service": "acme/b"}, "acme/b")):
            async with connect(address, additional_headers=headers) as session:
                created = json.loads(await session.recv())
                assert (created["type"], created["session"]["model"]) == ("session.created", told)
