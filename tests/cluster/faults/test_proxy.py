"""The fault proxy on real sockets, before a small server that stands in for the API server."""

from __future__ import annotations

import asyncio
import datetime
import functools
import json
import operator
import ssl
from typing import TYPE_CHECKING

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from localcluster.controlplane import certificates
from localcluster.faults import schedule
from localcluster.faults.proxy import FaultProxy, classify, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

PODS = "/api/v1/namespaces/acme/pods"
WATCH = "/api/v1/pods?watch=1"


class Upstream:
    """Answers every request, counts writes, and streams one line for each that is put in."""

    def __init__(self) -> None:
        self.writes: list[str] = []
        self.authorizations: set[str | None] = set()
        self.lines: asyncio.Queue[bytes] = asyncio.Queue()
        self.url = ""

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.authorizations.add(request.headers.get("Authorization"))
        if "watch" in request.query:
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(await self.lines.get())
        if request.method != "GET":
            self.writes.append(f"{request.method} {request.path}")
        return web.json_response({"kind": "Pod", "body": (await request.read()).decode()})


@pytest_asyncio.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[Upstream]:
    pki = certificates.Pki(tmp_path)
    certificates.write(pki, datetime.datetime.now(datetime.UTC))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pki.certificate("server"), pki.key("server"))
    server = Upstream()
    runner = web.ServerRunner(web.Server(server.answer), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    server.url = f"https://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


@pytest_asyncio.fixture
async def proxy(upstream: Upstream, tmp_path: Path) -> AsyncIterator[FaultProxy]:
    async with serving(upstream.url, certificates.Pki(tmp_path).ca) as running:
        yield running


@pytest_asyncio.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def seed_of(call: schedule.Call, fits: Callable[[schedule.Fault | None], bool]) -> int:
    """Return a seed whose first attempt at the request has a fitting fault."""
    return next(seed for seed in range(10_000) if fits(schedule.decide(seed, call, 0)))


def is_cut_soon(fault: schedule.Fault | None) -> bool:
    return isinstance(fault, schedule.Cut) and fault.after_s < 0.1


def create(name: str) -> bytes:
    return json.dumps({"metadata": {"name": name}}).encode()


CREATE = schedule.Call(schedule.Kind.WRITE, f"POST {PODS}/p0")


async def test_without_a_seed_requests_are_forwarded_with_their_credentials(
    proxy: FaultProxy, upstream: Upstream, client: aiohttp.ClientSession
) -> None:
    headers = {"Authorization": "Bearer me"}
    async with client.post(proxy.url + PODS, data=create("p0"), headers=headers) as answer:
        assert (await answer.json())["body"] == create("p0").decode()
    assert upstream.authorizations == {"Bearer me"}
    assert not proxy.injected
    (write,) = proxy.writes["acme"]
    assert (write.method, write.path, write.status, write.lost) == ("POST", PODS, 200, False)


async def test_a_write_with_a_lost_answer_is_executed(
    proxy: FaultProxy, upstream: Upstream, client: aiohttp.ClientSession
) -> None:
    proxy.seeds["acme"] = seed_of(CREATE, functools.partial(operator.eq, schedule.LoseAnswer()))
    with pytest.raises(aiohttp.ClientError):
        await client.post(proxy.url + PODS, data=create("p0"))
    assert upstream.writes == [f"POST {PODS}"]
    assert proxy.writes["acme"][0].lost


async def test_a_reset_request_does_not_reach_the_server(
    proxy: FaultProxy, upstream: Upstream, client: aiohttp.ClientSession
) -> None:
    proxy.seeds["acme"] = seed_of(CREATE, functools.partial(operator.eq, schedule.Reset()))
    with pytest.raises(aiohttp.ClientError):
        await client.post(proxy.url + PODS, data=create("p0"))
    assert upstream.writes == []


async def test_an_injected_error_has_the_format_of_the_api_server(
    proxy: FaultProxy, upstream: Upstream, client: aiohttp.ClientSession
) -> None:
    refusal = schedule.Refuse(429, schedule.RETRY_AFTER_S)
    proxy.seeds["acme"] = seed_of(CREATE, functools.partial(operator.eq, refusal))
    async with client.post(proxy.url + PODS, data=create("p0")) as answer:
        assert answer.status == 429
        assert answer.headers["Retry-After"] == "1"
        assert (await answer.json())["reason"] == "TooManyRequests"
    assert upstream.writes == []
    assert proxy.injected == {"Refuse 429": 1}


async def test_other_namespaces_are_left_alone(
    proxy: FaultProxy, client: aiohttp.ClientSession
) -> None:
    proxy.seeds["acme"] = seed_of(CREATE, functools.partial(operator.eq, schedule.Reset()))
    async with client.post(proxy.url + PODS.replace("acme", "other"), data=create("p0")) as answer:
        assert answer.status == 200


async def test_a_watch_is_forwarded_line_by_line_until_a_seed_cuts_it(
    proxy: FaultProxy, upstream: Upstream, client: aiohttp.ClientSession
) -> None:
    watch = schedule.Call(schedule.Kind.WATCH, "/api/v1/pods")
    async with client.get(proxy.url + WATCH) as answer:
        upstream.lines.put_nowait(b'{"type": "ADDED"}\n')
        assert await answer.content.readline() == b'{"type": "ADDED"}\n'
        proxy.use_seed(seed_of(watch, is_cut_soon))
        with pytest.raises(aiohttp.ClientError):
            await answer.read()


@pytest.mark.parametrize(("fault", "code"), [(schedule.Expire(), 410), (schedule.Fail(), 500)])
async def test_a_watch_gets_an_error_event(
    proxy: FaultProxy, client: aiohttp.ClientSession, fault: schedule.Fault, code: int
) -> None:
    watch = schedule.Call(schedule.Kind.WATCH, "/api/v1/pods")
    proxy.use_seed(seed_of(watch, functools.partial(operator.eq, fault)))
    async with client.get(proxy.url + WATCH) as answer:
        event = json.loads(await answer.content.readline())
    assert (event["type"], event["object"]["code"]) == ("ERROR", code)


@pytest.mark.parametrize(
    ("method", "path", "watch", "kind"),
    [
        ("GET", "/api/v1/pods", True, schedule.Kind.WATCH),
        ("GET", "/api/v1/pods", False, schedule.Kind.LIST),
        ("GET", "/apis/avatar.musetalk.io/v1alpha1/avatarservices", False, schedule.Kind.LIST),
        ("GET", f"{PODS}/p0", False, schedule.Kind.READ),
        ("GET", "/api/v1/namespaces/acme/secrets", False, schedule.Kind.LIST),
        ("PATCH", f"{PODS}/p0", False, schedule.Kind.WRITE),
    ],
)
def test_requests_are_classified(method: str, path: str, watch: bool, kind: schedule.Kind) -> None:
    assert classify(method, path, watch, b"").kind is kind


def test_creates_of_different_objects_are_different_requests() -> None:
    first, second = (classify("POST", PODS, False, create(name)) for name in ("a", "b"))
    assert first.target == f"POST {PODS}/a"
    assert first != second
