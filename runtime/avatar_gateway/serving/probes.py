"""The probes. The kubelet uses those of the administration port, which callers cannot fill."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def routes(is_ready: Callable[[], bool]) -> Sequence[web.RouteDef]:
    """Return the routes of `/healthz` and `/readyz`."""

    async def healthz(_: web.Request) -> web.Response:
        """Answer 200 while the event loop runs."""
        return web.json_response({"ok": True})

    async def readyz(_: web.Request) -> web.Response:
        ready = is_ready()
        return web.json_response({"ready": ready}, status=200 if ready else 503)

    return [web.get("/healthz", healthz), web.get("/readyz", readyz)]
