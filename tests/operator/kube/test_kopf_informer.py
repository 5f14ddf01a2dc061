"""Tests of the kopf informer: events arrive on the operator's loop, and kopf is restarted."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import threading
from typing import TYPE_CHECKING, Any

import kopf
import pytest
import pytest_asyncio
from aiohttp import web

from avatar_operator.core.cache.entries import Kind
from avatar_operator.errors import TemporaryError
from avatar_operator.kube import kopf_informer
from avatar_operator.kube.connection import Credentials
from avatar_operator.kube.informers import KOPF_KINDS
from localcluster.fakes import api_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from tests.operator.conftest import Pauses


class RecordingSink:
    """Records the objects that exist, and the threads of all calls."""

    def __init__(self) -> None:
        self.changed = asyncio.Condition()
        self.names: set[str] = set()
        self.relisted = asyncio.Event()
        self.threads: set[int] = set()

    def on_event(self, kind: Kind) -> None:
        self.threads.add(threading.get_ident())

    def relist(self, kind: Kind) -> None:
        self.relisted.set()

    def observe(self, kind: Kind, body: Mapping[str, Any]) -> None:
        self.names.add(body["metadata"]["name"])
        self._notify_later()

    def observe_deletion(self, kind: Kind, uid: str) -> None:
        self.names.clear()
        self._notify_later()

    def _notify_later(self) -> None:
        self._notifying = asyncio.ensure_future(self._notify())

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def until(self, *names: str) -> None:
        async with asyncio.timeout(30), self.changed:
            await self.changed.wait_for(lambda: self.names == set(names))


def service(name: str) -> dict[str, Any]:
    return {"kind": "AvatarService", "metadata": {"name": name, "namespace": "acme"}, "spec": {}}


def start(url: str, sink: RecordingSink) -> asyncio.Task[None]:
    async def credentials() -> Credentials:
        sink.threads.add(threading.get_ident())
        return Credentials(url, None, None, None, None, verifies=False)

    return asyncio.create_task(kopf_informer.KopfInformer(sink, credentials, ()).run())


@pytest_asyncio.fixture
async def api() -> AsyncIterator[tuple[api_server.FakeApi, str]]:
    server = api_server.FakeApi(streams=False)
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield server, f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest_asyncio.fixture
async def sink(api: tuple[api_server.FakeApi, str]) -> AsyncIterator[RecordingSink]:
    sink = RecordingSink()
    running = start(api[1], sink)
    yield sink
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_events_arrive_on_the_operator_s_loop(
    api: tuple[api_server.FakeApi, str], sink: RecordingSink
) -> None:
    server, _ = api
    server.put(api_server.SERVICES, service("first"))
    await sink.until("first")
    server.put(api_server.SERVICES, service("second"))
    await sink.until("first", "second")
    server.put(api_server.SERVICES, service("first"), "DELETED")
    await sink.until()
    assert sink.threads == {threading.get_ident()}


async def test_an_error_event_that_stops_kopf_does_not_stop_the_informer(
    api: tuple[api_server.FakeApi, str], sink: RecordingSink, caplog: pytest.LogCaptureFixture
) -> None:
    server, _ = api
    server.put(api_server.SERVICES, service("first"))
    await sink.until("first")
    server.put(
        api_server.PROFILES, {"kind": "GPUProfile", "metadata": {"name": "card"}, "spec": {}}
    )
    server.put(api_server.SERVICES, service("second"))
    await sink.until("first", "second", "card")  # by watches, each with a worker of kopf's
    failure = {"kind": "Status", "code": 500, "message": "etcdserver: leader changed"}
    event = json.dumps({"type": "ERROR", "object": failure}).encode() + b"\n"
    sink.relisted.clear()
    for watch in server.collections[api_server.SERVICES].watches:
        watch.put_nowait(event)
    async with asyncio.timeout(30):
        await sink.relisted.wait()
    server.put(api_server.SERVICES, service("third"))
    await sink.until("first", "second", "third", "card")
    assert "kopf stopped, restarting" in caplog.text


async def test_the_user_of_the_process_needs_no_name(
    api: tuple[api_server.FakeApi, str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 65532)  # as in the image
    with pytest.raises(KeyError):
        getpass.getuser()
    server, url = api
    sink = RecordingSink()
    running = start(url, sink)
    server.put(api_server.SERVICES, service("first"))
    await sink.until("first")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert "kopf stopped" not in caplog.text


async def test_a_cancelled_informer_reports_no_more_events(
    api: tuple[api_server.FakeApi, str],
) -> None:
    server, url = api
    sink = RecordingSink()
    running = start(url, sink)
    server.put(api_server.SERVICES, service("first"))
    await sink.until("first")
    running.cancel()
    async with asyncio.timeout(10):  # it waits for kopf
        await asyncio.gather(running, return_exceptions=True)
    assert running.cancelled()
    server.put(api_server.SERVICES, service("second"))
    await asyncio.sleep(0)
    assert sink.names == {"first"}


async def until_watched(server: api_server.FakeApi, kind: Any) -> None:
    async with asyncio.timeout(30):
        while not server.collections[kind].watches:  # noqa: ASYNC110 - the fake has no event
            await asyncio.sleep(0.01)


async def test_kinds_are_listed_again_after_a_restart_even_if_no_object_is_left(
    api: tuple[api_server.FakeApi, str], sink: RecordingSink
) -> None:
    server, _ = api
    await until_watched(server, api_server.SERVICES)
    sink.relisted.clear()
    failure = {"kind": "Status", "code": 500, "message": "etcdserver: leader changed"}
    event = json.dumps({"type": "ERROR", "object": failure}).encode() + b"\n"
    for watch in server.collections[api_server.SERVICES].watches:
        watch.put_nowait(event)
    async with asyncio.timeout(30):
        await sink.relisted.wait()


async def test_kopf_uses_the_credentials_of_the_operator() -> None:
    received: asyncio.Queue[str] = asyncio.Queue()

    async def handle(request: web.Request) -> web.Response:
        received.put_nowait(request.headers.get("Authorization", ""))
        return web.json_response({"message": "no"}, status=404)

    async def credentials() -> Credentials:
        return Credentials(url, None, "Bearer secret", None, None, verifies=False)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        informer = kopf_informer.KopfInformer(RecordingSink(), credentials, ())
        running = asyncio.create_task(informer.run())
        async with asyncio.timeout(30):
            assert await received.get() == "Bearer secret"
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    finally:
        await runner.cleanup()


class CallSink:
    """Records the calls of one handler of kopf."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def on_event(self, kind: Kind) -> None:
        self.calls.append(("event", kind))

    def relist(self, kind: Kind) -> None:
        self.calls.append(("relist", kind))

    def observe(self, kind: Kind, body: Mapping[str, Any]) -> None:
        self.calls.append(("observe", kind, body))

    def observe_deletion(self, kind: Kind, uid: str) -> None:
        self.calls.append(("deletion", kind, uid))


