"""A fault proxy in front of an API server: `async with serving(...)`.

It serves plain HTTP on a loopback port and uses TLS to the API server. It forwards credentials, so
the server sees the account of the client. It forwards watches line by line.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import re
import ssl
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp import web

from localcluster.faults import schedule

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

_WRITES: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_NAMESPACE: Final = re.compile(r"/namespaces/([^/]+)/")
# A collection, for example /api/v1/pods, /apis/group/version/namespaces/name/things
_COLLECTION: Final = re.compile(r"^/(api/v1|apis/[^/]+/[^/]+)(/namespaces/[^/]+)?/[a-z]+$")
_HOP: Final = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "date", "server"}
)


@dataclass(frozen=True, slots=True)
class Write:
    """A write that reached the API server."""

    at: float  # monotonic clock
    method: str
    path: str
    status: int
    lost: bool  # the client did not receive the answer


@dataclass(eq=False, slots=True)
class _Watch:
    """A running watch."""

    call: schedule.Call
    timeout: asyncio.Timeout | None = None
    torn: bool = False

    def schedule_cut(self, cut: schedule.Cut | None) -> None:
        if cut is not None and self.timeout is not None and not self.timeout.expired():
            self.torn = cut.torn
            self.timeout.reschedule(asyncio.get_running_loop().time() + cut.after_s)


@dataclass(slots=True)
class FaultProxy:
    """The running proxy: its fault plan, which may change while it runs, and its counters."""

    url: str
    upstream: str
    session: aiohttp.ClientSession
    seeds: dict[str, int] = field(default_factory=dict)
    """Seed of each namespace; requests in other namespaces are forwarded without faults."""
    seed: int | None = None
    """Seed of requests outside all namespaces, such as watches of all namespaces."""
    writes: dict[str, list[Write]] = field(default_factory=lambda: collections.defaultdict(list))
    """The writes that reached the API server, by namespace."""
    injected: collections.Counter[str] = field(default_factory=collections.Counter)
    requests: int = 0
    _watches: list[_Watch] = field(default_factory=list)
    _attempts: collections.Counter[tuple[int, schedule.Call]] = field(
        default_factory=collections.Counter
    )

    def use_seed(self, seed: int | None) -> None:
        """Set the seed for requests outside all namespaces; it may also end running watches."""
        self.seed = seed
        for watch in self._watches:
            fault = self._decide("", watch.call)
            watch.schedule_cut(fault if isinstance(fault, schedule.Cut) else None)

    def forget(self, namespace: str) -> None:
        """Drop the data of a finished namespace."""
        self.seeds.pop(namespace, None)
        self.writes.pop(namespace, None)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, with or without a fault."""
        self.requests += 1
        body = await request.read()
        namespace = _namespace(request.path)
        call = classify(request.method, request.path, "watch" in request.query, body)
        fault = self._decide(namespace, call)
        match fault:
            case schedule.Refuse():
                return _refusal(fault)
            case schedule.Reset():
                return _reset(request)
            case schedule.Expire():
                return _error_event(410, "Expired", "too old resource version")
            case schedule.Fail():
                return _error_event(500, "InternalError", "etcdserver: leader changed")
            case schedule.Delay():
                await asyncio.sleep(fault.seconds)
        if call.kind is schedule.Kind.WATCH:
            cut = fault if isinstance(fault, schedule.Cut) else None
            return await self._watch(request, call, cut)
        return await self._pass(
            request, body, namespace, lost=isinstance(fault, schedule.LoseAnswer)
        )

    def _decide(self, namespace: str, call: schedule.Call) -> schedule.Fault | None:
        seed = self.seeds.get(namespace) if namespace else self.seed
        if seed is None:
            return None
        attempt = self._attempts[seed, call]
        self._attempts[seed, call] += 1
        fault = schedule.decide(seed, call, attempt)
        if fault is not None:
            self.injected[_name(fault)] += 1
        return fault

    async def _pass(
        self, request: web.BaseRequest, body: bytes, namespace: str, *, lost: bool
    ) -> web.StreamResponse:
        try:
            async with self._forward(request, body) as answer:
                data = await answer.read()
                status, headers = answer.status, _passed(answer.headers)
        except (aiohttp.ClientError, TimeoutError):
            return _reset(request)
        if request.method in _WRITES:
            write = Write(time.monotonic(), request.method, request.path, status, lost)
            self.writes[namespace].append(write)
        if lost:
            return _reset(request)
        return web.Response(status=status, headers=headers, body=data)

    async def _watch(
        self, request: web.BaseRequest, call: schedule.Call, cut: schedule.Cut | None
    ) -> web.StreamResponse:
        running = _Watch(call)
        try:
            async with self._forward(request, b"") as answer:
                response = web.StreamResponse(status=answer.status, headers=_passed(answer.headers))
                await response.prepare(request)
                data = b""
                try:
                    async with asyncio.timeout(None) as running.timeout:
                        running.schedule_cut(cut)
                        self._watches.append(running)
                        async for data in answer.content.iter_any():
                            await response.write(data)
                    return response  # the server ended the watch
                except TimeoutError:
                    if running.torn:
                        await response.write(data[: len(data) // 2] or b'{"type":')
                    return _reset(request)
        except (aiohttp.ClientError, ConnectionError, TimeoutError):
            return _reset(request)
        finally:
            if running in self._watches:
                self._watches.remove(running)

    def _forward(
        self, request: web.BaseRequest, body: bytes
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self.session.request(
            request.method,
            self.upstream + request.path_qs,
            headers=_passed(request.headers),
            data=body or None,
        )


@contextlib.asynccontextmanager
async def serving(upstream: str, ca: Path) -> AsyncIterator[FaultProxy]:
    """Serve a proxy for `upstream` on a free loopback port; without seeds it adds no faults."""
    connector = aiohttp.TCPConnector(limit=0, ssl=ssl.create_default_context(cafile=str(ca)))
    timeout = aiohttp.ClientTimeout(total=None, connect=10)
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, auto_decompress=False
    ) as session:
        proxy = FaultProxy("", upstream, session)
        server = web.Server(proxy.handle)
        runner = web.ServerRunner(server, shutdown_timeout=0.5)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            proxy.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield proxy
        finally:
            await runner.cleanup()


def classify(method: str, path: str, watch: bool, body: bytes) -> schedule.Call:
    """Classify a request."""
    if method in _WRITES:
        return schedule.Call(schedule.Kind.WRITE, f"{method} {path}{_created(method, body)}")
    if watch:
        return schedule.Call(schedule.Kind.WATCH, path)
    kind = schedule.Kind.LIST if _COLLECTION.match(path) else schedule.Kind.READ
    return schedule.Call(kind, path)


def _created(method: str, body: bytes) -> str:
    """Return the name in the body of a create request; all of them have the same path."""
    if method != "POST":
        return ""
    try:
        metadata = json.loads(body)["metadata"]
        return f"/{metadata.get('name') or metadata.get('generateName', '')}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""


def _namespace(path: str) -> str:
    found = _NAMESPACE.search(path)
    return found[1] if found else ""


def _passed(headers: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in headers.items() if key.lower() not in _HOP}


def _refusal(fault: schedule.Refuse) -> web.Response:
    status = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "injected by the fault proxy",
        "reason": {429: "TooManyRequests", 409: "Conflict"}.get(fault.status, "InternalError"),
        "code": fault.status,
    }
    headers = {"Retry-After": str(fault.retry_after_s)} if fault.retry_after_s else {}
    return web.json_response(status, status=fault.status, headers=headers)


def _error_event(code: int, reason: str, message: str) -> web.Response:
    """Return a watch that ends with the given error."""
    status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    error = {**status, "message": message, "reason": reason, "code": code}
    event = {"type": "ERROR", "object": error}
    return web.Response(body=json.dumps(event).encode() + b"\n", content_type="application/json")


def _reset(request: web.BaseRequest) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def _name(fault: schedule.Fault) -> str:
    name = type(fault).__name__
    return f"{name} {fault.status}" if isinstance(fault, schedule.Refuse) else name
