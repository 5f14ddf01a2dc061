"""Serves the probes and the metrics, on the only ports that the operator listens on."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from avatar_contracts import tokens

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from avatar_operator.metrics import Metrics
    from avatar_operator.settings import Address

REQUEST_S: Final = 10.0
"""How long a connection may take for the headers of a request, and wait for the next one."""


def probes(
    is_alive: Callable[[], bool],
    is_ready: Callable[[], bool],
    waits_for: Callable[[], str] = lambda: "",
) -> web.Application:
    """Return an application that answers /healthz and /readyz with 200 or 503.

    The kubelet writes the body of a failed probe into an Event: `waits_for` returns it.
    """

    def alive(_: web.Request) -> web.Response:
        return web.Response(status=200 if is_alive() else 503)

    def ready(_: web.Request) -> web.Response:
        return web.Response() if is_ready() else web.Response(status=503, text=waits_for())

    return _application({"/healthz": alive, "/readyz": ready})


def metrics_app(metrics: Metrics, token: Callable[[], str | None]) -> web.Application:
    """Return an application that serves /metrics; `token` returns None if access is open."""

    def respond(request: web.Request) -> web.Response:
        required = token()
        authorization = request.headers.get("Authorization", "")
        if required is not None and not tokens.matches(authorization, [f"Bearer {required}"]):
            return web.Response(status=401, headers={"WWW-Authenticate": "Bearer"})
        return web.Response(body=metrics.render(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return _application({"/metrics": respond})


@asynccontextmanager
async def serving(application: web.Application, address: Address) -> AsyncIterator[int]:
    """Serve an application until the block ends; yields the port, which port 0 leaves open."""
    runner = web.AppRunner(application, access_log=None, keepalive_timeout=REQUEST_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, address.host, address.port).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _application(routes: dict[str, Callable[[web.Request], web.Response]]) -> web.Application:
    application = web.Application()
    for path, respond in routes.items():
        application.router.add_get(path, _asynchronous(respond))
    return application


def _asynchronous(
    respond: Callable[[web.Request], web.Response],
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        return respond(request)

    return handle
