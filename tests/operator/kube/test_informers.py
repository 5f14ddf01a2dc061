"""Tests of the informers: lists, watches, retries and their pauses, on a fake client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest_asyncio

from avatar_contracts import list_watch
from avatar_contracts.list_watch import Page
from avatar_operator.core.cache.entries import DEVICE_KINDS, ChangeImpact, Kind
from avatar_operator.core.cache.store import Store
from avatar_operator.core.manifests.objects import pdb
from avatar_operator.errors import ClusterError, NotFound, Refused, TemporaryError
from avatar_operator.kube import informers
from avatar_operator.kube.client import PATHS
from avatar_operator.kube.informers import RELIST_S, RETRY_S, REWATCH_S, SECOND_LIST_S, Informers
from avatar_operator.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    import pytest
    from tests.operator.conftest import Body, Make, Pauses

NODES, PODS, PDBS = "nodes", "pods", "poddisruptionbudgets"
SERVICES, PROFILES = Kind.SERVICES.value, Kind.PROFILES.value
TENANTS, NAMESPACES = Kind.TENANTS.value, Kind.NAMESPACES.value
AVATARS, JOBS = Kind.AVATARS.value, Kind.JOBS.value
DEVICES = frozenset(kind.value for kind in DEVICE_KINDS)
RESYNC_S = 300.0
OWN = "app.kubernetes.io/managed-by=avatar-operator"
FIRST_REWATCH = (REWATCH_S[0] / 2, REWATCH_S[0])

Event = tuple[str, "Body"] | ClusterError | None


class FakeClient:
    """Lists and watches by the name of the resource; the test sends the events."""

    def __init__(self) -> None:
        self.items: dict[str, list[Body]] = {}
        self.faults: dict[str, list[ClusterError]] = {}
        self.lists: list[str] = []
        self.selectors: set[tuple[str, str, str]] = set()
        self.watches: list[tuple[str, str]] = []
        self.silence_s: set[float] = set()
        self.events: dict[str, asyncio.Queue[Event]] = {}
        self.without_devices = "the server could not find the requested resource"

    async def serves(self, path: str) -> str:
        return self.without_devices if "/resource.k8s.io/" in path else ""

    def _name(self, verb: str, path: str, selector: str) -> str:
        (name,) = [name for name, known in PATHS.items() if known == path]
        self.selectors.add((verb, name, selector))
        return name

    async def list(self, path: str, selector: str = "") -> AsyncIterator[Page]:
        name = self._name("list", path, selector)
        self.lists.append(name)
        version = str(100 + len(self.lists))
        for body in self.items.get(name, []):
            yield Page([body], version, "")
        if faults := self.faults.get(name, []):
            raise faults.pop(0)
        yield Page([], version, "")

    async def watch(
        self, path: str, version: str, silence_s: float, selector: str = ""
    ) -> AsyncIterator[tuple[str, Body]]:
        name = self._name("watch", path, selector)
        self.watches.append((name, version))
        self.silence_s.add(silence_s)
        events = self.events[name] = asyncio.Queue()
        while (event := await events.get()) is not None:
            if isinstance(event, ClusterError):
                raise event
            yield event

    def count(self, name: str) -> int:
        return self.lists.count(name)

    def versions(self, name: str) -> tuple[str, ...]:
        """Return the versions from which a resource was watched."""
        return tuple(version for watched, version in self.watches if watched == name)


class Handler:
    """Keeps the store as the manager does, and records all calls."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.observed: list[tuple[Kind, str]] = []
        self.deleted: list[tuple[Kind, str]] = []
        self.pdbs: list[tuple[str, str | None]] = []
        self.listed_pdbs: list[dict[str, str]] = []
        self.resyncs = 0

    def observe(self, kind: Kind, body: Mapping[str, Any]) -> ChangeImpact:
        self.observed.append((kind, body["metadata"]["uid"]))
        return self._store.observe(kind, body)

    def observe_deletion(self, kind: Kind, uid: str) -> None:
        self.deleted.append((kind, uid))
        self._store.observe_deletion(kind, uid)

    def on_pdb(self, uid: str, protects: str | None) -> None:
        self.pdbs.append((uid, protects))

    def on_pdbs_listed(self, protects: Mapping[str, str]) -> None:
        self.listed_pdbs.append(dict(protects))

    def on_resync(self) -> None:
        self.resyncs += 1


