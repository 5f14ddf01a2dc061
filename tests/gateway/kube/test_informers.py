"""The watch and the state streams against an API server and pods on real sockets."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from avatar_contracts.backoff import Backoff
from avatar_contracts.tokens import gateway_key, state_token
from avatar_gateway.core import api_keys, model
from avatar_gateway.core.tenants import Principal
from avatar_gateway.kube import informers, tenant_sinks
from avatar_gateway.pod_registry import PodRegistry
from avatar_gateway.streams.runtimes import STATES, PodStreams, new_http_session, update_states
from avatar_gateway.tenant_registry import TenantRegistry

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
            informers.SERVICES: informers.ServiceSink(registry, TenantRegistry()),
        }
        watches = [
            informers.reflector(api, kind, namespace, sink, Backoff(0.01, 0.02, lambda: 1.0))
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


async def test_a_pod_of_a_stranger_is_never_followed(
    fake: Any, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    stranger = fake.pod("p1", podIP="10.0.0.1")
    stranger["metadata"]["ownerReferences"] = []
    fake.items["pods"] = [stranger, fake.pod("p2")]
    async with _watching(fake) as registry:
        assert set(registry.pods) == {"acme/p2"}
        given_away = fake.pod("p2", 102)
        given_away["metadata"]["ownerReferences"][0]["name"] = "other"
        fake.events["pods"].put_nowait({"type": "MODIFIED", "object": given_away})
        fake.events["pods"].put_nowait({"type": "MODIFIED", "object": given_away})
        await until(lambda: not registry.pods)
    said = [each.getMessage() for each in caplog.records if "not used" in each.getMessage()]
    assert [text.rpartition("=")[2] for text in said] == ["acme/p1", "acme/p2"]


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


@pytest.mark.parametrize(
    "body",
    [
        "<html>a proxy</html>",
        "{}",
        "[]",
        '{"items": null, "metadata": {}}',
        '{"items": [{}], "metadata": {"resourceVersion": "1"}}',
        '{"items": [7], "metadata": {"resourceVersion": "1"}}',
        '{"items": [',
        "[" * 100_000,
    ],
    ids=["html", "empty", "list", "null", "no metadata", "number", "cut", "deep"],
)
async def test_an_answer_that_is_not_a_list_ends_no_watch(
    fake: Any, until: Until, body: str
) -> None:
    fake.items["pods"] = [fake.pod("p1")]
    async with _watching(fake) as registry:
        fake.items["pods"] = [fake.pod("p2")]
        fake.raw_lists = [body]
        gone = {"kind": "Status", "code": 410, "reason": "Expired"}
        fake.events["pods"].put_nowait({"type": "ERROR", "object": gone})
        await until(lambda: set(registry.pods) == {"acme/p2"})
        assert fake.raw_lists == []


async def test_an_event_that_is_not_an_object_ends_no_watch(fake: Any, until: Until) -> None:
    async with _watching(fake) as registry:
        for event in ({}, {"type": "ADDED"}, {"type": "ADDED", "object": {}}, ["ADDED"]):
            fake.events["pods"].put_nowait(event)
        fake.items["pods"] = [fake.pod("p2")]
        await until(lambda: set(registry.pods) == {"acme/p2"})


async def test_only_the_given_namespace_is_watched(fake: Any) -> None:
    async with _watching(fake, "acme"):
        paths = {path for path, _ in fake.queries}
    assert paths == {
        "/api/v1/namespaces/acme/pods",
        "/apis/avatar.musetalk.io/v1alpha1/namespaces/acme/avatarservices",
    }


@asynccontextmanager
async def _streaming(
    registry: PodRegistry, keys: tuple[str, ...] = (gateway_key(MASTER),)
) -> AsyncIterator[list[str]]:
    """Run the streams; yield one item for each fault that was counted."""
    faults: list[str] = []
    async with new_http_session() as http:
        streams = PodStreams(
            STATES,
            update_states(registry),
            registry,
            http,
            lambda: keys,
            lambda: Backoff(0.01, 0.02, lambda: 1.0),
            lambda: faults.append("fault"),
            registry.refresh_state,
        )
        task = asyncio.create_task(streams.run())
        try:
            yield faults
            assert not task.done()
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
    token = state_token(gateway_key(MASTER), "acme/concierge")
    assert set(first.tokens) == {f"Bearer {token}"}


async def test_a_pod_that_sends_as_fast_as_it_can_is_read_slowly(
    gateway: Any, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One read of the stream is handled at once; then the pod waits."""
    taken, update = list[float](), PodRegistry.update_state
    loop = asyncio.get_running_loop()

    def count(registry: PodRegistry, pod: Any, state: Any) -> None:
        taken.append(loop.time())
        update(registry, pod, state)

    pod = await gateway.pod("p1")
    pod.raw_state = json.dumps(pod.line(0)).encode() + b"\n"
    pod.raw_state *= 2**20 // len(pod.raw_state)  # 1 MiB every 50 ms
    monkeypatch.setattr(PodRegistry, "update_state", count)
    fresh = PodRegistry()
    async with _streaming(fresh):
        fresh.set_pod(pod.as_pod())
        await until(lambda: taken)
        await until(lambda: loop.time() - taken[0] > 1)
        assert len(taken) < 2**19 // len(json.dumps(pod.line(0)))


