"""The time of the sessions of a gateway that is killed is counted: their pod reports it."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from tests.gateway.spoken import KEY

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

MASTER = "a-master-secret-of-the-operator"
SERVICE = "acme/concierge"
SESSIONS = 5


async def hold(url: str, opened: asyncio.Semaphore) -> float:
    """Open a session, and return how many seconds it was there until the gateway was gone."""
    headers = {"Authorization": f"Bearer {KEY}"}
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{url}?model={SERVICE}", headers=headers) as socket,
    ):
        started = time.monotonic()
        opened.release()
        while (await socket.receive()).type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
            pass
        return time.monotonic() - started


async def count_claims(redis_server: RedisServer) -> int:
    async with redis_server.client() as client:
        names = await client.keys("avatar:record:conn_*")
        return sum([bool(await client.hexists(name, "claim")) for name in names])


async def test_the_pod_reports_the_sessions_of_a_gateway_that_was_killed(
    tmp_path: Path, fake: Any, start_gateway: Callable[..., Any], redis_server: RedisServer
) -> None:
    key = gateway_key(MASTER)
    named = {
        "AVATAR_POD": "p1",
        "AVATAR_SERVICE": SERVICE,
        "AVATAR_CAPACITY": str(SESSIONS),
        "AVATAR_SESSION_TOKEN": session_token(key, SERVICE),
        "AVATAR_STATE_TOKEN": state_token(key, SERVICE),
    }
    log = tmp_path / "p1.log"
    with runtime_process.serving(log, 16, named, device="simulated:h100-80gb") as runtime:
        ports = [
            {"name": name, "containerPort": int(url.rpartition(":")[2])}
            for name, url in (("sessions", runtime.url), ("admin", runtime.admin))
        ]
        ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        fake.items["pods"] = [fake.pod("p1", ports=ports, podIP="127.0.0.1", **ready)]
        fake.items["avatarservices"] = [{"metadata": {"name": "concierge", "namespace": "acme"}}]
        shared = {"AVATAR_GATEWAY_SHARED_STATE_URL": redis_server.url}
        async with start_gateway(**shared) as first, start_gateway(**shared) as second:
            for gateway in (first, second):
                status = partial(gateway.status, "/readyz")
                await waiting.until(status, lambda found: found == 200, "ready", 30)
            url = f"http://127.0.0.1:{first.ports[0]}/v1/realtime"
            opened = asyncio.Semaphore(0)
            await asyncio.sleep(1.5)  # the state of the pod is there
            callers = [asyncio.create_task(hold(url, opened)) for _ in range(SESSIONS)]
            async with asyncio.timeout(60):
                for _ in callers:
                    await opened.acquire()
                await asyncio.sleep(0.4)  # less than the time between two reports
                first.child.kill()
                seconds = await asyncio.gather(*callers)
            await waiting.until(
                partial(count_claims, redis_server), lambda found: found == SESSIONS, "claims", 30
            )
        connection = redis_server.connection()
        state = RedisState(connection)
        await let_a_minute_pass(redis_server.url)
        await state.close_abandoned()
        hour = int(time.time() // 3600)
        totals = sums(await state.usage(hour - 1, hour + 2))
        await connection.close()
    found = [each for account, each in totals.items() if account.tenant == PLATFORM]
    assert sum(each[FIGURES.index("sessions")] for each in found) == SESSIONS
    session_ms = sum(each[FIGURES.index("session_ms")] for each in found)
    assert session_ms / 1000 == pytest.approx(sum(seconds), abs=0.5 * SESSIONS)
