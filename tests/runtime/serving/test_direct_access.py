"""Clients without a gateway: a pod accepts each one-time token once, in its time, for itself."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from time import time
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from avatar_contracts import labels
from avatar_contracts.direct_tokens import DirectClaims, make
from avatar_runtime.errors import Rejection
from avatar_runtime.serving import direct_access
from avatar_runtime.serving.admission import SessionRequest
from avatar_runtime.serving.direct_access import DirectAccess, as_session_request

if TYPE_CHECKING:
    from tests.runtime.serving.conftest import Client, Serve

KEY = "session-token-of-the-service"
POD = "concierge-0"


def _claims(number: int = 0, pod: str = POD, expires_at: float = 0) -> DirectClaims:
    until = int(expires_at or time() + 3600)
    return DirectClaims(pod, "acme/renamed", f"{number:032x}", until)


def _request(token: str, query: dict[str, str] | None = None) -> SessionRequest:
    return SessionRequest(query or {}, {"authorization": f"Bearer {token}"}, ())


def _headers(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", "Origin": "https://shop.example"}


async def _status(address: str, headers: dict[str, str], query: str = "") -> int:
    with pytest.raises(InvalidStatus) as refused:
        async with connect(f"ws://{address}/v1/realtime{query}", additional_headers=headers):
            pass
    return refused.value.response.status_code


async def test_a_token_opens_one_session(serve: Serve) -> None:
    token = make(KEY, _claims())
    async with serve(AVATAR_SESSION_TOKEN=KEY) as served:
        headers = _headers(token)
        async with served.client("?avatar=ben", additional_headers=headers):
            assert served.runtime.slots.sessions == 1
            assert await _status(served.sessions, headers) == 401
        assert await _status(served.sessions, headers) == 401
        headers = _headers(make(KEY, _claims(1)))
        async with served.client(additional_headers=headers):
            pass


async def test_a_browser_sends_the_token_as_a_subprotocol(serve: Serve) -> None:
    token = make(KEY, _claims())
    names = [Subprotocol("realtime"), Subprotocol(f"openai-insecure-api-key.{token}")]
    async with (
        serve(AVATAR_SESSION_TOKEN=KEY) as served,
        served.client(subprotocols=names) as client,
    ):
        assert client.socket.subprotocol == "realtime"


@pytest.mark.parametrize(
    ("claims", "key", "query", "status"),
    [
        (_claims(pod="concierge-1"), KEY, "", 401),
        (_claims(expires_at=1), KEY, "", 401),
        (_claims(), "another-token-of-a-service", "", 401),
        (_claims(), KEY, "?resume=sess_1", 400),
        (_claims(), KEY, "?avatar=nobody", 404),
    ],
    ids=["another pod", "expired", "another service", "resume", "unknown avatar"],
)
async def test_other_tokens_and_requests_are_refused(
    claims: DirectClaims, key: str, query: str, status: int, serve: Serve
) -> None:
    async with serve(AVATAR_SESSION_TOKEN=KEY) as served:
        assert await _status(served.sessions, _headers(make(key, claims)), query) == status
        assert served.runtime.slots.sessions == 0


async def test_a_refused_request_does_not_use_the_token_up(serve: Serve) -> None:
    token = make(KEY, _claims())
    async with serve(AVATAR_SESSION_TOKEN=KEY, AVATAR_CAPACITY="1") as served:
        async with served.client(additional_headers=_headers(make(KEY, _claims(1)))):
            assert await _status(served.sessions, _headers(token)) == 503
        assert await _status(served.sessions, _headers(token), "?avatar=nobody") == 404
        async with served.client(additional_headers=_headers(token)):
            pass


def test_a_client_cannot_say_what_only_a_gateway_may_say() -> None:
    headers = {
        "avatar-service": "acme/other",
        "avatar-caller": "x",
        "avatar-session-token": "x",
        "origin": "https://shop.example",
        "user-agent": "browser",
    }
    cleaned = as_session_request(SessionRequest({}, headers, ()), _claims())
    assert cleaned.headers == {"user-agent": "browser", "avatar-service": "acme/renamed"}


def test_the_token_says_whom_a_session_counts_for_and_how_long_it_may_take() -> None:
    headers = {"avatar-usage": "another", "avatar-max-duration": "9999"}
    request = SessionRequest({}, headers, ())
    claims = replace(_claims(), account="an-account", max_duration_s=60)
    assert as_session_request(request, claims).headers == {
        "avatar-service": "acme/renamed",
        "avatar-usage": "an-account",
        "avatar-max-duration": "60",
    }
    assert as_session_request(request, _claims()).headers == {"avatar-service": "acme/renamed"}


async def test_the_limit_of_the_tenant_ends_a_direct_session(serve: Serve) -> None:
    token = make(KEY, replace(_claims(), account="an-account", max_duration_s=1))
    async with (
        serve(AVATAR_SESSION_TOKEN=KEY) as served,
        served.client(additional_headers=_headers(token)) as client,
    ):
        async with asyncio.timeout(20):
            await client.socket.wait_closed()
        await served.eventually(lambda: served.runtime.slots.sessions == 0, "ended")


def test_used_tokens_are_remembered_until_they_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_access, "MAX_USED", 3)
    now = [0.0]
    access = DirectAccess(POD, lambda: [KEY], lambda: now[0])
    for number in range(3):
        claims = access.claims(_request(make(KEY, _claims(number, expires_at=10))))
        assert claims is not None
        access.use(claims)
    with pytest.raises(Rejection, match="was used"):
        access.claims(_request(make(KEY, _claims(0, expires_at=10))))
    with pytest.raises(Rejection, match="was used"):
        access.use(_claims(0, expires_at=10))
    with pytest.raises(Rejection, match="3 one-time tokens"):
        access.use(_claims(3, expires_at=10))
    now[0] = 10.0
    access.use(_claims(3, expires_at=20))
    assert access.claims(_request("sk-other")) is None


def _id(client: Client) -> str:
    (created,) = client.of("session.created")
    session_id: str = created["session"]["id"]
    return session_id


async def _end(served: Any, session_id: str, body: Any, token: str = KEY) -> tuple[int, Any]:
    address = f"http://{served.admin}{labels.SESSIONS_PATH}/{session_id}/end"
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        aiohttp.ClientSession() as http,
        http.post(address, json=body, headers=headers) as answer,
    ):
        return answer.status, await answer.json()


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"close_code": 1000}, "close_code"),
        ({"close_code": 5000}, "close_code"),
        ({"reason": "ü" * 62}, "reason"),
        ({"reason": None}, "reason"),
    ],
)
async def test_a_wrong_request_to_end_a_session_changes_nothing(
    serve: Serve, change: dict[str, Any], param: str
) -> None:
    async with serve(AVATAR_SESSION_TOKEN=KEY) as served:
        async with served.client(additional_headers=_headers(make(KEY, _claims()))) as client:
            body = {"close_code": 4401, "reason": "credential_revoked"} | change
            status, answer = await _end(served, _id(client), body)
            assert (status, answer["error"]["param"]) == (400, param)
            assert served.runtime.slots.sessions == 1


async def test_a_gateway_ends_a_session_that_it_does_not_carry(serve: Serve) -> None:
    body = {"close_code": 4401, "reason": "credential_revoked: the credential was revoked"}
    async with serve(AVATAR_SESSION_TOKEN=KEY, AVATAR_STATE_TOKEN="state") as served:
        async with served.client(additional_headers=_headers(make(KEY, _claims()))) as client:
            assert (await _end(served, _id(client), body, "state"))[0] == 401
            assert (await _end(served, "sess_x", body))[0] == 404
            assert (await _end(served, _id(client), body))[0] == 200
            with pytest.raises(ConnectionClosed) as closed:
                await client.until("anything")
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4401, body["reason"])


async def test_only_a_session_of_a_token_has_its_text_in_the_usage(serve: Serve) -> None:
    claims = replace(_claims(), account="gAAAA-text_=")
    async with serve(AVATAR_SESSION_TOKEN=KEY) as served:
        reports = served.runtime.usage
        async with served.client(additional_headers=_headers(make(KEY, claims))) as direct:
            gateway = {labels.SESSION_TOKEN_HEADER: KEY, labels.USAGE_HEADER: "gAAAA-other="}
            async with served.client(additional_headers=gateway) as carried:
                assert reports.account(_id(direct)) == "gAAAA-text_="
                assert reports.account(_id(carried)) == ""
