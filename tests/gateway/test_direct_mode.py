"""Direct mode with a gateway process and a runtime process: no gateway is between both."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from avatar_contracts.tokens import gateway_key, session_token, state_token
from avatar_gateway.core.usage import FIGURES, PLATFORM, sums
from avatar_gateway.shared.redis import RedisState
from localcluster import runtime_process, waiting
from localcluster.usage_records import let_a_minute_pass

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.redis_server import RedisServer

pytestmark = [pytest.mark.slow]

KEY = "a-key-of-some-length"
MASTER = "a-master-secret-of-the-operator"
SERVICE = "acme/concierge"


async def _offer(address: str) -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {KEY}"}
    async with (
        aiohttp.ClientSession() as http,
        http.post(address, json={"model": SERVICE}, headers=headers) as answer,
    ):
        return answer.status, await answer.json()


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
    environment = {
        "AVATAR_POD": "p1",
        "AVATAR_SERVICE": SERVICE,
        "AVATAR_CAPACITY": "1",
        "AVATAR_SESSION_TOKEN": session_token(key, SERVICE),
        "AVATAR_STATE_TOKEN": state_token(key, SERVICE),
    }
    log = tmp_path / "p1.log"
    with runtime_process.serving(log, 16, environment, device="simulated:h100-80gb") as runtime:
        sessions, admin = (int(each.rpartition(":")[2]) for each in (runtime.url, runtime.admin))
        ports = [
            {"name": "sessions", "containerPort": sessions},
            {"name": "admin", "containerPort": admin},
        ]
        ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        fake.items["pods"] = [fake.pod("p1", ports=ports, podIP="127.0.0.1", **ready)]
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
