"""Direct mode: the gateway chooses a pod, reserves a slot, and makes a token for one session."""

from __future__ import annotations

import asyncio
from time import time
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from avatar_contracts.direct_tokens import MAX_CHARACTERS, TTL_S, DirectClaims, make, read
from avatar_contracts.tokens import gateway_key, session_token
from avatar_gateway import errors
from avatar_gateway.core import usage
from avatar_gateway.core.tenants import (
    ClientSecretUse,
    Credential,
    CredentialKind,
    Principal,
    Tenant,
    TenantLimits,
)
from avatar_gateway.core.usage import Record
from avatar_gateway.serving.auth import Authenticator
from avatar_gateway.serving.direct import MAX_ISSUER
from avatar_gateway.shared.leases import Leases
from avatar_gateway.shared.memory import MemoryState
from avatar_gateway.shared.metering import Meter
from avatar_gateway.shared.usage_accounts import UsageAccounts
from avatar_gateway.shared.usage_log import UsageLog
from avatar_gateway.tenant_registry import TenantRegistry

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = "a-key-of-some-length"
MASTER = "a-master-secret-of-the-operator"
URL = "wss://{pod}.{namespace}.media.example/v1/realtime"
ACCEPTED = [session_token(gateway_key(MASTER), "acme/concierge")]


async def _post(gateway: Any, body: Any, key: str = KEY) -> tuple[int, dict[str, Any]]:
    url = f"http://127.0.0.1:{gateway.port}/v1/sessions"
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession() as http,
        http.post(url, json=body, headers=headers) as answer,
    ):
        return answer.status, await answer.json()


async def test_a_caller_gets_a_pod_and_a_token_for_one_session(
    make_gateway: Callable[..., Any],
) -> None:
    async with make_gateway(direct_url=URL) as gateway:
        await gateway.pod("p1", capacity=1)
        status, made = await _post(gateway, {"model": "acme/concierge", "avatar": "anna b"})
        assert status == 201
        assert made["url"] == "wss://p1.acme.media.example/v1/realtime?avatar=anna%20b"
        claims = read(made["token"], ACCEPTED)
        assert claims is not None
        assert (claims.pod, claims.service) == ("p1", "acme/concierge")
        assert claims.expires_at == made["expires_at"]
        assert time() < claims.expires_at <= time() + TTL_S
        # The slot is reserved for as long as the token is valid.
        status, refused = await _post(gateway, {"model": "acme/concierge"})
        assert (status, refused["error"]["code"]) == (503, "no_capacity")
        services = gateway.sessions.state("g", gateway.registry.services, 0)["services"]
        demand = services["acme/concierge"]
        assert (demand["arrivals_total"], demand["rejected_total"]) == (2, 1)


@pytest.mark.parametrize(
    ("body", "key", "status", "code"),
    [
        ({"model": "acme/concierge"}, "a-wrong-key-of-some-length", 401, "unauthenticated"),
        ({"model": "acme/missing"}, KEY, 404, "model_not_found"),
        ({"model": "acme/concierge", "wait_ms": 5}, KEY, 400, "invalid_query"),
        ({"model": 5}, KEY, 400, "invalid_query"),
        ({}, KEY, 400, "invalid_query"),
        ({"model": "acme/concierge", "avatar": "x" * 254}, KEY, 400, "invalid_query"),
        (["acme/concierge"], KEY, 400, "invalid_query"),
        ({"model": "acme/concierge"}, KEY, 503, "not_ready"),
    ],
    ids=["key", "service", "field", "type", "empty", "avatar", "list", "no pod"],
)
async def test_other_requests_are_refused(
    body: Any, key: str, status: int, code: str, make_gateway: Callable[..., Any]
) -> None:
    async with make_gateway(direct_url=URL) as gateway:
        gateway.registry.add_service("acme/concierge")
        found, refused = await _post(gateway, body, key)
        assert (found, refused["error"]["code"]) == (status, code)


async def test_direct_mode_is_off_by_default(gateway: Any) -> None:
    await gateway.pod("p1")
    assert (await _post(gateway, {"model": "acme/concierge"}))[0] == 404


def _as_caller(monkeypatch: pytest.MonkeyPatch, principal: Principal) -> None:
    async def authenticate(*_: object) -> Principal:
        return principal

    monkeypatch.setattr(Authenticator, "authenticate", authenticate)
    monkeypatch.setattr(TenantRegistry, "permits", lambda *_: True)


