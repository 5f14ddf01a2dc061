"""Tests of the leader elector on a fake API server that stores one Lease."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from aiohttp import web
from kubernetes.aio.client.configuration import Configuration

from avatar_operator import metrics
from avatar_operator.core import leader_election
from avatar_operator.errors import NotLeading
from avatar_operator.fence import Fence
from avatar_operator.kube import leader_election as elector
from avatar_operator.kube.client import KubernetesClient
from avatar_operator.kube.leader_election import LeaderElector, LeaseName

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.operator.conftest import Body, Pauses

LEASES = "/apis/coordination.k8s.io/v1/namespaces/system/leases"
PODS = "/api/v1/namespaces/acme/pods"
QUICK = leader_election.Timing(duration_s=1, renew_deadline_s=0.6, retry_s=0.05)
LONG = leader_election.Timing(duration_s=60, renew_deadline_s=40.0, retry_s=0.05)


class ApiServer:
    """Stores one Lease, compares versions, serves watches, and can fail on request."""

    def __init__(self) -> None:
        self.lease: Body | None = None
        self.version = 0
        self.watches: list[asyncio.Queue[Body | None]] = []
        self.created: list[str] = []  # user agents that created pods
        self.failing: set[str] = set()  # user agents that get errors
        self.hold: asyncio.Event | None = None  # pod creations wait for it
        self.changed = asyncio.Condition()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if any(name in request.headers["User-Agent"] for name in self.failing):
            return web.json_response({"message": "overloaded"}, status=503)
        if "watch" in request.query:
            return await self.watch(request)
        body = await request.json() if request.can_read_body else {}
        if request.path == PODS:
            self.created.append(request.headers["User-Agent"])
            await self.notify("SEEN")
            if self.hold is not None:
                await self.hold.wait()
            return web.json_response(body, status=201)
        return await self.answer(request.method, body)

    async def answer(self, method: str, body: Body) -> web.Response:
        if method == "POST" and self.lease is not None:
            return web.json_response({"message": "exists"}, status=409)
        if method != "POST" and self.lease is None:
            return web.json_response({"message": "not found"}, status=404)
        if method == "PATCH":
            assert self.lease is not None
            if body["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
                return web.json_response({"message": "it changed"}, status=409)
            body = {**self.lease, "spec": {**self.lease["spec"], **body["spec"]}}
        if method != "GET":
            await self.store(body)
        return web.json_response(self.lease)

    async def store(self, body: Body | None) -> None:
        self.version += 1
        kind = "MODIFIED" if body is not None else "DELETED"
        stored = body if body is not None else self.lease
        assert stored is not None
        metadata = {**stored["metadata"], "resourceVersion": str(self.version)}
        self.lease = {**stored, "metadata": metadata} if body is not None else None
        await self.notify(kind, {**stored, "metadata": metadata})

    async def notify(self, kind: str, body: Body | None = None) -> None:
        if body is not None:
            for watch in self.watches:
                watch.put_nowait({"type": kind, "object": body})
        async with self.changed:
            self.changed.notify_all()

    async def watch(self, request: web.Request) -> web.StreamResponse:
        assert request.query["fieldSelector"] == "metadata.name=lease"
        response = web.StreamResponse()
        await response.prepare(request)
        events: asyncio.Queue[Body | None] = asyncio.Queue()
        if self.lease is not None:
            events.put_nowait({"type": "ADDED", "object": self.lease})
        self.watches.append(events)
        while (event := await events.get()) is not None:
            await response.write(json.dumps(event).encode() + b"\n")
        return response

    @property
    def spec(self) -> Body:
        return dict(self.lease["spec"]) if self.lease is not None else {}

    async def until(self, holds: Any) -> None:
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(lambda: bool(holds()))


class Replica:
    """One process that may lead."""

    def __init__(
        self, name: str, configuration: Configuration, timing: leader_election.Timing
    ) -> None:
        self.fence = Fence()
        self.api = KubernetesClient(configuration, self.fence, name)
        self.terms: list[int | None] = []
        self.changed = asyncio.Event()
        self.metrics = metrics.Metrics()
        self.elector = LeaderElector(
            self.api,
            self.fence,
            LeaseName("system", "lease"),
            leader_election.Candidate(name, timing),
            self.metrics,
            self.on_change,
        )
        self.running = asyncio.create_task(self.elector.run())

    def on_change(self, epoch: int | None) -> None:
        self.terms.append(epoch)
        self.changed.set()

    async def until_terms(self, *terms: int | None) -> None:
        async with asyncio.timeout(10):
            while self.terms != list(terms):
                self.changed.clear()
                await self.changed.wait()

    async def write(self) -> None:
        await self.api.create_pod({"metadata": {"name": "p", "namespace": "acme"}})

    async def die(self) -> None:
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)


class Election:
    """An API server and the replicas that want its Lease."""

    def __init__(self, server: ApiServer, configuration: Configuration) -> None:
        self.server = server
        self._configuration = configuration
        self.replicas: list[Replica] = []

    def start(self, name: str, timing: leader_election.Timing = LONG) -> Replica:
        replica = Replica(name, self._configuration, timing)
        self.replicas.append(replica)
        return replica

    async def until_holder(self, name: str) -> None:
        await self.server.until(lambda: self.server.spec.get("holderIdentity") == name)


@pytest_asyncio.fixture
async def election() -> AsyncIterator[Election]:
    server = ApiServer()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    election = Election(server, Configuration(host=f"http://127.0.0.1:{runner.addresses[0][1]}"))
    yield election
    for replica in election.replicas:
        await replica.die()
        await replica.api.__aexit__()
    for watch in server.watches:
        watch.put_nowait(None)
    await runner.cleanup()


async def test_the_first_replica_creates_the_lease_and_writes(election: Election) -> None:
    first = election.start("a")
    await election.until_holder("a")
    await election.server.until(first.fence.is_open)
    await first.write()
    assert election.server.created == ["avatar-operator/a"]
    assert first.terms == [0]
    assert election.server.spec["leaseDurationSeconds"] == 60
    assert first.elector.seconds_since_contact() < 10


async def test_a_standby_writes_nothing(election: Election) -> None:
    election.start("a")
    await election.until_holder("a")
    standby = election.start("b")
    renewed = election.server.version
    await election.server.until(lambda: election.server.version > renewed + 2)
    with pytest.raises(NotLeading):
        await standby.write()
    assert election.server.created == []
    assert standby.terms == []


async def test_a_released_lease_is_acquired_immediately(election: Election) -> None:
    first, second = election.start("a"), None
    await election.until_holder("a")
    second = election.start("b")
    await election.server.until(lambda: len(election.server.watches) == 2)
    released = asyncio.get_running_loop().time()
    await first.elector.resign()
    assert not first.fence.is_open()
    await election.until_holder("b")
    assert asyncio.get_running_loop().time() - released < LONG.duration_s / 2
    await election.server.until(second.fence.is_open)
    assert second.terms == [1]
    assert first.terms == [0, None]


@pytest.mark.slow
async def test_a_dead_leader_is_replaced_when_its_lease_expires(election: Election) -> None:
    first = election.start("a", QUICK)
    await election.until_holder("a")
    second = election.start("b", QUICK)
    await election.server.until(lambda: len(election.server.watches) == 2)
    await first.die()
    await election.until_holder("b")
    await election.server.until(second.fence.is_open)
    assert second.fence.epoch == 1


@pytest.mark.slow
async def test_a_leader_that_cannot_renew_stops_before_another_one_leads(
    election: Election,
) -> None:
    first = election.start("a", QUICK)
    await election.until_holder("a")
    await election.server.until(first.fence.is_open)
    second = election.start("b", QUICK)
    await election.server.until(lambda: len(election.server.watches) == 2)
    election.server.failing.add("avatar-operator/a")
    await election.until_holder("b")
    assert not first.fence.is_open()
    with pytest.raises(NotLeading):
        await first.write()
    await election.server.until(second.fence.is_open)


async def test_a_resigning_leader_waits_for_the_write_in_flight(election: Election) -> None:
    first = election.start("a")
    await election.until_holder("a")
    await election.server.until(first.fence.is_open)
    election.server.hold = asyncio.Event()
    writing = asyncio.create_task(first.write())
    await election.server.until(lambda: election.server.created)
    resigning = asyncio.create_task(first.elector.resign())
    renewed = election.server.spec["renewTime"]
    await asyncio.sleep(0)
    assert election.server.spec["holderIdentity"] == "a"
    election.server.hold.set()
    await asyncio.gather(writing, resigning)
    assert election.server.spec["holderIdentity"] == ""
    assert election.server.spec["renewTime"] >= renewed


@pytest.mark.slow
async def test_the_lease_is_not_released_while_a_write_is_in_flight(election: Election) -> None:
    first = election.start("a")
    await election.until_holder("a")
    election.server.hold = asyncio.Event()
    await election.server.until(first.fence.is_open)
    writing = asyncio.create_task(first.write())
    await election.server.until(lambda: election.server.created)
    await first.elector.resign()
    assert election.server.spec["holderIdentity"] == "a"
    election.server.hold.set()
    await asyncio.gather(writing, return_exceptions=True)


async def test_a_manually_edited_lease_is_read_again_and_kept(election: Election) -> None:
    first = election.start("a")
    await election.until_holder("a")
    lease = election.server.lease
    assert lease is not None
    await election.server.store(
        {**lease, "metadata": {**lease["metadata"], "labels": {"by": "me"}}}
    )
    edited = election.server.version
    await election.server.until(lambda: election.server.version > edited + 1)
    assert election.server.spec["holderIdentity"] == "a"
    assert election.server.lease is not None
    assert election.server.lease["metadata"]["labels"] == {"by": "me"}
    assert first.terms == [0]


@pytest.mark.slow
async def test_a_deleted_lease_is_created_again_with_a_higher_epoch(election: Election) -> None:
    first = election.start("a", QUICK)
    await election.until_holder("a")
    await election.server.until(first.fence.is_open)
    await election.server.store(None)
    await election.server.until(lambda: election.server.lease is not None)
    await election.until_holder("a")
    await election.server.until(first.fence.is_open)
    assert first.terms == [0, None, 1]


@pytest.mark.slow
async def test_a_write_is_aborted_when_the_term_of_the_leader_ends(election: Election) -> None:
    first = election.start("a", QUICK)
    await election.until_holder("a")
    await election.server.until(first.fence.is_open)
    election.server.hold = asyncio.Event()
    first.running.cancel()
    with pytest.raises(Exception, match="Timeout"):
        await first.write()
    assert not first.fence.is_open()
    election.server.hold.set()


@pytest.mark.parametrize("is_reported", [True, False], ids=["by the watch", "by a renewal"])
async def test_a_leader_whose_lease_was_deleted_stops_immediately(
    election: Election, is_reported: bool
) -> None:
    first = election.start("a")  # its term would last for 40 s
    await election.server.until(lambda: first.fence.is_open() and election.server.watches)
    if is_reported:
        election.server.failing.add("avatar-operator/a")  # only its open watch still works
        await election.server.store(None)
    else:
        election.server.lease = None  # the watch does not report it
    await first.until_terms(0, None)
    assert not first.fence.is_open()
    with pytest.raises(NotLeading):
        await first.write()
    assert election.server.lease is None  # the candidate waits for the duration before it leads


async def test_the_metric_and_the_log_follow_the_leadership(
    election: Election, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    first = election.start("a")
    await election.server.until(first.fence.is_open)
    assert "avatar_operator_is_leader 1.0" in first.metrics.render().decode()
    assert "acquired leadership identity=a epoch=0" in caplog.text
    await first.elector.resign()
    assert "avatar_operator_is_leader 0.0" in first.metrics.render().decode()
    assert "lost leadership identity=a holder=a" in caplog.text
    assert "Lease released epoch=0" in caplog.text


async def test_a_lease_is_released_in_the_version_that_the_last_renewal_wrote(
    election: Election,
) -> None:
    first = election.start("a")
    await election.server.until(first.fence.is_open)
    lease = election.server.lease
    assert lease is not None
    # A change that the watch did not report yet, like a renewal whose response was lost.
    version = str(int(lease["metadata"]["resourceVersion"]) + 1000)
    election.server.version += 1000
    election.server.lease = {**lease, "metadata": {**lease["metadata"], "resourceVersion": version}}
    await first.elector.resign()
    assert election.server.spec["holderIdentity"] == ""


async def test_the_time_of_acquisition_stays_while_the_lease_is_renewed(
    election: Election,
) -> None:
    election.start("a")
    await election.until_holder("a")
    first = election.server.spec
    assert first["acquireTime"] == first["renewTime"]
    await election.server.until(lambda: election.server.spec["renewTime"] > first["renewTime"])
    assert election.server.spec["acquireTime"] == first["acquireTime"]


async def test_the_time_of_acquisition_is_new_for_another_holder(election: Election) -> None:
    first = election.start("a")
    await election.until_holder("a")
    acquired = election.server.spec["acquireTime"]
    await first.elector.resign()
    election.start("b")
    await election.until_holder("b")
    assert election.server.spec["acquireTime"] > acquired


async def test_a_watch_that_ends_is_opened_again_after_a_pause(
    election: Election, pauses: Pauses, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses.replace_in(elector, monkeypatch)
    first = election.start("a")
    await election.server.until(lambda: first.fence.is_open() and election.server.watches)
    election.server.watches[0].put_nowait(None)
    await pauses.end(0.25, 0.5)
    await election.server.until(lambda: len(election.server.watches) == 2)


async def test_a_watch_that_fails_is_opened_again_after_a_pause(
    election: Election,
    pauses: Pauses,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    pauses.replace_in(elector, monkeypatch)
    election.server.failing.add("avatar-operator/a")
    first = election.start("a")
    for _ in range(2):
        await pauses.end(0.25, 0.5)
    assert "watch of the Lease ended fault=GET" in caplog.text
    assert first.elector.seconds_since_contact() < 10  # an error is a response, too
