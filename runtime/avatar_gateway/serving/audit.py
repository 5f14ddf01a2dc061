"""The audit log: who was denied what, and who did what to credentials, as JSON lines.

A record never contains a credential. What a caller sent appears in it only if it has the form of a
name of a service.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING, Final

from aiohttp import web

from avatar_contracts.logs import JsonFormatter
from avatar_gateway.core import requests
from avatar_gateway.core.tenants import Principal
from avatar_gateway.serving.connection import connection_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

    from avatar_gateway import errors

LOGGER: Final = "avatar_gateway.audit"
PRINCIPAL: Final = web.RequestKey("principal", Principal)
"""Where a handler puts who makes a request."""
DENIALS: Final = frozenset(
    {
        *("unauthenticated", "origin_not_allowed", "key_in_url", "model_not_found"),
        *("quota_exceeded", "resume_refused", "too_many_connections"),
    }
)
"""The codes of rejections that are denials; the others are faults of requests, or no capacity."""
_PER_PERIOD: Final = 20
_PERIOD_S: Final = 10.0
_log = logging.getLogger(LOGGER)


class AuditLog:
    """Writes the audit log: at most 20 denials of each reason and tenant in 10 s.

    The next record of the same reason and tenant says how many were suppressed.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._counts: dict[tuple[str, str], tuple[float, int]] = {}
        """By tenant and reason: when the period began, and how many denials it had."""

    def denied(self, request: web.Request, rejection: errors.Rejection, target: str) -> None:
        """Record a rejection if it denies something; `target` is the service."""
        if rejection.code in DENIALS:
            address = connection_of(request).caller or ""
            action = f"{request.method} {_route(request)}"
            self.record_denial(rejection.code, request.get(PRINCIPAL), address, action, target)

    def record_denial(
        self, reason: str, principal: Principal | None, address: str, action: str, target: str
    ) -> None:
        """Record a denial, unless there were too many."""
        tenant = "" if principal is None else principal.tenant_name
        suppressed = self._suppressed(tenant, reason)
        if suppressed is None:
            return
        self._write(
            "denied",
            tenant=tenant,
            credential="" if principal is None else principal.credential,
            address=address,
            action=action,
            target=target if requests.is_model(target) else "",
            reason=reason,
            suppressed=suppressed,
        )

    def done(
        self, action: str, principal: Principal, *, target: str, detail: str = "", address: str = ""
    ) -> None:
        """Record an action that was done with a credential, or to it."""
        self._write(
            "done",
            tenant=principal.tenant_name,
            credential=principal.credential,
            address=address,
            action=action,
            target=target,
            reason=detail,
            suppressed=0,
        )

    def _suppressed(self, tenant: str, reason: str) -> int | None:
        """Return how many records were suppressed before this one, None to suppress it, too."""
        now, key = self._clock(), (tenant, reason)
        began, count = self._counts.get(key, (now, 0))
        suppressed = 0
        if now - began >= _PERIOD_S:
            began, count, suppressed = now, 0, max(0, count - _PER_PERIOD)
        self._counts[key] = began, count + 1
        return suppressed if count < _PER_PERIOD else None

    @staticmethod
    def _write(result: str, *, action: str, **fields: object) -> None:
        message = "audit result=%s action=%s tenant=%s reason=%s"
        arguments = (result, action, fields["tenant"], fields["reason"])
        _log.info(message, *arguments, extra={"result": result, "action": action, **fields})


def configure(stream: TextIO) -> None:
    """Write the records as JSON lines, whatever the format of the other logs is."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    _log.handlers[:] = [handler]
    _log.propagate = False
    _log.setLevel(logging.INFO)


def _route(request: web.Request) -> str:
    """Return the path as the gateway defines it, without what the caller put into it."""
    resource = request.match_info.route.resource
    return "" if resource is None else resource.canonical
