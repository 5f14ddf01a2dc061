"""kopf's thread: its news arrives on the operator's loop, and it outlives what kopf does not."""

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

    from avatar_operator.core.cache.store import Kind


class Heard:
    """Keeps what it is told, and by which thread."""

    def __init__(self) -> None:
        self.changed = asyncio.Condition()
        self.names: set[str] = set()
        self.relisted = asyncio.Event()
        self.threads: set[int] = set()

    def hear(self, kind: Kind) -> None:
        self.threads.add(threading.get_ident())

    def relist(self, kind: Kind) -> None:
        self.relisted.set()

    def observe(self, kind: Kind, body: Mapping[str, Any]) -> None:
        self.names.add(body["metadata"]["name"])
        self._tell()

    def forget(self, kind: Kind, uid: str) -> None:
        self.names.clear()
        self._tell()

    def _tell(self) -> None:
        self._telling = asyncio.ensure_future(self._notify())

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def until(self, *names: str) -> None:
        async with asyncio.timeout(30), self.changed:
            await self.changed.wait_for(lambda: self.names == set(names))


def service(name: str) -> dict[str, Any]:
    return {"kind": "AvatarService", "metadata": {"name": name, "namespace": "acme"}, "spec": {}}


def listen(url: str, told: Heard) -> asyncio.Task[None]:
    async def credentials() -> Credentials:
        told.threads.add(threading.get_ident())
        return Credentials(url, None, None, None, None, verifies=False)

    return asyncio.create_task(kopf_informer.Listener(told, credentials, ()).run())


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
async def heard(api: tuple[api_server.FakeApi, str]) -> AsyncIterator[Heard]:
    told = Heard()
    listening = listen(api[1], told)
    yield told
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


async def test_events_arrive_on_the_operator_s_loop(
    api: tuple[api_server.FakeApi, str], heard: Heard
) -> None:
    server, _ = api
    server.put(api_server.SERVICES, service("first"))
    await heard.until("first")
    server.put(api_server.SERVICES, service("second"))
    await heard.until("first", "second")
    server.put(api_server.SERVICES, service("first"), "DELETED")
    await heard.until()
    assert heard.threads == {threading.get_ident()}


async def test_an_error_event_that_ends_kopf_does_not_end_the_listener(
    api: tuple[api_server.FakeApi, str], heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    server, _ = api
    server.put(api_server.SERVICES, service("first"))
    await heard.until("first")
    server.put(
        api_server.PROFILES, {"kind": "GPUProfile", "metadata": {"name": "card"}, "spec": {}}
    )
    server.put(api_server.SERVICES, service("second"))
    await heard.until("first", "second", "card")  # by watches, each with a worker of kopf's
    failure = {"kind": "Status", "code": 500, "message": "etcdserver: leader changed"}
    event = json.dumps({"type": "ERROR", "object": failure}).encode() + b"\n"
    heard.relisted.clear()
    for watch in server.collections[api_server.SERVICES].watches:
        watch.put_nowait(event)
    async with asyncio.timeout(30):
        await heard.relisted.wait()
    server.put(api_server.SERVICES, service("third"))
    await heard.until("first", "second", "third", "card")
    assert "kopf ended and begins anew" in caplog.text


async def test_a_listener_that_is_told_to_stop_hears_nothing_more(
    api: tuple[api_server.FakeApi, str],
) -> None:
    server, url = api
    told = Heard()
    listening = listen(url, told)
    server.put(api_server.SERVICES, service("first"))
    await told.until("first")
    listening.cancel()
    async with asyncio.timeout(10):  # it waits for kopf
        await asyncio.gather(listening, return_exceptions=True)
    assert listening.cancelled()
    server.put(api_server.SERVICES, service("second"))
    await asyncio.sleep(0)
    assert told.names == {"first"}