Registered = dict[str, "Callable[..., Awaitable[Any]]"]


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Registered:
    """Return the functions that the informer registers with kopf, by their names."""
    found: Registered = {}

    def on(*_: object, **__: object) -> Callable[[Any], None]:
        return lambda function: found.update({function.__name__: function})

    monkeypatch.setattr(kopf.on, "login", on)
    monkeypatch.setattr(kopf.on, "event", on)
    return found


async def register(sink: CallSink, credentials: Credentials | Exception | None = None) -> None:
    async def login() -> Credentials:
        if isinstance(credentials, Credentials):
            return credentials
        raise credentials or AssertionError

    kopf_informer.registry(sink, login, asyncio.get_running_loop())


BODY = {"metadata": {"name": "a", "uid": "u"}}


@pytest.mark.parametrize("kind", [Kind.SERVICES, Kind.PROFILES])
@pytest.mark.parametrize(
    ("event_type", "calls"),
    [
        (None, ["event", "relist", "observe"]),  # from kopf's list, which reports no deletions
        ("ADDED", ["event", "observe"]),
        ("MODIFIED", ["event", "observe"]),
        ("DELETED", ["event", "deletion"]),
    ],
)
async def test_an_event_of_kopf_is_handled_by_its_type(
    registered: Registered, kind: Kind, event_type: str | None, calls: list[str]
) -> None:
    sink = CallSink()
    await register(sink)
    handler = registered[f"on_{kind.name.lower()}"]
    await handler(event={"type": event_type, "object": BODY}, body=BODY)
    await asyncio.sleep(0)
    assert [call[0] for call in sink.calls] == calls
    assert {call[1] for call in sink.calls} == {kind}
    assert sink.calls[-1][2] == ("u" if event_type == "DELETED" else BODY)


async def test_kopf_logs_in_again_soon_if_the_credentials_cannot_be_read(
    registered: Registered,
) -> None:
    await register(CallSink(), TemporaryError("GET", 503, "the token is renewed"))
    with pytest.raises(kopf.TemporaryError, match="the token is renewed") as caught:
        await registered["on_login"]()
    assert caught.value.delay == 1


@pytest.mark.parametrize(
    ("authorization", "scheme", "token"),
    [(None, None, None), ("bearer t", "Bearer", "t"), ("t", None, "t")],
)
async def test_kopf_gets_the_credentials_of_the_operator(
    registered: Registered, authorization: str | None, scheme: str | None, token: str | None
) -> None:
    login = Credentials("https://api", "/ca", authorization, "/cert", "/key", verifies=True)
    await register(CallSink(), login)
    assert await registered["on_login"]() == kopf.ConnectionInfo(
        server="https://api",
        ca_path="/ca",
        insecure=False,
        scheme=scheme,
        token=token,
        certificate_path="/cert",
        private_key_path="/key",
    )


def test_kopf_writes_nothing_and_opens_a_silent_watch_again() -> None:
    settings = kopf_informer.kopf_settings()
    assert not settings.posting.enabled
    assert settings.peering.standalone
    assert settings.process.ultimate_exiting_timeout is None  # it would end the whole process
    assert settings.watching.inactivity_timeout == 70.0
    assert settings.watching.chunk_size == 500  # objects of one page of a list
    storage = settings.persistence.diffbase_storage
    body = kopf.Body({"metadata": {"name": "a"}, "spec": {"replicas": 1}})
    assert storage.build(body=body) == {}
    assert storage.fetch(body=body) is None