@pytest.mark.parametrize(
    ("limits", "param"),
    [
        (TenantLimits(sessions=2), "sessions"),
        (TenantLimits(sessions_per_service=2), "sessionsPerService"),
    ],
    ids=["sessions", "sessions per service"],
)
async def test_offers_count_for_the_limits_of_a_tenant(
    limits: TenantLimits,
    param: str,
    make_gateway: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _as_caller(monkeypatch, Principal(Tenant("acme", limits)))
    async with make_gateway(direct_url=URL) as gateway:
        await gateway.pod("p1", capacity=4)
        for _ in range(2):
            assert (await _post(gateway, {"model": "acme/concierge"}))[0] == 201
        status, refused = await _post(gateway, {"model": "acme/concierge"})
        assert (status, refused["error"]["code"]) == (429, "quota_exceeded")
        assert (refused["error"]["param"], refused["error"]["limit"]) == (param, 2)


async def test_an_offer_that_fails_counts_for_nothing(
    make_gateway: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _as_caller(monkeypatch, Principal(Tenant("acme", TenantLimits(sessions=1))))

    async def used_up(*_: object) -> None:
        raise errors.Rejection("unauthenticated", "the client secret is used up")

    async with make_gateway(direct_url=URL) as gateway:
        await gateway.pod("p1", capacity=4)
        with monkeypatch.context() as changed:
            changed.setattr(Authenticator, "count_use", used_up)
            assert (await _post(gateway, {"model": "acme/concierge"}))[0] == 401
        gateway.keys.clear()
        assert (await _post(gateway, {"model": "acme/concierge"}))[0] == 503
        gateway.keys.append(gateway_key(MASTER))
        assert (await _post(gateway, {"model": "acme/concierge"}))[0] == 201


async def test_the_name_of_an_issuer_must_fit_in_what_the_pod_gets(
    make_gateway: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Credential(CredentialKind.JWT, "https://" + "i" * MAX_ISSUER)
    _as_caller(monkeypatch, Principal(Tenant("acme"), source))
    async with make_gateway(direct_url=URL) as gateway:
        await gateway.pod("p1")
        status, refused = await _post(gateway, {"model": "acme/concierge"})
        assert (status, refused["error"]["code"]) == (403, "direct_mode_unavailable")
        assert refused["error"]["limit"] == MAX_ISSUER


async def test_the_token_has_the_account_and_the_limit_of_the_tenant(
    make_gateway: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Credential(CredentialKind.API_KEY, "0123456789abcdef")
    tenant = Tenant("acme", TenantLimits(session_s=60, minutes_per_month=1))
    _as_caller(monkeypatch, Principal(tenant, source, client_secret=ClientSecretUse("cs_1", 0)))
    now = asyncio.get_running_loop().time
    state, texts = MemoryState(time), UsageAccounts(lambda: ["a-gateway-key"])
    meter = Meter(state, UsageLog(""), "g1", lambda _: 4, now, time, accounts=texts)
    leases = Leases(state, "g1", now)
    async with make_gateway(direct_url=URL, leases=leases, meter=meter) as gateway:
        await gateway.pod("p1", capacity=4)
        status, made = await _post(gateway, {"model": "acme/concierge"})
        assert status == 201
        claims = read(made["token"], ACCEPTED)
        assert claims is not None
        assert claims.max_duration_s == 60
        placed = texts.open(claims.account)
        assert placed is not None
        assert (placed.account.tenant, placed.account.service) == ("acme", "acme/concierge")
        assert (placed.is_direct, placed.longest_ms) == (True, 60_000)
        assert (placed.source, placed.secret_id) == (source, "cs_1")
        (pod,) = gateway.registry.pods.values()
        assert placed.pod_uid == pod.uid

        used = Record("conn_1", placed.account, usage.of(session_ms=60_000), is_closed=True)
        await state.report_usage([used])
        await leases.report()
        status, refused = await _post(gateway, {"model": "acme/concierge"})
        assert (status, refused["error"]["code"]) == (429, "quota_exceeded")
        assert refused["error"]["param"] == "minutesPerMonth"


def test_the_longest_names_fit_in_a_token() -> None:
    claims = DirectClaims("p" * 253, "n" * 63 + "/" + "s" * 253, "0" * 32, 2**32, "a" * 1024, 86400)
    token = make("a-session-token", claims)
    assert read(token, ["a-session-token"]) == claims
    assert len(token) <= MAX_CHARACTERS
