"""Two gateway processes with one redis-server: the limits of a tenant hold over both."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
from tests.gateway.tenants import key_of, secret_of, tenant_of
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from avatar_contracts import session_ids

if TYPE_CHECKING:
    from aiohttp import web
    from tests.redis_server import RedisServer
    from websockets.asyncio.client import ClientConnection

SERVICE = "acme/concierge"
WAIT_S = 30.0


def cluster(pod: Any, api: Any) -> dict[str, list[dict[str, Any]]]:
    """Return the objects of a cluster: a service, a pod, and a tenant that may have 3 sessions."""
    version = {"resourceVersion": "2"}
    ports = [
        {"name": "sessions", "containerPort": pod.port},
        {"name": "admin", "containerPort": pod.admin_port},
    ]
    tenant = tenant_of("acme", "acme-keys", limits={"sessions": 3})
    secret = secret_of(1)
    secret["metadata"] = {"name": "acme-keys", "namespace": "keys", **version}
    tenant["metadata"] |= version
    return {
        "pods": [api.pod("p1", 3, ports, podIP="127.0.0.1")],
        "avatarservices": [{"metadata": {"name": "concierge", "namespace": "acme", **version}}],
        "avatartenants": [tenant],
        "namespaces": [{"metadata": {"name": "acme", **version}}],
        "secrets": [secret],
    }


def dial(process: Any, query: str = "") -> connect:
    url = f"ws://127.0.0.1:{process.ports[0]}/v1/realtime?model={SERVICE}{query}"
    headers = {"Authorization": f"Bearer {key_of(1)[1]}"}
    return connect(url, additional_headers=headers, compression=None)


async def opened(process: Any, query: str = "") -> ClientConnection:
    """Open a session; a gateway that has just started may not know the pod or the tenant yet."""
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                return await dial(process, query)
            except InvalidStatus as refused:
                if refused.response.status_code not in (401, 404, 503):
                    raise
            await asyncio.sleep(0.05)


async def refusal(process: Any) -> str:
    with pytest.raises(InvalidStatus) as refused:
        await dial(process)
    error = json.loads(refused.value.response.body)["error"]
    return f"{error['code']} {error['param']} {error['limit']}"


async def echoed(caller: ClientConnection, text: str) -> None:
    await caller.send(text)
    async with asyncio.timeout(WAIT_S):
        while await caller.recv() != text:
            pass


@pytest.mark.slow
async def test_a_tenant_has_its_sessions_once_whatever_gateway_dies(
    start_gateway: Any, fake: Any, fake_pod: Any, redis_server: RedisServer
) -> None:
    named: list[str] = []

    def name_session(request: web.Request) -> str:
        named.append(request.query.get("resume") or session_ids.new("p1"))
        return named[-1]

    fake_pod.session_header = name_session
    fake_pod.capacity = 20
    fake.items = cluster(fake_pod, fake)
    fake.events = {kind: asyncio.Queue() for kind in fake.items}
    variables = {
        "AVATAR_GATEWAY_SHARED_STATE_URL": redis_server.url,
        "AVATAR_GATEWAY_KEYS_NAMESPACE": "keys",
    }
    async with AsyncExitStack() as stack:
        dead = await stack.enter_async_context(start_gateway(**variables, AVATAR_POD="g1"))
        alive = await stack.enter_async_context(start_gateway(**variables, AVATAR_POD="g2"))
        _, second = await opened(dead), await opened(dead)
        third = await opened(alive)
        for process in (dead, alive):
            assert await refusal(process) == "quota_exceeded sessions 3"

        # The fourth caller waits, and starts when a session ends at the other gateway.
        waiting = await opened(alive, "&wait_ms=60000")
        assert "position" in await waiting.recv()
        await second.close(1000)
        await echoed(waiting, "my turn")
        assert await refusal(dead) == "quota_exceeded sessions 3"

        # Its gateway dies: the session still counts, and goes on through the other one.
        async with redis_server.client() as client:
            async with asyncio.timeout(WAIT_S):
                while await client.zscore("avatar:leases:acme", named[0]) is None:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            dead.child.kill()
            await dead.child.wait()
            assert await refusal(alive) == "quota_exceeded sessions 3"
            again = await opened(alive, f"&resume={named[0]}")
            await echoed(again, "still here")
            assert await refusal(alive) == "quota_exceeded sessions 3"
            assert await client.zcard("avatar:leases:acme") == 3
            for caller in (again, third, waiting):
                await caller.close(1000)
            async with asyncio.timeout(WAIT_S):
                while await client.zcard("avatar:leases:acme"):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
