"""Endpoints on real sockets for the tests of the legs."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry

from avatar_contracts.upstream import Endpoint
from avatar_runtime.upstream.http_leg import HttpLeg
from avatar_runtime.upstream.metrics import UpstreamMetrics
from avatar_runtime.upstream.settings import UpstreamSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """Serve every path on a free loopback port; yields the URL of the server."""
    application = web.Application(client_max_size=1 << 26)
    application.router.add_route("*", "/{path:.*}", handler)
    async with running(application) as url:
        yield url


@asynccontextmanager
async def running(application: web.Application) -> AsyncIterator[str]:
    """Run an application on a free loopback port; yields its URL."""
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def endpoint(url: str, **changes: Any) -> Endpoint:
    """Return an endpoint with short time limits."""
    fields = {
        "url": url,
        "model": "m",
        "key": None,
        "authorization": "bearer",
        "headers": (),
        "connect_timeout_s": 1,
        "timeout_s": 1,
    }
    return Endpoint(**{**fields, **changes})


class Bench:
    """The parts that a leg needs, with their metrics."""

    def __init__(self, client: aiohttp.ClientSession, keys: Mapping[str, str]) -> None:
        self.registry = CollectorRegistry()
        self.metrics = UpstreamMetrics(self.registry)
        self._client = client
        self._settings = UpstreamSettings(None, keys)

    def http(self, url: str, name: str = "speech", **changes: Any) -> HttpLeg:
        """Return the HTTP client of a leg."""
        parts = (self._settings, self._client, self.metrics)
        return HttpLeg(name, endpoint(url, **changes), *parts)

    def value(self, name: str, **labels: str) -> float:
        """Return the value of a metric; 0 if it was never set."""
        return self.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def bench(keys: Mapping[str, str] | None = None) -> AsyncIterator[Bench]:
    """Yield the parts of a leg; its client is closed afterwards."""
    async with aiohttp.ClientSession() as client:
        yield Bench(client, keys or {})
    await asyncio.sleep(0)  # closed transports leave the loop
