"""The administration port: the probes, the metrics, and the demand that the operator scales by."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from time import time
from typing import TYPE_CHECKING

from aiohttp import web

from avatar_contracts import labels, tokens
from avatar_contracts.state import LINE_AGE_S, LINE_SPACING_S, DemandDocument
from avatar_gateway import errors
from avatar_gateway.core import credentials
from avatar_gateway.serving import answers, probes

if TYPE_CHECKING:
    from collections.abc import Callable

    from avatar_gateway.metrics import Metrics
    from avatar_gateway.pod_registry import PodRegistry
    from avatar_gateway.serving.sessions import Sessions
    from avatar_gateway.settings import Settings
    from avatar_gateway.shared.leases import Leases
    from avatar_gateway.tenant_registry import TenantRegistry


class Admin:
    """Handles the requests of the administration port."""

    def __init__(
        self,
        settings: Settings,
        registry: PodRegistry,
        tenants: TenantRegistry,
        sessions: Sessions,
        metrics: Metrics,
        is_ready: Callable[[], bool],
        leases: Leases | None = None,
        waiting_of: Callable[[str], int] = lambda _: 0,
    ) -> None:
        """Without `leases` the document says nothing of months and limits.

        `waiting_of` returns how many callers of a tenant wait here.
        """
        self._waiting_of = waiting_of
        self._leases = leases
        self._is_ready = is_ready
        self._settings = settings
        self._registry = registry
        self._tenants = tenants
        self._sessions = sessions
        self._metrics = metrics

    def application(self) -> web.Application:
        """Return the application to serve."""
        application = web.Application()
        application.add_routes(
            [
                web.get("/metrics", self.metrics),
                web.get(labels.STATE_PATH, self.state),
                *probes.routes(self._is_ready),
            ]
        )
        return application

    async def metrics(self, request: web.Request) -> web.Response:
        """Serve the metrics. They require the token unless the settings make them public."""
        if not self._settings.metrics_open and not self._is_allowed(request):
            return _unauthenticated()
        return web.Response(
            body=self._metrics.render(),
            headers={"Content-Type": "text/plain; version=1.0.0; charset=utf-8"},
        )

    async def state(self, request: web.Request) -> web.StreamResponse:
        """Serve the state document once, or with `watch=1` as one line for each change."""
        if not self._is_allowed(request):
            return _unauthenticated()
        if request.query.get("watch") != "1":
            return web.json_response(self._document())
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        try:
            while True:
                document = self._document()
                await response.write(json.dumps(document).encode() + b"\n")
                await asyncio.sleep(LINE_SPACING_S)
                await self._sessions.wait_for_change(
                    document["sequence"], LINE_AGE_S - LINE_SPACING_S
                )
        except ConnectionError:
            return response

    def _document(self) -> DemandDocument:
        now = asyncio.get_running_loop().time()
        document = self._sessions.state(self._settings.pod, self._registry.services, now)
        live = Counter(each.principal.tenant_name for each in self._sessions.live_sessions.values())
        document["tenants"] = {
            name: {
                "sessions": live[name],
                "waiting": self._waiting_of(name),
                "seconds_this_month": self._leases.seconds_this_month(name) if self._leases else 0,
                "keys": self._tenants.report(name, time()),
                "limited_by": self._leases.limited_by(name) if self._leases else "",
            }
            for name in sorted(self._tenants.tenants)
        }
        return document

    def _is_allowed(self, request: web.Request) -> bool:
        presented = credentials.presented(request.headers, ())
        return presented is not None and tokens.matches(
            presented, self._settings.keys.admin_tokens()
        )


def _unauthenticated() -> web.Response:
    return answers.of_rejection(
        errors.Rejection("unauthenticated", "the administration token is required")
    )
