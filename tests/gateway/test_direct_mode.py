"""Direct mode with a gateway process and a runtime process: no gateway is between both."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from avatar_contracts.tokens import gateway_key, session_token
from localcluster import runtime_process, waiting

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

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


async def test_a_client_opens_a_session_at_the_pod_itself(
    tmp_path: Path, fake: Any, start_gateway: Callable[..., Any]
) -> None:
    key = gateway_key(MASTER)
    environment = {
        "AVATAR_POD": "p1",
        "AVATAR_SERVICE": SERVICE,
        "AVATAR_CAPACITY": "1",
        "AVATAR_SESSION_TOKEN": session_token(key, SERVICE),
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
        async with start_gateway(AVATAR_GATEWAY_DIRECT_URL=url) as gateway:
            address = f"http://127.0.0.1:{gateway.ports[0]}/v1/sessions"
            _, made = await waiting.until(
                partial(_offer, address), lambda found: found[0] == 201, "a pod is offered", 20
            )
            assert made["url"] == "ws://p1.acme.media.example/v1/realtime"
            headers = {"Authorization": f"Bearer {made['token']}"}
            direct = f"{runtime.url}/v1/realtime"
            async with connect(direct, additional_headers=headers) as socket:
                assert '"session.created"' in str(await socket.recv())
                assert runtime.state()["sessions"] == 1
            with pytest.raises(InvalidStatus, match="401"):
                await connect(direct, additional_headers=headers)
            with pytest.raises(InvalidStatus, match="401"):  # only the token is enough
                await connect(direct, additional_headers={"Authorization": f"Bearer {KEY}"})
