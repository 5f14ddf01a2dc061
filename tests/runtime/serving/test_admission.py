"""Which connections are accepted, and how the others are refused."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from avatar_contracts import labels
from avatar_runtime.errors import Rejection
from avatar_runtime.serving import admission

if TYPE_CHECKING:
    from pathlib import Path

    from tests.runtime.serving.conftest import Serve

AVATARS = ("anna", "ben")


def request(
    query: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
    subprotocols: tuple[str, ...] = (),
) -> admission.SessionRequest:
    return admission.SessionRequest(
        query or {}, {"host": "avatar.test", **(headers or {})}, subprotocols
    )


@pytest.mark.parametrize(
    ("path", "query", "video", "names_avatar"),
    [
        ("/v1/realtime", {}, "jpeg", False),
        ("/v1/realtime", {"video": "none"}, "none", False),
        ("/v1/realtime", {"video": "jpeg"}, "jpeg", True),
        ("/v1/realtime", {"video": "fmp4"}, "fmp4", True),
        ("/v1/realtime", {"avatar": "ben"}, "jpeg", True),
        ("/v1/realtime", {"avatar": "ben", "video": "none"}, "none", True),
        ("/voice-live/realtime", {}, "none", False),
        ("/voice-live/realtime", {"video": "jpeg"}, "jpeg", True),
        ("/voice-live/realtime", {"avatar": "ben"}, "jpeg", True),
    ],
)
def test_the_query_says_what_the_client_wants_to_see(
    path: str, query: dict[str, str], video: str, names_avatar: bool
) -> None:
    asked = admission.SessionRequest(query, {}, (), path)
    assert (asked.video.value, asked.names_avatar) == (video, names_avatar)


@pytest.mark.parametrize(
    ("query", "avatar"),
    [
        ({}, None),
        ({"model": "acme/concierge", "avatar": "ben", "wait_ms": "0", "refuse": "close"}, "ben"),
        ({"api-version": "2025-10-01", "call": "x"}, None),
    ],
    ids=["nothing", "everything", "another's fields"],
)
def test_a_valid_request_is_accepted(query: dict[str, str], avatar: str | None) -> None:
    assert admission.check(request(query), "acme/concierge", AVATARS) == avatar


@pytest.mark.parametrize(
    ("who", "status", "close", "code", "param"),
    [
        (request({"key": "s3cret"}), 400, 1008, "key_in_url", "key"),
        (request({"API_KEY": "s3cret"}), 400, 1008, "key_in_url", "API_KEY"),
        (request({"resume_token": "x"}), 400, 1008, "key_in_url", "resume_token"),
        (request({"client_secret": "x"}), 400, 1008, "key_in_url", "client_secret"),
        (request({"wait_ms": "-1"}), 400, 1008, "invalid_query", "wait_ms"),
        (request({"wait_ms": "9999999"}), 400, 1008, "invalid_query", "wait_ms"),
        (request({"refuse": "now"}), 400, 1008, "invalid_query", "refuse"),
        (request({"model": "acme/other"}), 404, 4404, "model_not_found", "model"),
        (request({"avatar": "zoe"}), 404, 4404, "avatar_not_found", "avatar"),
        (
            request(headers={"origin": "https://evil.test"}),
            403,
            4403,
            "origin_not_allowed",
            "Origin",
        ),
        (request({"video": "mp4"}), 400, 1008, "invalid_query", "video"),
    ],
    ids=lambda value: str(value) if isinstance(value, str | int) else "",
)
def test_an_invalid_request_is_refused(
    who: admission.SessionRequest, status: int, close: int, code: str, param: str
) -> None:
    with pytest.raises(Rejection) as refused:
        admission.check(who, "acme/concierge", AVATARS)
    rejection = refused.value
    assert (rejection.status, rejection.close, rejection.code, rejection.param) == (
        status,
        close,
        code,
        param,
    )
    assert "s3cret" not in f"{rejection}{rejection.value}"


def test_a_page_of_the_same_host_is_accepted() -> None:
    who = request(headers={"origin": "https://avatar.test"})
    assert admission.check(who, "acme/concierge", AVATARS) is None


def test_the_limiter_accepts_one_session_per_slot() -> None:
    changes: list[int] = []
    slots = admission.SlotLimiter(2, lambda: changes.append(1))
    with pytest.raises(Rejection, match="not ready"):
        slots.acquire()
    slots.is_ready = True
    slots.acquire()
    slots.acquire()
    with pytest.raises(Rejection) as refused:
        slots.acquire()
    assert (refused.value.code, refused.value.limit) == ("no_capacity", 2)
    assert refused.value.retry_after_s
    slots.release()
    assert slots.free == 1
    slots.set_draining(True)
    assert (slots.free, slots.sessions) == (0, 1)
    with pytest.raises(Rejection, match="draining"):
        slots.acquire()
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
async def test_a_browser_receives_an_event_and_a_close_code(serve: Serve) -> None:
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
        assert served.runtime.slots.sessions == 1


@pytest.mark.slow
async def test_a_refused_query_takes_no_slot(serve: Serve) -> None:
    async with serve(AVATAR_CAPACITY="1") as served:
        for query, status in (("?model=a/b", 404), ("?avatar=spare", 404), ("?key=1", 400)):
            with pytest.raises(InvalidStatus) as refused:
                await connect(f"ws://{served.sessions}/v1/realtime{query}")
            assert refused.value.response.status_code == status
        assert served.runtime.slots.sessions == 0


@pytest.mark.slow
async def test_no_session_is_accepted_before_the_engine_is_ready(serve: Serve) -> None:
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
    ("named", "reported"),
    [
        pytest.param("acme/second", "acme/second", id="taken over"),
        pytest.param(None, "acme/concierge", id="not taken over"),
        pytest.param("", "acme/concierge", id="empty"),
        pytest.param("second", "acme/concierge", id="no namespace"),
        pytest.param("acme/<b>", "acme/concierge", id="not a name"),
        pytest.param("a" * 64 + "/b", "acme/concierge", id="too long"),
    ],
)
def test_a_session_reports_the_service_that_the_gateway_names(
    named: str | None, reported: str
) -> None:
    headers = {} if named is None else {"avatar-service": named}
    assert admission.reported_service(request(headers=headers), "acme/concierge") == reported


@pytest.mark.slow
async def test_a_session_on_a_pod_that_was_taken_over_reports_its_own_service(
    serve: Serve,
) -> None:
    async with serve() as served:
        address = f"ws://{served.sessions}/v1/realtime?model=acme/concierge"
        for headers, reported in (({}, "acme/concierge"), ({"Avatar-Service": "acme/b"}, "acme/b")):
            async with connect(address, additional_headers=headers) as session:
                created = json.loads(await session.recv())
                assert (created["type"], created["session"]["model"]) == (
                    "session.created",
                    reported,
                )


TOKEN = "the-token-of-the-service"
SENT = {labels.SESSION_TOKEN_HEADER: f"of-another-key, {TOKEN}"}
STRANGERS: dict[str, dict[str, str]] = {
    "nothing": {},
    "empty": {labels.SESSION_TOKEN_HEADER: ""},
    "wrong": {labels.SESSION_TOKEN_HEADER: TOKEN[:-1]},
    "longer": {labels.SESSION_TOKEN_HEADER: f"{TOKEN}x"},
    "not ASCII": {labels.SESSION_TOKEN_HEADER: "\u00e9"},
    "fifth of many": {labels.SESSION_TOKEN_HEADER: f"a,b,c,d,{TOKEN}"},
    "in another header": {"Authorization": f"Bearer {TOKEN}"},
}


@pytest.mark.parametrize("headers", STRANGERS.values(), ids=STRANGERS.keys())
def test_a_stranger_has_no_token(headers: dict[str, str]) -> None:
    lowered = {name.lower(): value for name, value in headers.items()}
    with pytest.raises(Rejection) as refused:
        admission.check_token(request(headers=lowered), (TOKEN,))
    assert (refused.value.status, refused.value.code) == (401, "unauthenticated")


def test_no_token_is_accepted_if_the_pod_has_none() -> None:
    """A Secret that cannot be read closes the pod; it does not open it."""
    for sent in ("", TOKEN):
        with pytest.raises(Rejection):
            admission.check_token(request(headers={"avatar-session-token": sent}), ())


@pytest.mark.slow
async def test_strangers_take_no_slot_of_a_pod_with_a_token(serve: Serve) -> None:
    async with serve(AVATAR_CAPACITY="14", AVATAR_SESSION_TOKEN=TOKEN) as served:
        changes = served.runtime.changes.count
        for number in range(14):
            query = "?refuse=close" if number % 2 else ""  # a browser gets no WebSocket either
            with pytest.raises(InvalidStatus) as refused:
                await connect(
                    f"ws://{served.sessions}/v1/realtime{query}",
                    additional_headers=[*STRANGERS.values()][number % len(STRANGERS)],
                )
            response = refused.value.response
            assert response.status_code == 401
            assert TOKEN.encode() not in (response.body or b"")
        assert served.runtime.changes.count == changes  # no slot was taken, not even for a moment
        async with served.client(additional_headers=SENT):
            assert served.runtime.slots.sessions == 1
        async with httpx.AsyncClient() as http:  # the kubelet has no token
            assert (await http.get(f"http://{served.sessions}/readyz")).status_code == 200


@pytest.mark.slow
async def test_a_pod_reads_its_session_tokens_again_for_each_session(
    serve: Serve, tmp_path: Path
) -> None:
    """The kubelet replaces the files when the master key changes."""
    async with serve(AVATAR_TOKEN_FOLDER=str(tmp_path)) as served:
        address = f"ws://{served.sessions}/v1/realtime"
        with pytest.raises(InvalidStatus):
            await connect(address, additional_headers=SENT)
        (tmp_path / labels.SESSION_TOKEN_FILE).write_text("the-new-token")
        (tmp_path / f"{labels.PREVIOUS_PREFIX}{labels.SESSION_TOKEN_FILE}").write_text(TOKEN)
        async with served.client(additional_headers=SENT):
            (tmp_path / f"{labels.PREVIOUS_PREFIX}{labels.SESSION_TOKEN_FILE}").unlink()
            with pytest.raises(InvalidStatus):
                await connect(address, additional_headers=SENT)
            assert served.runtime.slots.sessions == 1  # the live session continues


@pytest.mark.parametrize(
    ("text", "is_from_gateway", "expected"),
    [
        pytest.param("60", True, 60, id="shorter"),
        pytest.param("9000", True, 3600, id="never-longer"),
        pytest.param("0", True, 1, id="at-least-a-second"),
        pytest.param("60", False, 3600, id="not-from-a-gateway"),
        pytest.param("", True, 3600, id="empty"),
        pytest.param("-5", True, 3600, id="negative"),
        pytest.param("1e3", True, 3600, id="not-digits"),
        pytest.param("٣", True, 3600, id="other-digits"),
        pytest.param("9" * 5000, True, 3600, id="long"),
    ],
)
def test_a_gateway_can_shorten_a_session(text: str, is_from_gateway: bool, expected: float) -> None:
    headers = {"avatar-max-duration": text}
    assert admission.max_duration_s(headers, 3600, is_from_gateway=is_from_gateway) == expected


async def test_a_session_ends_at_the_limit_that_it_announced(serve: Serve) -> None:
    variables = {labels.ENV_ADMIN_TOKEN: "t", labels.ENV_SESSION_TOKEN: TOKEN}
    async with serve(**variables) as served:
        headers = SENT | {labels.MAX_DURATION_HEADER: "1"}
        address = f"ws://{served.sessions}/v1/realtime"
        async with connect(address, additional_headers=headers) as session:
            created = json.loads(await session.recv())
            assert abs(created["session"]["expires_at"] - time.time()) < 60
            with suppress(ConnectionClosed):
                async with asyncio.timeout(20):
                    while True:
                        await session.recv()
            assert session.close_code == 4410
