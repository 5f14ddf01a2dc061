"""Tests of the kopf informer: events arrive on the operator's loop, and kopf is restarted."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest_asyncio
from aiohttp import web

from avatar_operator.kube import kopf_informer
from avatar_operator.kube.connection import Credentials
from localcluster.fakes import api_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    import pytest

    from avatar_operator.core.cache.entries import Kind


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
