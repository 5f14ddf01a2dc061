"""Direct mode with a gateway process and a runtime process: no gateway is between both."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from tests.gateway.tenants import key_of, secret_of, tenant_of
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from avatar_contracts.tokens import gateway_key, session_token, state_token
from avatar_gateway.core.usage import FIGURES, PLATFORM, sums
from avatar_gateway.shared.redis import RedisState
from localcluster import runtime_process, waiting
from localcluster.usage_records import let_a_minute_pass

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.redis_server import RedisServer
    from websockets.asyncio.client import ClientConnection

pytestmark = [pytest.mark.slow]

KEY = "a-key-of-some-length"
MASTER = "a-master-secret-of-the-operator"
SERVICE = "acme/concierge"


async def _offer(address: str, key: str = KEY) -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession() as http,
        http.post(address, json={"model": SERVICE}, headers=headers) as answer,
    ):
        return answer.status, await answer.json()


def _environment(capacity: int) -> dict[str, str]:
    """Return the settings of the runtime that is the pod of the service."""
    key = gateway_key(MASTER)
    return {
        "AVATAR_POD": "p1",
        "AVATAR_SERVICE": SERVICE,
        "AVATAR_CAPACITY": str(capacity),
        "AVATAR_SESSION_TOKEN": session_token(key, SERVICE),
        "AVATAR_STATE_TOKEN": state_token(key, SERVICE),
    }


def _pod(fake: Any, runtime: Any) -> dict[str, Any]:
    """Return the pod of a runtime, which is ready."""
    addresses = {"sessions": runtime.url, "admin": runtime.admin}
    ports = [
        {"name": name, "containerPort": int(address.rpartition(":")[2])}
        for name, address in addresses.items()
    ]
    ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    pod: dict[str, Any] = fake.pod("p1", ports=ports, podIP="127.0.0.1", **ready)
    return pod


async def _claimed(redis_server: RedisServer) -> int:
    """Return for how many sessions the gateway has stored what the pod says of them."""
    async with redis_server.client() as client:
        return len(await client.keys("avatar:record:conn_*"))


async def _counted(redis_server: RedisServer) -> tuple[int, int]:
    """Return the sessions of the platform and their milliseconds, a minute after they ended."""
    connection = redis_server.connection()
    state = RedisState(connection)
    await let_a_minute_pass(redis_server.url)
    await state.close_abandoned()
    hour = int(time.time() // 3600)
    totals = sums(await state.usage(hour - 1, hour + 2))
    await connection.close()
    (figures,) = [each for account, each in totals.items() if account.tenant == PLATFORM]
    return figures[FIGURES.index("sessions")], figures[FIGURES.index("session_ms")]


async def test_a_client_opens_a_session_at_the_pod_itself(
    tmp_path: Path, fake: Any, start_gateway: Callable[..., Any], redis_server: RedisServer
) -> None:
    key = gateway_key(MASTER)
    environment = _environment(capacity=1)
    log = tmp_path / "p1.log"
    with runtime_process.serving(log, 16, environment, device="simulated:h100-80gb") as runtime:
        fake.items["pods"] = [_pod(fake, runtime)]
        fake.items["avatarservices"] = [{"metadata": {"name": "concierge", "namespace": "acme"}}]
        url = "ws://{pod}.{namespace}.media.example/v1/realtime"
        shared = {"AVATAR_GATEWAY_SHARED_STATE_URL": redis_server.url}
        async with start_gateway(AVATAR_GATEWAY_DIRECT_URL=url, **shared) as gateway:
            address = f"http://127.0.0.1:{gateway.ports[0]}/v1/sessions"
            _, made = await waiting.until(
                partial(_offer, address), lambda found: found[0] == 201, "a pod is offered", 20
            )
            assert made["url"] == "ws://p1.acme.media.example/v1/realtime"
            headers = {"Authorization": f"Bearer {made['token']}"}
            direct = f"{runtime.url}/v1/realtime"
            async with connect(direct, additional_headers=headers) as socket:
                began = time.monotonic()
                assert '"session.created"' in str(await socket.recv())
                assert runtime.state(state_token(key, SERVICE))["sessions"] == 1
            seconds = time.monotonic() - began
            with pytest.raises(InvalidStatus, match="401"):
                await connect(direct, additional_headers=headers)
            with pytest.raises(InvalidStatus, match="401"):  # only the token is enough
                await connect(direct, additional_headers={"Authorization": f"Bearer {KEY}"})
            await waiting.until(
                partial(_claimed, redis_server), lambda found: found == 1, "the end is told", 20
            )
        sessions, session_ms = await _counted(redis_server)
        assert sessions == 1
        assert session_ms / 1000 == pytest.approx(seconds, abs=0.5)


def _objects(fake: Any, runtime: Any) -> dict[str, list[dict[str, Any]]]:
    """Return a service, its pod, and a tenant that may have one session."""
    version = {"resourceVersion": "2"}
    keys = {"onRevocation": "EndSessions"}
    tenant = tenant_of("acme", "acme-keys", limits={"sessions": 1}, apiKeys=keys)
    tenant["metadata"] |= version
    return {
        "pods": [_pod(fake, runtime)],
        "avatarservices": [{"metadata": {"name": "concierge", "namespace": "acme", **version}}],
        "avatartenants": [tenant],
        "namespaces": [{"metadata": {"name": "acme", **version}}],
        "secrets": [_secret(1, "2")],
    }


def _secret(number: int, version: str) -> dict[str, Any]:
    secret = secret_of(number)
    secret["metadata"] = {"name": "acme-keys", "namespace": "keys", "resourceVersion": version}
    return secret


async def _drain(socket: ClientConnection) -> None:
    """Read until the connection ends."""
    async with asyncio.timeout(20):
        async for _ in socket:
            pass


async def test_the_limit_and_the_key_of_a_tenant_hold_for_direct_sessions(
    tmp_path: Path, fake: Any, start_gateway: Callable[..., Any], redis_server: RedisServer
) -> None:
    environment = _environment(capacity=4)
    settings = {
        "AVATAR_GATEWAY_DIRECT_URL": "ws://{pod}.{namespace}.media.example/v1/realtime",
        "AVATAR_GATEWAY_SHARED_STATE_URL": redis_server.url,
        "AVATAR_GATEWAY_KEYS_NAMESPACE": "keys",
    }
    log, own_key = tmp_path / "p1.log", key_of(1)[1]
    async with AsyncExitStack() as stack:
        runtime = stack.enter_context(
            runtime_process.serving(log, 16, environment, device="simulated:h100-80gb")
        )
        fake.items = _objects(fake, runtime)
        fake.events = {kind: asyncio.Queue() for kind in fake.items}
        addresses = []
        for name in ("g1", "g2"):
            gateway = await stack.enter_async_context(start_gateway(**settings, AVATAR_POD=name))
            addresses.append(f"http://127.0.0.1:{gateway.ports[0]}/v1/sessions")

        async def offered(address: str) -> dict[str, Any]:
            offer = partial(_offer, address, own_key)
            _, made = await waiting.until(offer, lambda found: found[0] == 201, "an offer", 60)
            return made

        made = await offered(addresses[0])
        status, refused = await _offer(addresses[0], own_key)
        assert (status, refused["error"]["param"]) == (429, "sessions")
        headers = {"Authorization": f"Bearer {made['token']}"}
        direct = f"{runtime.url}/v1/realtime"
        async with redis_server.client() as client:

            async def leases() -> list[str]:
                return [str(each) for each in await client.zrange("avatar:leases:acme", 0, -1)]

            async with connect(direct, additional_headers=headers) as socket:
                assert '"session.created"' in str(await socket.recv())
                # Every gateway knows the session by its id, and it is the only one.
                await waiting.until(
                    leases, lambda found: found[0].removeprefix("b'").startswith("sess_"), "a name"
                )
                assert len(await leases()) == 1
                for address in addresses:
                    await waiting.until(
                        partial(_offer, address, own_key), lambda found: found[0] == 429, "refused"
                    )
            # When it has ended, the next one may begin, and the new one ends with its key.
            made = await offered(addresses[1])
            headers = {"Authorization": f"Bearer {made['token']}"}
            async with connect(direct, additional_headers=headers) as socket:
                assert '"session.created"' in str(await socket.recv())
                await waiting.until(leases, lambda found: "sess_" in found[0], "a name")
                event = {"type": "MODIFIED", "object": _secret(2, "3")}
                fake.events["secrets"].put_nowait(event)
                with pytest.raises(ConnectionClosed) as closed:
                    await _drain(socket)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4401
            assert closed.value.rcvd.reason.startswith("credential_revoked")
            await waiting.until(leases, lambda found: not found, "the lease is free")