class FakeKopf:
    """Stands for `kopf.spawn_tasks`: one root task, one watcher with its helper."""

    def __init__(self) -> None:
        self.options: list[dict[str, Any]] = []
        self.ended: list[str] = []
        self.fault: Exception | None = None
        self.on_start: Callable[[], None] = lambda: None
        self.hangs = False
        self._tasks: list[asyncio.Task[None]] = []

    async def spawn_tasks(self, **options: Any) -> list[asyncio.Task[None]]:
        self.options.append(options)
        self.on_start()
        for name in ("watcher for services", "helper"):
            self._tasks.append(asyncio.create_task(self._forever(name), name=name))
        if self.fault is not None:
            raising = asyncio.create_task(self._raise(self.fault), name="raising")
            return [asyncio.create_task(self._forever("root"), name="root"), raising]
        return [asyncio.create_task(asyncio.sleep(0), name="root")]

    async def _raise(self, fault: Exception) -> None:
        raise fault

    async def _forever(self, name: str) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if name != "helper":  # it ends later than a helper that is cancelled at the same time
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            self.ended.append(name)
            if not self.hangs or name != "helper":
                raise
            await asyncio.Event().wait()  # it ends with its loop


class Restarts:
    """An informer on a fake kopf, whose pauses the test ends."""

    def __init__(self, pauses: Pauses, fake: FakeKopf) -> None:
        self.pauses = pauses
        self.kopf = fake
        self.sink = CallSink()
        self._running: asyncio.Task[None] | None = None

    def start(self, *namespaces: str) -> None:
        async def credentials() -> Credentials:
            raise AssertionError

        informer = kopf_informer.KopfInformer(self.sink, credentials, namespaces)
        self._running = asyncio.create_task(informer.run())

    async def stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)


@pytest_asyncio.fixture
async def restarts(pauses: Pauses, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Restarts]:
    fake = FakeKopf()
    monkeypatch.setattr(kopf, "spawn_tasks", fake.spawn_tasks)
    pauses.replace_in(kopf_informer, monkeypatch)
    made = Restarts(pauses, fake)
    yield made
    await made.stop()


FIRST_RESTART = (kopf_informer.RESTART_S[0] / 2, kopf_informer.RESTART_S[0])


@pytest.mark.parametrize("namespaces", [(), ("acme", "globex")])
async def test_kopf_watches_all_namespaces_or_those_that_are_named(
    restarts: Restarts, namespaces: tuple[str, ...]
) -> None:
    restarts.start(*namespaces)
    await restarts.pauses.end(*FIRST_RESTART)
    options = restarts.kopf.options[0]
    assert options["clusterwide"] is (not namespaces)
    assert options["namespaces"] == namespaces
    assert options["standalone"] is True


async def test_the_tasks_of_kopf_end_in_an_order_in_which_they_can(restarts: Restarts) -> None:
    restarts.kopf.fault = RuntimeError("one part failed")
    restarts.start()
    await restarts.pauses.end(*FIRST_RESTART)
    assert restarts.kopf.ended[:3] == ["root", "watcher for services", "helper"]


async def test_every_kind_is_listed_after_each_restart_and_the_pauses_grow(
    restarts: Restarts, caplog: pytest.LogCaptureFixture
) -> None:
    restarts.kopf.fault = RuntimeError("etcdserver: leader changed")
    restarts.start()
    for factor in (1, 2, 4):
        assert restarts.sink.calls == []
        await restarts.pauses.end(factor * FIRST_RESTART[0], factor * FIRST_RESTART[1])
        assert restarts.sink.calls == [("relist", kind) for kind in KOPF_KINDS]
        restarts.sink.calls.clear()
    fault = "kopf stopped, restarting fault=RuntimeError('etcdserver: leader changed')"
    assert caplog.text.count(fault) >= 3


async def test_the_first_pause_is_short_again_after_kopf_ran_for_long(
    restarts: Restarts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kopf_informer, "RESTART_S", (kopf_informer.RESTART_S[0], 0.5))
    loop = asyncio.get_running_loop()
    real, later_s = loop.time, 0.0
    monkeypatch.setattr(loop, "time", lambda: real() + later_s)

    def run_long() -> None:
        nonlocal later_s
        if len(restarts.kopf.options) == 3:
            later_s += 1.0

    restarts.kopf.on_start = run_long
    restarts.start()
    for factor in (1, 2, 1):
        await restarts.pauses.end(factor * FIRST_RESTART[0], factor * FIRST_RESTART[1])


async def test_a_task_of_kopf_that_does_not_end_does_not_stop_the_restart(
    restarts: Restarts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kopf_informer, "STOP_S", 0.01)
    restarts.kopf.hangs = True
    restarts.start()
    await restarts.pauses.end(*FIRST_RESTART)
    assert "watcher for services" in restarts.kopf.ended
    restarts.kopf.hangs = False
    await restarts.pauses.end(2 * FIRST_RESTART[0], 2 * FIRST_RESTART[1])