class Setup:
    """The informers with their fake client and handler."""

    def __init__(self, make: Make, pauses: Pauses) -> None:
        self.make = make
        self.pauses = pauses
        self.client = FakeClient()
        self.store = Store([])
        self.handler = Handler(self.store)
        self.metrics = Metrics()
        client: Any = self.client
        self.informers = Informers(client, self.store, RESYNC_S, self.handler, self.metrics)
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._running = asyncio.create_task(self.informers.run())
        await self.pauses.settle()

    async def stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def send(self, name: str, event: Event) -> None:
        self.client.events[name].put_nowait(event)
        await self.pauses.settle()

    def body(self, name: str, version: int, uid: str = "u") -> Body:
        body = self.make.node_body(uid) if name == NODES else self.make.pod_body(uid)
        body["metadata"] |= {"uid": uid, "resourceVersion": str(version)}
        return body

    def age(self, name: str) -> float:
        self.informers.export_metrics()
        text = self.metrics.render().decode()
        start = f'avatar_operator_watch_age_seconds{{resource="{name}"}} '
        (line,) = [line for line in text.splitlines() if line.startswith(start)]
        return float(line.removeprefix(start))


@pytest_asyncio.fixture
async def setup(
    make: Make, pauses: Pauses, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Setup]:
    for module in (informers, list_watch):
        pauses.replace_in(module, monkeypatch)
    setup = Setup(make, pauses)
    yield setup
    await setup.stop()


async def test_everything_is_listed_once_and_then_watched(setup: Setup) -> None:
    setup.client.items[NODES] = [setup.body(NODES, 7)]
    await setup.start()
    assert sorted(setup.client.lists) == sorted(PATHS.keys() - {NAMESPACES} - DEVICES)
    assert setup.informers.synced
    assert setup.handler.observed == [(Kind.NODES, "u")]
    assert setup.handler.resyncs == 1
    assert sorted(name for name, _ in setup.client.watches) == sorted([NODES, PODS, JOBS, PDBS])
    assert all(int(version) > 100 for _, version in setup.client.watches)
    assert setup.client.silence_s == {70.0}  # ten seconds more than between two bookmarks
    selected = {each for each in setup.client.selectors if each[2]}
    own = (JOBS, PDBS)
    assert selected == {(verb, kind, OWN) for verb in ("list", "watch") for kind in own}


async def test_namespaces_are_followed_once_a_tenant_selects_them(setup: Setup) -> None:
    await setup.start()
    assert setup.client.count(NAMESPACES) == 0
    body = setup.make.tenant_body(access={"namespaceSelector": {}}, version="5")
    setup.handler.observe(Kind.TENANTS, body)
    setup.informers.check_namespaces()
    await setup.pauses.settle()
    assert setup.client.count(NAMESPACES) == 1
    assert setup.client.versions(NAMESPACES) != ()


