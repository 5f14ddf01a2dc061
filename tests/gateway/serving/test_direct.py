"""Direct mode: the gateway chooses a pod, reserves a slot, and makes a token for one session."""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from avatar_contracts.direct_tokens import TTL_S, read
from avatar_contracts.tokens import gateway_key, session_token
from avatar_gateway import errors
from avatar_gateway.core.tenants import PLATFORM, Principal, Tenant, TenantLimits
from avatar_gateway.serving.direct import check_limits

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


@pytest.mark.parametrize(
    "limits",
    [
        TenantLimits(sessions=5),
        TenantLimits(sessions_per_service=5),
        TenantLimits(session_s=60),
        TenantLimits(minutes_per_month=5),
    ],
    ids=["sessions", "sessions per service", "duration", "minutes"],
)
def test_a_tenant_with_limits_of_sessions_cannot_use_it(limits: TenantLimits) -> None:
    with pytest.raises(errors.Rejection, match="direct sessions cannot keep"):
        check_limits(Principal(Tenant("a", limits)))


def test_other_callers_can_use_it() -> None:
    check_limits(PLATFORM)
    check_limits(Principal(Tenant("a")))
