"""Two gateways that share their state in a real Redis, and what they lose on the way.

The control plane, the process nodes, the operator, the gateways and the redis-server are real. The
callers reach the gateways through one address, as through a load balancer.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest
import pytest_asyncio
import yaml
from tests import redis_server
from tests.e2e.test_tenants import keys
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from avatar_client import session
from avatar_client.sound import Sound
from localcluster import paths, waiting
from localcluster.controlplane import cluster as controlplane
from localcluster.controlplane import ports
from localcluster.front_door import FrontDoor
from localcluster.release import KEYS, SYSTEM, Release, Space, processes_with

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

KEY: Final = "a-key-for-the-end-to-end-tests"
QUOTA: Final = 3
LIVE: Final = 20
SOUND: Final = Sound(bytes(24_000 * 2 * 3), 24_000)
"""Three seconds, of which each frame and each sample must arrive."""
SPREAD: Final[dict[str, Any]] = {
    "replicas": 2,
    "placement": {"gpuClasses": ["h100-80gb", "a100-80gb"]},
}


@dataclass
class Hosting:
    """A release with two gateways, one address for them, and the tenants that use it."""

    space: Space
    door: FrontDoor
    redis: redis_server.RedisServer
    keys: dict[str, str]

    def target(self, tenant: str, service: str = "desk") -> session.Target:
        return session.Target(
            f"ws://{self.door.address}", f"{self.space.name}/{service}", self.keys[tenant]
        )

    def open(self, tenant: str, wait_ms: int = 0) -> connect:
        return connect(
            f"ws://{self.door.address}/v1/realtime?model={self.space.name}/desk&wait_ms={wait_ms}",
            additional_headers={"Authorization": f"Bearer {self.keys[tenant]}"},
        )

    async def refusal(self, tenant: str) -> dict[str, Any]:
        """Return the error of a request, empty if the session opens."""
        try:
            async with self.open(tenant):
                return {}
        except InvalidStatus as refused:
            error: dict[str, Any] = json.loads(refused.response.body or b"{}")["error"]
            return error

    async def tenant(self, name: str) -> dict[str, Any]:
        return dict(json.loads(await self.space.cluster.kubectl("get", "avt", name, "-ojson")))


async def next_event(caller: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(60):
        event: dict[str, Any] = json.loads(await caller.recv())
        return event


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hosting(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Hosting]:
    """Install the chart with two gateways, and create the tenants `small` and `large`."""
    folder = tmp_path_factory.mktemp("tenants")
    (port,) = ports.find_free(1)
    # Pods do not see the folders of this machine, so that the server needs a port.
    options = ("--port", str(port), "--bind", "127.0.0.1")
    async with (
        redis_server.running(folder, *options) as redis,
        controlplane.running(folder / "cluster", nodes=paths.SIMULATED_NODES) as cluster,
    ):
        await cluster.helm(
            "install", "avatar", paths.REPOSITORY / "charts" / "avatar-operator",
            "--namespace", SYSTEM, "--create-namespace", "--set", "operator.resyncSeconds=10",
            "--set", "gateway.replicas=2", "--set", "gateway.drainDelaySeconds=1",
            "--set", f"gateway.apiKey.value={KEY}",
            "--set", f"gateway.tenants.keysNamespace={KEYS}",
            "--set", "gateway.tenants.createKeysNamespace=true",
            "--set", f"gateway.sharedState.url=redis://127.0.0.1:{port}",
            "--wait", "--timeout", "120s",
        )  # fmt: skip
        release = Release(cluster, "", KEY)
        await cluster.kubectl("create", "namespace", "hosted")
        space = Space(release, "hosted")
        made = {}
        for name, limits in (("small", {"sessions": QUOTA}), ("large", {})):
            printed = await keys(space, "new", "-o", "yaml", secret=name)
            made[name] = yaml.safe_load(printed)["key"]
            await space.kubectl_apply(tenant_object(name, limits))
        async with FrontDoor(lambda: release.pods("gateway")).listening() as door:
            await door.until(2)
            opened = Hosting(space, door, redis, made)
            await space.apply("desk", **SPREAD)
            await space.ready("desk", pods=2)
            for name in made:
                await waiting.until(
                    partial(opened.refusal, name), lambda error: error == {}, f"{name} known", 30
                )
            yield opened


def tenant_object(name: str, limits: dict[str, int]) -> str:
    body = {
        "apiVersion": "avatar.musetalk.io/v1alpha1",
        "kind": "AvatarTenant",
        "metadata": {"name": name},
        "spec": {
            "access": {"namespaces": ["hosted"]},
            "apiKeys": {"secretRefs": [{"name": name}]},
            "limits": limits,
        },
    }
    return yaml.safe_dump(body)


@asynccontextmanager
async def all_slots(hosting: Hosting) -> AsyncIterator[list[ClientConnection]]:
    """Open as many sessions as the tenant `small` may have; the test may close some."""
    callers = [await hosting.open("small") for _ in range(QUOTA)]
    try:
        yield callers
    finally:
        for caller in callers:
            await caller.close()
        await waiting.until(
            lambda: hosting.refusal("small"), lambda error: error == {}, "all slots are free"
        )


async def test_a_caller_over_the_quota_waits_until_a_session_of_its_tenant_ends(
    hosting: Hosting,
) -> None:
    async with all_slots(hosting) as callers:
        error = await hosting.refusal("small")
        assert (error["code"], error["param"], error["limit"]) == (
            "quota_exceeded", "sessions", QUOTA,
        )  # fmt: skip
        assert await hosting.refusal("large") == {}  # another tenant is not disturbed
        async with hosting.open("small", wait_ms=60_000) as waiting_caller:
            queued = await next_event(waiting_caller)
            assert (queued["type"], queued["position"]) == ("session.queued", 1)
            await callers.pop().close()
            while (event := await next_event(waiting_caller))["type"] == "session.queued":
                assert event["position"] == 1
            assert event["type"] == "session.created"
    await waiting.until(
        lambda: hosting.tenant("small"),
        lambda tenant: tenant.get("status", {}).get("sessions") == 0,
        "the status of the tenant",
    )


class Talker:
    """A session that speaks until it is told to stop, and goes on through another gateway."""

    def __init__(self, target: session.Target) -> None:
        self._target = target
        self.live: session.Session | None = None
        self.speaks = asyncio.Event()
        self.stops = asyncio.Event()
        self.is_open = asyncio.Event()

    async def run(self) -> None:
        async with session.connect(self._target, keep_media=True) as live:
            self.live = live
            self.is_open.set()
            await self.speaks.wait()
            while not self.stops.is_set():
                response = await live.speak(SOUND)
                assert response.status == "completed"
                assert bytes(response.pcm) == SOUND.pcm
                assert len(response.frames) + len(response.dropped) == 75
            assert live.trace.violations == []

    @property
    def resumed(self) -> int:
        return 0 if self.live is None else self.live.resumed


@asynccontextmanager
async def talking(hosting: Hosting, tenant: str, count: int) -> AsyncIterator[list[Talker]]:
    """Open sessions that begin to speak; all must have spoken to their end afterwards."""
    talkers = [Talker(hosting.target(tenant)) for _ in range(count)]
    async with asyncio.TaskGroup() as group:
        for talker in talkers:
            group.create_task(talker.run())
            await talker.is_open.wait()
        for talker in talkers:
            talker.speaks.set()
        await asyncio.sleep(1)  # in the middle of a word
        yield talkers
        for talker in talkers:
            talker.stops.set()


async def test_the_sessions_of_a_killed_gateway_go_on_and_count_once(hosting: Hosting) -> None:
    pods = await hosting.space.release.pods("gateway")
    victim = pods[0]["metadata"]["name"]
    async with talking(hosting, "small", QUOTA) as talkers:
        for process in processes_with("AVATAR_POD", victim):
            os.kill(process, signal.SIGKILL)
        await hosting.door.until(1)
        error = await hosting.refusal("small")
        assert (error["code"], error["param"]) == ("quota_exceeded", "sessions")
    assert max(talker.resumed for talker in talkers) == 1
    await hosting.door.until(2)
    await waiting.until(
        lambda: hosting.refusal("small"), lambda error: error == {}, "a slot is free again"
    )


async def test_a_rollout_of_the_gateways_ends_no_session(hosting: Hosting) -> None:
    kubectl = hosting.space.cluster.kubectl
    async with talking(hosting, "large", LIVE) as talkers:
        (deployment,) = (
            await kubectl("get", "deployments", "-n", SYSTEM, "-o", "name",
                          "-l", "app.kubernetes.io/component=gateway")
        ).split()  # fmt: skip
        await kubectl("rollout", "restart", deployment, "-n", SYSTEM)
        await kubectl("rollout", "status", deployment, "-n", SYSTEM, "--timeout=120s")
        # Both old gateways leave, a moment after the new ones are ready.
        await waiting.until(
            lambda: asyncio.sleep(0, [talker.resumed for talker in talkers]),
            lambda counts: min(counts) >= 1,
            "every session goes on through another gateway",
            60,
        )
    await hosting.door.until(2)


async def test_sessions_go_on_without_redis_and_count_right_afterwards(hosting: Hosting) -> None:
    async with all_slots(hosting):
        await hosting.redis.kill()
        error = await hosting.refusal("small")
        assert error["code"] == "quota_exceeded"
        async with talking(hosting, "large", 2):
            pass
        await hosting.redis.start()  # it has forgotten everything
        for _ in range(5):
            error = await hosting.refusal("small")
            assert error["code"] == "quota_exceeded"