async def test_a_cluster_without_dra_is_synced_and_told_once(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await setup.start()
    assert setup.informers.synced
    await setup.pauses.end(SECOND_LIST_S)
    await setup.pauses.end(RESYNC_S)
    said = [line for line in caplog.messages if "DRA drivers" in line]
    assert len(said) == 1
    assert "could not find" in said[0]
    assert not DEVICES & set(setup.client.lists)


async def test_a_cluster_that_begins_to_serve_dra_is_followed(setup: Setup) -> None:
    await setup.start()
    setup.client.without_devices = ""
    await setup.pauses.end(SECOND_LIST_S)
    await setup.pauses.end(RESYNC_S)
    assert set(setup.client.lists) >= DEVICES
    assert {name for name, _ in setup.client.watches} >= DEVICES


async def test_devices_are_listed_before_the_caches_are_synced(setup: Setup) -> None:
    setup.client.without_devices = ""
    setup.client.faults["resourceslices"] = [TemporaryError("GET", 503, "no")]
    await setup.start()
    assert not setup.informers.synced
    await setup.pauses.end(*FIRST_REWATCH)
    assert setup.informers.synced


async def test_selected_namespaces_are_listed_before_the_caches_are_synced(setup: Setup) -> None:
    body = setup.make.tenant_body(access={"namespaceSelector": {}}, version="5")
    setup.client.items[TENANTS] = [body]
    setup.client.faults[NAMESPACES] = [Refused("GET", 403, "no")]
    await setup.start()
    assert not setup.informers.synced
    await setup.pauses.end(*FIRST_REWATCH)
    assert setup.informers.synced


async def test_the_caches_are_not_synced_until_every_kind_was_listed(setup: Setup) -> None:
    setup.client.faults[SERVICES] = [Refused("GET", 403, "no"), Refused("GET", 403, "no")]
    await setup.start()
    assert setup.client.count(SERVICES) == 1  # a list that failed is not repeated before the pause
    await setup.pauses.end(RETRY_S)
    assert setup.client.count(SERVICES) == 2
    assert not setup.informers.synced
    assert setup.handler.resyncs == 0
    await setup.pauses.end(RETRY_S)
    assert setup.informers.synced
    assert setup.handler.resyncs == 1


async def test_the_list_of_pdbs_is_retried_after_a_pause(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    setup.client.faults[PDBS] = [TemporaryError("GET", 503, "later")]
    await setup.start()
    assert setup.client.count(PDBS) == 1
    assert "cannot list kind=poddisruptionbudgets" in caplog.text
    assert not setup.informers.synced
    assert setup.handler.listed_pdbs == []
    await setup.pauses.end(RETRY_S)
    assert setup.client.count(PDBS) == 2
    assert setup.informers.synced
    assert setup.handler.listed_pdbs == [{}]


async def test_kinds_of_kopf_are_soon_listed_again_and_later_every_kind(setup: Setup) -> None:
    await setup.start()
    setup.client.lists.clear()
    await setup.pauses.end(SECOND_LIST_S)
    assert setup.client.lists == [SERVICES, PROFILES, AVATARS, TENANTS, PDBS]
    assert setup.handler.resyncs == 2
    setup.client.lists.clear()
    await setup.pauses.end(RESYNC_S)
    kinds = [kind.value for kind in Kind if kind is not Kind.NAMESPACES]
    assert setup.client.lists == [*(kind for kind in kinds if kind not in DEVICES), PDBS]
    assert setup.handler.resyncs == 3
    assert setup.pauses.lengths == [RESYNC_S]


async def test_a_short_resync_interval_also_shortens_the_first_pause(
    make: Make, pauses: Pauses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.RESYNC_S", 1.5)
    for module in (informers, list_watch):
        pauses.replace_in(module, monkeypatch)
    setup = Setup(make, pauses)
    await setup.start()
    assert pauses.lengths == [1.5]
    await setup.stop()


async def test_only_the_pdbs_that_are_correct_are_reported(setup: Setup) -> None:
    correct: Any = pdb(setup.make.service(), "concierge-live")
    edited: Any = pdb(setup.make.service(), "concierge-live")
    correct["metadata"]["uid"], edited["metadata"]["uid"] = "a", "b"
    edited["spec"] = {**edited["spec"], "minAvailable": 1}
    setup.client.items[PDBS] = [correct, edited]
    await setup.start()
    assert setup.handler.listed_pdbs == [{"a": "s1"}]


async def test_an_object_that_a_list_misses_was_deleted(setup: Setup) -> None:
    setup.client.items[PODS] = [setup.body(PODS, 7, "a"), setup.body(PODS, 8, "b")]
    await setup.start()
    await setup.pauses.end(SECOND_LIST_S)
    assert setup.handler.deleted == []
    del setup.client.items[PODS][0]
    await setup.pauses.end(RESYNC_S)
    assert setup.handler.deleted == [(Kind.PODS, "a")]


async def test_a_list_that_is_interrupted_removes_no_object(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    setup.client.items[PODS] = [setup.body(PODS, 7, "a"), setup.body(PODS, 8, "b")]
    await setup.start()
    await setup.pauses.end(SECOND_LIST_S)
    del setup.client.items[PODS][1]
    setup.client.faults[PODS] = [TemporaryError("GET", 503, "the second page is missing")]
    await setup.pauses.end(RESYNC_S)
    assert setup.handler.deleted == []
    assert "cannot list kind=pods" in caplog.text
    await setup.pauses.end(RETRY_S)
    assert setup.handler.deleted == [(Kind.PODS, "b")]


async def test_changes_that_a_watch_missed_are_logged_but_not_at_startup(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    setup.client.items[PODS] = [setup.body(PODS, 7, "a"), setup.body(PODS, 8, "b")]
    await setup.start()
    await setup.pauses.end(SECOND_LIST_S)
    await setup.pauses.end(RESYNC_S)  # nothing changed
    assert "the watch missed" not in caplog.text
    setup.client.items[PODS] = [setup.body(PODS, 9, "b"), setup.body(PODS, 10, "c")]
    await setup.pauses.end(RESYNC_S)
    # One is gone, one has another version, and one is new.
    assert caplog.text.count("the watch missed kind=pods changes=3") == 1
    assert caplog.text.count("the watch missed") == 1


async def test_a_relist_waits_for_further_ones_and_lists_each_kind_once(setup: Setup) -> None:
    await setup.start()
    setup.client.lists.clear()
    assert RELIST_S not in setup.pauses.lengths  # nobody has asked for a list
    for _ in range(3):
        setup.informers.relist(Kind.SERVICES)
    await setup.pauses.settle()
    assert setup.client.lists == []
    await setup.pauses.end(RELIST_S)
    assert setup.client.lists == [SERVICES]
    assert RELIST_S not in setup.pauses.lengths
    setup.informers.relist(Kind.PROFILES)
    await setup.pauses.end(RELIST_S)
    assert setup.client.lists == [SERVICES, PROFILES]


async def test_a_relist_that_fails_is_repeated(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    await setup.start()
    setup.client.lists.clear()
    setup.client.faults[PROFILES] = [TemporaryError("GET", 503, "later")]
    setup.informers.relist(Kind.PROFILES)
    await setup.pauses.end(RELIST_S)
    assert "cannot list kind=gpuprofiles" in caplog.text
    assert setup.client.lists == [PROFILES]
    await setup.pauses.end(RELIST_S)
    assert setup.client.lists == [PROFILES, PROFILES]
    assert RELIST_S not in setup.pauses.lengths


async def test_a_relist_before_the_first_list_is_not_needed(setup: Setup) -> None:
    setup.client.faults[PDBS] = [TemporaryError("GET", 503, "later")]
    await setup.start()
    setup.informers.relist(Kind.SERVICES)
    await setup.pauses.settle()
    assert RELIST_S not in setup.pauses.lengths


async def test_events_of_pods_and_nodes_are_handled_by_their_type(setup: Setup) -> None:
    await setup.start()
    for event_type in ("ADDED", "MODIFIED", "BOOKMARK", "DELETED"):
        await setup.send(PODS, (event_type, setup.body(PODS, 500, event_type)))
    await setup.send(NODES, ("MODIFIED", setup.body(NODES, 501, "n")))
    assert setup.handler.observed == [
        (Kind.PODS, "ADDED"),
        (Kind.PODS, "MODIFIED"),
        (Kind.NODES, "n"),
    ]
    assert setup.handler.deleted == [(Kind.PODS, "DELETED")]


async def test_events_of_pdbs_are_handled_by_their_type(setup: Setup) -> None:
    await setup.start()
    body: Any = pdb(setup.make.service(), "concierge-live")
    body["metadata"].update(uid="a", resourceVersion="500")
    await setup.send(PDBS, ("ADDED", body))
    await setup.send(PDBS, ("BOOKMARK", body))
    await setup.send(PDBS, ("DELETED", body))
    other = {**body, "metadata": {**body["metadata"], "name": "other"}}
    await setup.send(PDBS, ("MODIFIED", other))  # of no service
    assert setup.handler.pdbs == [("a", "s1"), ("a", None), ("a", None)]


async def test_a_watch_that_ends_continues_from_its_last_version_after_a_pause(
    setup: Setup,
) -> None:
    await setup.start()
    await setup.send(PODS, ("BOOKMARK", {"metadata": {"resourceVersion": "4711"}}))
    await setup.send(PODS, None)
    assert len(setup.client.versions(PODS)) == 1
    await setup.pauses.end(*FIRST_REWATCH)
    assert setup.client.versions(PODS)[1:] == ("4711",)
    assert setup.client.count(PODS) == 1


async def test_a_watch_whose_version_has_expired_lists_again(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await setup.start()
    first = setup.client.versions(PODS)[0]
    expired: tuple[Event, ...] = (
        NotFound("GET", 410, "too old"),
        ("ERROR", {"code": 410, "message": "too old resource version"}),
    )
    for number, event in enumerate(expired, start=1):
        await setup.send(PODS, event)
        await setup.pauses.end(number * FIRST_REWATCH[0], number * FIRST_REWATCH[1])
        assert setup.client.count(PODS) == number + 1
        assert int(setup.client.versions(PODS)[-1]) > int(first)
    assert "watch expired, listing again kind=pods fault=GET: 410 too old" in caplog.text
    assert "kind=pods fault=received type=ERROR message=too old resource version" in caplog.text


async def test_a_watch_that_fails_is_opened_again_from_the_same_version(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await setup.start()
    (version,) = setup.client.versions(PODS)
    await setup.send(PODS, TemporaryError("GET", 0, "reset by peer"))
    await setup.pauses.end(*FIRST_REWATCH)
    assert setup.client.versions(PODS) == (version, version)
    assert "watch ended kind=pods fault=GET: 0 reset by peer" in caplog.text


async def test_a_list_that_fails_is_made_again_before_the_watch(setup: Setup) -> None:
    setup.client.faults[NODES] = [Refused("GET", 403, "forbidden")]
    await setup.start()
    assert setup.client.versions(NODES) == ()
    assert not setup.informers.synced
    await setup.pauses.end(*FIRST_REWATCH)
    assert setup.client.count(NODES) == 2
    assert len(setup.client.versions(NODES)) == 1
    assert setup.informers.synced


async def test_the_pauses_before_a_watch_grow_until_an_event_arrives(setup: Setup) -> None:
    await setup.start()
    for factor in (1, 2, 4, 8):
        await setup.send(PODS, None)
        await setup.pauses.end(factor * FIRST_REWATCH[0], factor * FIRST_REWATCH[1])
    await setup.send(PODS, ("BOOKMARK", {"metadata": {"resourceVersion": "4711"}}))
    await setup.send(PODS, None)
    await setup.pauses.end(*FIRST_REWATCH)


async def test_the_delay_that_the_api_server_asks_for_is_respected(setup: Setup) -> None:
    await setup.start()
    await setup.send(PODS, TemporaryError("GET", 429, "overloaded", 40.0))
    await setup.pauses.end(20.0, 40.0)
    assert len(setup.client.versions(PODS)) == 2


async def test_the_kinds_of_kopf_are_listed_when_a_watch_ends(setup: Setup) -> None:
    await setup.start()
    setup.client.lists.clear()
    await setup.send(PODS, None)
    await setup.pauses.end(RELIST_S)
    assert sorted(setup.client.lists) == sorted([SERVICES, PROFILES, AVATARS, TENANTS])


async def test_every_service_is_checked_when_the_pdbs_were_listed_for_their_watch(
    setup: Setup,
) -> None:
    await setup.start()
    assert setup.handler.resyncs == 1  # not another one for the first list
    await setup.send(PDBS, NotFound("GET", 410, "too old"))
    await setup.pauses.end(*FIRST_REWATCH)
    assert setup.handler.resyncs == 2
    assert setup.client.count(PDBS) == 2


async def test_the_age_of_a_watch_is_that_of_its_last_event(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    await setup.start()
    loop = asyncio.get_running_loop()
    at = loop.time()
    monkeypatch.setattr(loop, "time", lambda: at + 100)
    assert setup.age(PODS) >= 100
    setup.informers.on_event(Kind.SERVICES)
    setup.informers.on_event(Kind.PODS)
    assert (setup.age(SERVICES), setup.age(PODS)) == (0, 0)
    assert setup.age(NODES) >= 100


async def test_a_bookmark_is_an_event_of_its_watch(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    await setup.start()
    loop = asyncio.get_running_loop()
    at = loop.time()
    monkeypatch.setattr(loop, "time", lambda: at + 100)
    await setup.send(NODES, ("BOOKMARK", {"metadata": {"resourceVersion": "4711"}}))
    assert setup.age(NODES) == 0


async def test_other_tasks_run_while_a_long_list_is_handled(setup: Setup) -> None:
    pods = [setup.body(PODS, 7, f"p{number}") for number in range(informers.YIELD_EVERY + 1)]
    seen: list[int] = []

    async def watch_progress() -> None:
        while len(setup.handler.observed) < len(pods):
            seen.append(len(setup.handler.observed))
            await asyncio.sleep(0)

    setup.client.items[PODS] = pods
    watching = asyncio.create_task(watch_progress())
    await setup.start()
    await watching
    assert informers.YIELD_EVERY in seen
