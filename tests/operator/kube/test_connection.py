"""Tests of the connection to the API server: credentials, deadlines, proxies and errors."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import pytest_asyncio
import yaml
from aiohttp import web
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config import incluster_config, kube_config

from avatar_operator.errors import TemporaryError
from avatar_operator.fence import Fence, clock
from avatar_operator.kube import connection
from avatar_operator.kube.connection import Connection, Credentials, load_configuration

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

PATH = "/api/v1/pods"


class Connect(Protocol):
    """Starts an API server with one handler, and returns a connection to it."""

    async def __call__(
        self, handle: Callable[[web.Request], Awaitable[web.StreamResponse]], **fields: Any
    ) -> Connection: ...


@pytest_asyncio.fixture
async def connect(fence: Fence) -> AsyncIterator[Connect]:
    runners: list[web.AppRunner] = []
    connections: list[Connection] = []

    async def start(
        handle: Callable[[web.Request], Awaitable[web.StreamResponse]], **fields: Any
    ) -> Connection:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host = f"http://127.0.0.1:{runner.addresses[0][1]}"
        connections.append(Connection(Configuration(host=host, **fields), fence, "p0"))
        return connections[-1]

    yield start
    for each in connections:
        await each.close()
    for runner in runners:
        await runner.cleanup()


async def empty(_: web.Request) -> web.StreamResponse:
    return web.json_response({})


async def never(_: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def test_a_proxy_of_the_environment_is_not_used(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")  # nothing listens there
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert await (await connect(empty)).send("GET", PATH) == {}


async def test_without_a_token_no_authorization_is_sent(connect: Connect) -> None:
    received: list[str | None] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        received.append(request.headers.get("Authorization"))
        return web.json_response({})

    await (await connect(handle)).send("GET", PATH)
    await (await connect(handle, api_key={"BearerToken": "Bearer t"})).send("GET", PATH)
    assert received == [None, "Bearer t"]


async def test_a_request_without_a_response_ends_at_its_deadline(connect: Connect) -> None:
    api = await connect(never)
    with pytest.raises(TemporaryError, match="TimeoutError") as caught:
        await api.send("GET", PATH, timeout_s=0.05)
    assert (caught.value.request, caught.value.status) == (f"GET {PATH}", 0)


async def test_a_response_that_is_interrupted_is_a_temporary_error(connect: Connect) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        assert request.transport is not None
        request.transport.close()
        return response

    with pytest.raises(TemporaryError) as caught:
        await (await connect(handle)).send("GET", PATH)
    assert caught.value.status == 0


async def test_a_redirect_is_not_a_success(connect: Connect) -> None:
    async def handle(_: web.Request) -> web.StreamResponse:
        return web.json_response({"message": "elsewhere"}, status=300)

    api = await connect(handle)
    with pytest.raises(TemporaryError, match="300 elsewhere"):
        await api.send("GET", PATH)
    with pytest.raises(TemporaryError, match="300 elsewhere"):
        async for _ in api.watch(PATH, {}, 5.0):
            pass


async def test_a_write_ends_with_the_term_of_the_leader(
    connect: Connect, fence: Fence, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = await connect(empty)
    sent: list[tuple[dict[str, str], float]] = []

    async def request(*_: Any, query: dict[str, str], timeout_s: float, **__: Any) -> Any:
        sent.append((query, timeout_s))
        return {}

    monkeypatch.setattr(api, "request", request)
    await api.send("POST", PATH, timeout_s=0.25)
    fence.open_until(clock() + 4.5, epoch=1)
    await api.send("POST", PATH, query={"force": "true"})
    await api.send("POST", PATH, timeout_s=0.0005)  # the server would refuse a timeout of 0 ms
    whole, rest, shortest = sent
    assert whole == ({"timeout": "250ms"}, 0.25)
    assert 3.0 < rest[1] <= 4.5
    assert rest[0] == {"force": "true", "timeout": f"{int(rest[1] * 1000)}ms"}
    assert shortest == ({"timeout": "1ms"}, 0.0005)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_the_number_of_concurrent_requests_is_limited(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    api = await connect(empty)
    sent, respond = 0, asyncio.Event()

    async def request(*_: Any, **__: Any) -> dict[str, object]:
        nonlocal sent
        sent += 1
        await respond.wait()
        return {}

    monkeypatch.setattr(api, "request", request)
    count = connection.IN_FLIGHT + 1
    sending = [asyncio.create_task(api.send(method, PATH)) for _ in range(count)]
    for _ in range(10):
        await asyncio.sleep(0)
    assert sent == connection.IN_FLIGHT
    respond.set()
    await asyncio.gather(*sending)
    assert sent == count


async def test_a_silent_watch_breaks(connect: Connect) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"type": "BOOKMARK", "object": {}}\n')
        return await never(request)

    api = await connect(handle)
    events = api.watch(PATH, {}, 0.1)
    assert await anext(events) == ("BOOKMARK", {})
    with pytest.raises(TemporaryError, match="Timeout") as caught:
        await anext(events)
    assert (caught.value.request, caught.value.status) == (f"GET {PATH}", 0)


async def test_a_watch_that_cannot_connect_is_a_temporary_error(fence: Fence) -> None:
    api = Connection(Configuration(host="http://127.0.0.1:1"), fence, "p0")
    with pytest.raises(TemporaryError, match="ClientConnectorError"):
        async for _ in api.watch(PATH, {}, 5.0):
            pass
    await api.close()


async def test_kopf_gets_all_credentials_of_the_connection(fence: Fence) -> None:
    configuration = Configuration(host="https://api:6443", api_key={"BearerToken": "Bearer t"})
    configuration.verify_ssl = False
    api = Connection(configuration, fence, "p0")
    configuration.ssl_ca_cert, configuration.cert_file = "/ca.crt", "/tls.crt"
    configuration.key_file = "/tls.key"
    assert await api.credentials() == Credentials(
        "https://api:6443", "/ca.crt", "Bearer t", "/tls.crt", "/tls.key", verifies=False
    )
    await api.close()


@pytest.mark.parametrize("in_cluster", [True, False], ids=["service account", "kubeconfig"])
async def test_the_service_account_comes_before_the_kubeconfig(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_cluster: bool
) -> None:
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": "http://kubeconfig:1"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    files = {"config": yaml.safe_dump(config), "token": "t", "ca.crt": "a certificate"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "config"))
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    if in_cluster:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    expected = "https://10.0.0.1:443" if in_cluster else "http://kubeconfig:1"
    assert (await load_configuration()).host == expected
