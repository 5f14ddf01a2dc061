"""Clients without a gateway: a pod accepts each one-time token once, in its time, for itself."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from time import time
from typing import TYPE_CHECKING

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from avatar_contracts.direct_tokens import DirectClaims, make
from avatar_runtime.errors import Rejection
from avatar_runtime.serving import direct_access
from avatar_runtime.serving.admission import SessionRequest
from avatar_runtime.serving.direct_access import DirectAccess, as_session_request

if TYPE_CHECKING:
    from tests.runtime.serving.conftest import Serve

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
