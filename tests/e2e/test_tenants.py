"""A tenant with an API key: created, used, restricted to a service, and revoked."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from localcluster import waiting
from localcluster.release import KEYS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from localcluster.release import Space

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

TENANT: Final = "e2e-tenant"
SECRET: Final = "e2e-tenant-keys"
REVOKED_S: Final = 5.0


async def keys(space: Space, *arguments: str, secret: str = SECRET) -> str:
    """Run `avatar-gateway keys` as an administrator of the cluster."""
    action, *rest = arguments
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "avatar_gateway", "keys", action, *rest,
        "--namespace", KEYS, "--secret", secret,
        "--kubeconfig", str(space.cluster.kubeconfig),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, problems = await child.communicate()
    assert child.returncode == 0, problems.decode()
    return output.decode()


@asynccontextmanager
async def tenant(space: Space) -> AsyncIterator[None]:
    """Create the tenant of a namespace, and delete it with its keys."""
    body = {
        "apiVersion": "avatar.musetalk.io/v1alpha1",
        "kind": "AvatarTenant",
        "metadata": {"name": TENANT},
        "spec": {
            "access": {"namespaces": [space.name]},
            "apiKeys": {"secretRefs": [{"name": SECRET}], "onRevocation": "EndSessions"},
        },
    }
    await space.kubectl_apply(yaml.safe_dump(body))
    try:
        yield
    finally:
        await space.cluster.kubectl("delete", "avt", TENANT)
        await space.cluster.kubectl("delete", "secret", SECRET, "-n", KEYS, "--ignore-not-found")


def session(space: Space, key: str, model: str) -> connect:
    return connect(
        f"ws://{space.release.gateway}/v1/realtime?model={model}",
        additional_headers={"Authorization": f"Bearer {key}"},
    )


async def answer(space: Space, key: str, model: str) -> str:
    """Return the code of the answer to a request for a session, `opened` if it opens."""
    try:
        async with session(space, key, model) as caller:
            assert json.loads(await caller.recv())["type"] == "session.created"
            return "opened"
    except InvalidStatus as refusal:
        return str(json.loads(refusal.response.body or b"")["error"]["code"])


async def keys_valid(space: Space) -> str:
    """Return the status of the condition KeysValid of the tenant."""
    path = '{.status.conditions[?(@.type=="KeysValid")].status}'
    return await space.cluster.kubectl("get", "avt", TENANT, "-o", f"jsonpath={path}")


async def closing(caller: ClientConnection) -> tuple[int | None, str | None]:
    """Return the close code and the reason, when the session has ended."""
    try:
        while True:
            await caller.recv()
    except ConnectionClosed:
        return caller.close_code, caller.close_reason


async def test_a_key_opens_sessions_until_it_is_revoked(space: Space) -> None:
    model, hidden = f"{space.name}/desk", f"{space.name}/missing"
    platform = space.release.key
    await space.apply("desk", replicas=1, placement={"gpuClasses": ["h100-80gb"]})
    await space.ready("desk")
    async with tenant(space):
        made: dict[str, Any] = yaml.safe_load(
            await keys(space, "new", "--comment", "e2e", "-o", "yaml")
        )
        key = made["key"]

        async def becomes(presented: str, wanted: str, within_s: float = 20) -> None:
            await waiting.until(
                lambda: answer(space, presented, model),
                lambda code: code == wanted,
                f"the answer {wanted}",
                within_s,
            )

        await becomes(key, "opened")
        await waiting.until(
            lambda: keys_valid(space),
            lambda status: status == "True",
            "the operator reports that the keys are valid",
            20,
        )
        assert await answer(space, key, hidden) == "model_not_found"
        assert await answer(space, platform, model) == "opened"

        await space.apply(
            "desk", replicas=1, placement={"gpuClasses": ["h100-80gb"]}, tenants=[TENANT]
        )
        await becomes(platform, "model_not_found")
        await becomes(key, "opened")

        listed = await keys(space, "list")
        assert made["id"] in listed
        assert "valid" in listed
        async with session(space, key, model) as live:
            await live.recv()
            await keys(space, "revoke", made["id"])
            async with asyncio.timeout(REVOKED_S):
                code, reason = await closing(live)
            assert (code, str(reason).partition(":")[0]) == (4401, "credential_revoked")
        assert await answer(space, key, model) == "unauthenticated"
        stored = await space.cluster.kubectl("get", "secret", SECRET, "-n", KEYS, "-o", "json")
        assert made["id"] not in json.loads(stored).get("data", {})