async def test_a_line_that_says_the_same_again_is_not_parsed(
    gateway: Any, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed, parse = list[Any](), model.parse_state

    def count(document: Any, pod: Any, now: float) -> Any:
        parsed.append(document)
        return parse(document, pod, now)

    monkeypatch.setattr(model, "parse_state", count)
    pod = await gateway.pod("p1")
    fresh = PodRegistry()

    def state() -> Any:
        return fresh.candidates("acme/concierge")[0].state

    async with _streaming(fresh):
        fresh.set_pod(pod.as_pod())
        await until(state)
        first = state()
        await until(lambda: state().sequence > first.sequence + 3)
        assert state().at > first.at
        assert len(parsed) == 1
        pod.capacity = 9
        await until(lambda: state().capacity == 9)
        assert len(parsed) == 2
        # The registry has forgotten the state: the next line is parsed, whatever it says.
        fresh.remove_pod("acme/p1")
        fresh.set_pod(pod.as_pod())
        await until(state)
        assert state().capacity == 9


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


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 3_000 + b"\n",
        b"[" * 100_000 + b"\n",
        b"x" * 600_000 + b"\n",
        b"x" * 600_000,
        b'{"pod": "p1", "service": "acme/concierge", "capacity": 0, "sessions": 0, "free": 5,'
        b' "draining": false, "ready": true, "sequence": 1}\n',
        b"null\n",
        b"\xff\n",
        b"{}\n",
    ],
    ids=["nested", "deep", "long", "endless", "impossible", "null", "bytes", "empty"],
)
async def test_a_pod_with_a_wrong_state_disturbs_no_other_pod(
    gateway: Any, until: Until, line: bytes
) -> None:
    bad, good = await gateway.pod("bad"), await gateway.pod("p1")
    bad.raw_state = line
    fresh = PodRegistry()
    async with _streaming(fresh) as faults:
        fresh.set_pod(bad.as_pod())
        await until(lambda: len(faults) >= 2)  # the stream was opened again after the first one
        fresh.set_pod(good.as_pod())

        def states() -> dict[str, bool]:
            found = fresh.candidates("acme/concierge")
            return {each.key: each.state is not None for each in found}

        await until(lambda: states() == {"acme/bad": False, "acme/p1": True}, states)


@pytest.mark.parametrize("accepted", ["first", "second"])
async def test_during_a_rotation_pods_of_both_keys_are_read(
    gateway: Any, until: Until, accepted: str
) -> None:
    pod = await gateway.pod("p1")
    pod.accepted = f"Bearer {state_token(accepted, 'acme/concierge')}"
    fresh = PodRegistry()
    async with _streaming(fresh, ("second", "first")) as faults:
        fresh.set_pod(pod.as_pod())
        await until(lambda: fresh.candidates("acme/concierge")[0].state is not None)
        assert faults == []


@pytest.mark.parametrize("keys", [(), ("third",)], ids=["none", "unknown"])
async def test_a_pod_that_accepts_no_key_is_a_fault_and_is_tried_again(
    gateway: Any, until: Until, keys: tuple[str, ...]
) -> None:
    pod = await gateway.pod("p1")
    pod.accepted = "Bearer another"
    fresh = PodRegistry()
    async with _streaming(fresh, keys) as faults:
        fresh.set_pod(pod.as_pod())
        await until(lambda: len(faults) >= 2)
        assert fresh.candidates("acme/concierge")[0].state is None


async def test_a_redirect_of_a_pod_is_not_followed(gateway: Any, until: Until) -> None:
    bad, other = await gateway.pod("bad"), await gateway.pod("p1")
    bad.redirect = f"http://127.0.0.1:{other.admin_port}/control/v1/state"
    fresh = PodRegistry()
    async with _streaming(fresh) as faults:
        fresh.set_pod(bad.as_pod())
        await until(lambda: len(faults) >= 2)
    assert other.tokens == []


