"""Serves the probes and the metrics; the only sockets that the operator listens on."""

from __future__ import annotations

import hmac
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from avatar_operator.settings import Address


def probes(is_alive: Callable[[], bool], is_ready: Callable[[], bool]) -> web.Application:
    """Return an application that answers /healthz and /readyz with 200 or 503."""

    def answer(holds: Callable[[], bool]) -> Callable[[web.Request], web.Response]:
        return lambda _: web.Response(status=200 if holds() else 503)

    return _application({"/healthz": answer(is_alive), "/readyz": answer(is_ready)})


def metrics(token: Callable[[], str | None]) -> web.Application:
    """Return an application that answers /metrics; `token` gives None if it is open."""

    def answer(request: web.Request) -> web.Response:
        wanted = token()
        given = request.headers.get("Authorization", "")
        if wanted is not None and not hmac.compare_digest(given, f"Bearer {wanted}"):
            return web.Response(status=401, headers={"WWW-Authenticate": "Bearer"})
        headers = {"Content-Type": CONTENT_TYPE_LATEST}
        return web.Response(body=generate_latest(), headers=headers)

    return _application({"/metrics": answer})


@asynccontextmanager
async def serving(application: web.Application, address: Address) -> AsyncIterator[int]:
    """Serve an application until the block ends; yields the port, for those who asked for any."""
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, address.host, address.port).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _application(routes: dict[str, Callable[[web.Request], web.Response]]) -> web.Application:
    application = web.Application()
    for path, answer in routes.items():
        application.router.add_get(path, _asynchronous(answer))
    return application


def _asynchronous(
    answer: Callable[[web.Request], web.Response],
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        return answer(request)

    return handle
