"""The watch and the state streams against an API server and pods on real sockets."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from avatar_contracts.backoff import Backoff
from avatar_contracts.tokens import control_token
from avatar_gateway.kube import informers
from avatar_gateway.pod_registry import PodRegistry
from avatar_gateway.streams.runtimes import StateStreams

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Until = Callable[..., Awaitable[None]]

MASTER = "a-master-secret-of-the-operator"


@asynccontextmanager
async def _watching(fake: Any, namespace: str | None = None) -> AsyncIterator[PodRegistry]:
    registry = PodRegistry()
    async with informers.connected(str(fake.kubeconfig)) as api:
        kinds: dict[str, informers.EventSink] = {
            informers.PODS: informers.PodSink(registry),
            informers.SERVICES: informers.ServiceSink(registry),
        }
        watches = [
            informers.Watch(api, kind, namespace, sink, Backoff(0.01, 0.02, lambda: 1.0))
            for kind, sink in kinds.items()
        ]
        tasks = [asyncio.create_task(watch.run()) for watch in watches]
        try:
            async with asyncio.timeout(5):
                await asyncio.gather(*(watch.synced.wait() for watch in watches))
            yield registry
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def test_all_pages_are_listed_and_events_are_applied(fake: Any, until: Until) -> None:
    fake.items["pods"] = [fake.pod("p1", podIP="10.0.0.1"), fake.pod("p2")]
    fake.items["avatarservices"] = [{"metadata": {"name": "concierge", "namespace": "acme"}}]
    async with _watching(fake) as registry:
        assert set(registry.pods) == {"acme/p1", "acme/p2"}
        assert registry.services == {"acme/concierge"}
        events = fake.events["pods"]
        events.put_nowait({"type": "ADDED", "object": fake.pod("p3", 101)})
        events.put_nowait({"type": "MODIFIED", "object": fake.pod("p2", 102, podIP="10.0.0.2")})
        events.put_nowait({"type": "DELETED", "object": fake.pod("p1", 103)})
        service = {"metadata": {"name": "b", "namespace": "acme", "resourceVersion": "7"}}
        fake.events["avatarservices"].put_nowait({"type": "ADDED", "object": service})
        await until(lambda: set(registry.pods) == {"acme/p2", "acme/p3"})
        assert registry.pods["acme/p2"].ip == "10.0.0.2"
        await until(lambda: "acme/b" in registry.services)
        fake.events["avatarservices"].put_nowait({"type": "DELETED", "object": service})
        await until(lambda: "acme/b" not in registry.services)
    path, query = next((p, q) for p, q in fake.queries if p.endswith("/pods"))
    assert (path, query["labelSelector"]) == (
        "/api/v1/pods",
        "app.kubernetes.io/name=avatar-runtime",
    )


async def test_the_next_watch_continues_from_the_last_version(fake: Any, until: Until) -> None:
    async with _watching(fake):
        bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "150"}}}
        bookmark["object"]["kind"] = "Pod"  # type: ignore[index]
        fake.events["pods"].put_nowait({"type": "ADDED", "object": fake.pod("p1", 120)})
        fake.events["pods"].put_nowait(bookmark)
        fake.events["pods"].put_nowait(None)

        def versions() -> list[str]:
            return [
                query["resourceVersion"]
                for path, query in fake.queries
                if path.endswith("/pods") and "watch" in query
            ]

        await until(lambda: len(versions()) == 2, versions)
        assert versions() == ["100", "150"]
        assert fake.lists("pods") == 1


async def test_an_expired_version_causes_a_new_list(fake: Any, until: Until) -> None:
    fake.items["pods"] = [fake.pod("p1")]
    async with _watching(fake) as registry:
        fake.items["pods"] = [fake.pod("p2")]
        gone = {"kind": "Status", "code": 410, "reason": "Expired"}
        fake.events["pods"].put_nowait({"type": "ERROR", "object": gone})
        await until(lambda: set(registry.pods) == {"acme/p2"})
        assert fake.lists("pods") == 2


async def test_known_objects_are_kept_while_the_api_is_unavailable(fake: Any, until: Until) -> None:
    fake.items["pods"] = [fake.pod("p1")]
    async with _watching(fake) as registry:
        fake.fail_lists = 3
        broken = {"kind": "Status", "code": 500, "message": "etcd"}
        fake.events["pods"].put_nowait({"type": "ERROR", "object": broken})
        await until(lambda: fake.lists("pods") == 4)
        assert set(registry.pods) == {"acme/p1"}
        fake.fail_lists = 0
        fake.items["pods"] = [fake.pod("p9")]
        fake.events["pods"].put_nowait({"type": "ERROR", "object": broken})
        await until(lambda: set(registry.pods) == {"acme/p9"})


async def test_only_the_given_namespace_is_watched(fake: Any) -> None:
    async with _watching(fake, "acme"):
        paths = {path for path, _ in fake.queries}
    assert paths == {
        "/api/v1/namespaces/acme/pods",
        "/apis/avatar.musetalk.io/v1alpha1/namespaces/acme/avatarservices",
    }


@asynccontextmanager
async def _streaming(registry: PodRegistry) -> AsyncIterator[None]:
    async with aiohttp.ClientSession() as http:
        streams = StateStreams(registry, http, MASTER, lambda: Backoff(0.01, 0.02, lambda: 1.0))
        task = asyncio.create_task(streams.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_each_state_stream_uses_the_token_of_the_service(gateway: Any, until: Until) -> None:
    first, second = await gateway.pod("p1"), await gateway.pod("p2", capacity=3)
    fresh = PodRegistry()
    async with _streaming(fresh):
        fresh.set_pod(first.as_pod())
        fresh.set_pod(second.as_pod())

        def capacities() -> list[int | None]:
            found = fresh.candidates("acme/concierge")
            return [c.state.capacity if c.state else None for c in found]

        await until(lambda: capacities() == [5, 3], capacities)
        first.capacity = 9
        await until(lambda: capacities() == [9, 3], capacities)
        fresh.remove_pod("acme/p1")
        await until(lambda: capacities() == [3], capacities)
    token = control_token(MASTER, "acme/concierge")
    assert set(first.tokens) == {f"Bearer {token}"}


@pytest.mark.parametrize("name", ["another", ""])
async def test_a_state_of_another_pod_at_the_same_address_is_ignored(
    gateway: Any, until: Until, name: str
) -> None:
    pod = await gateway.pod("p1")
    described = pod.as_pod()
    pod.name = name
    fresh = PodRegistry()
    async with _streaming(fresh):
        fresh.set_pod(described)
        # The gateway reconnects and ignores each state.
        await until(lambda: len(pod.tokens) >= 3)
        assert fresh.candidates("acme/concierge")[0].state is None
        pod.name = "p1"
        await until(lambda: fresh.candidates("acme/concierge")[0].state is not None)


async def test_a_pod_that_was_taken_over_keeps_the_token_of_its_original_service(
    gateway: Any, until: Until
) -> None:
    pod = await gateway.pod("p1")
    fresh = PodRegistry()
    async with _streaming(fresh):
        fresh.set_pod(pod.as_pod())
        await until(lambda: fresh.candidates("acme/concierge")[0].state is not None)
        moved = replace(pod.as_pod(), service="acme/second", made_for="acme/concierge")
        fresh.set_pod(moved)
        # It is the same pod, so its state is kept and no caller has to wait.
        assert fresh.candidates("acme/concierge") == []
        assert fresh.candidates("acme/second")[0].state is not None
        fresh.set_pod(replace(moved, ready=True))  # causes a new connection, as after a lost one
        await until(lambda: len(pod.tokens) == 2)
    assert set(pod.tokens) == {f"Bearer {control_token(MASTER, 'acme/concierge')}"}