async def test_the_states_of_more_than_a_hundred_pods_are_followed(
    gateway: Any, until: Until
) -> None:
    fresh = PodRegistry()
    pod = await gateway.pod("p1")
    async with _streaming(fresh):
        for number in range(150):
            fresh.set_pod(replace(pod.as_pod(), uid=f"uid-{number}", namespace=f"team-{number}"))

        def states() -> int:
            return sum(c.state is not None for c in fresh.candidates("acme/concierge"))

        await until(lambda: states() == 150, states)
    assert len(pod.tokens) == 150


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
    assert set(pod.tokens) == {f"Bearer {state_token(gateway_key(MASTER), 'acme/concierge')}"}


@pytest.mark.parametrize("status", [404, 403])
async def test_a_cluster_without_tenants_or_without_the_right_is_synced(
    fake: Any, until: Until, status: int
) -> None:
    fake.absent = status
    tenants = TenantRegistry("keys")
    async with informers.connected(str(fake.kubeconfig)) as api:
        sinks: dict[str, informers.EventSink] = {
            informers.TENANTS: tenant_sinks.TenantSink(tenants),
            informers.NAMESPACES: tenant_sinks.NamespaceSink(tenants),
            informers.SECRETS: tenant_sinks.KeySink(tenants),
        }
        watches = [
            informers.reflector(
                api, kind, None, sink, Backoff(0.01, 0.02, lambda: 1.0), optional=True
            )
            for kind, sink in sinks.items()
        ]
        tasks = [asyncio.create_task(watch.run()) for watch in watches]
        await until(lambda: all(watch.synced.is_set() for watch in watches))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_tenants_keys_and_labels_reach_the_registry(fake: Any, until: Until) -> None:
    key_id, key = api_keys.new_key(b"r" * 32, b"i" * 16)
    entry = base64.b64encode(api_keys.entry_of(key, b"s" * 16).encode()).decode()
    spec = {
        "access": {"namespaceSelector": {"matchLabels": {"team": "acme"}}},
        "apiKeys": {"secretRefs": [{"name": "keys"}]},
    }
    fake.items |= {
        "avatartenants": [{"metadata": {"name": "acme"}, "spec": spec}],
        "namespaces": [{"metadata": {"name": "acme", "labels": {"team": "acme"}}}],
        "secrets": [{"metadata": {"name": "keys", "namespace": "k"}, "data": {key_id: entry}}],
        "avatarservices": [{"metadata": {"name": "desk", "namespace": "acme"}}],
    }
    fake.events |= {kind: asyncio.Queue() for kind in ("avatartenants", "namespaces", "secrets")}
    tenants = TenantRegistry("k")
    async with informers.connected(str(fake.kubeconfig)) as api:
        kinds: list[tuple[str, str | None, informers.EventSink]] = [
            (informers.TENANTS, None, tenant_sinks.TenantSink(tenants)),
            (informers.NAMESPACES, None, tenant_sinks.NamespaceSink(tenants)),
            (informers.SECRETS, "k", tenant_sinks.KeySink(tenants)),
            (informers.SERVICES, None, informers.ServiceSink(PodRegistry(), tenants)),
        ]
        tasks = [
            asyncio.create_task(
                informers.reflector(
                    api, kind, namespace, sink, Backoff(0.01, 0.02, lambda: 1.0)
                ).run()
            )
            for kind, namespace, sink in kinds
        ]
        await until(lambda: tenants.find_key(key, 0))
        found = tenants.find_key(key, 0)
        assert found is not None
        holder = Principal(found[0].tenant)
        await until(lambda: tenants.permits(holder, "acme/desk"))
        closed = {"metadata": {"name": "desk", "namespace": "acme", "resourceVersion": "101"}}
        event = {"type": "MODIFIED", "object": closed | {"spec": {"tenants": ["globex"]}}}
        fake.events["avatarservices"].put_nowait(event)
        await until(lambda: not tenants.permits(holder, "acme/desk"))
        gone = {"metadata": {"name": "keys", "namespace": "k", "resourceVersion": "102"}}
        fake.events["secrets"].put_nowait({"type": "DELETED", "object": gone})
        await until(lambda: tenants.find_key(key, 0) is None)
        assert any(path == "/api/v1/namespaces/k/secrets" for path, _ in fake.queries)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
