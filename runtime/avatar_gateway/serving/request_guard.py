"""Lets requests in or refuses them: the same for every path that needs a credential."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avatar_gateway.serving import answers, audit
from avatar_gateway.serving.connection import connection_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import web

    from avatar_gateway import errors
    from avatar_gateway.core.tenants import Principal
    from avatar_gateway.metrics import Metrics
    from avatar_gateway.serving.auth import Authenticator


class RequestGuard:
    """Authenticates requests, and records refusals and administrative actions."""

    def __init__(
        self, authenticator: Authenticator, metrics: Metrics, audit_log: audit.AuditLog
    ) -> None:
        self._authenticator = authenticator
        self._metrics = metrics
        self._audit = audit_log

    async def identify(
        self, request: web.Request, model: str | None = None, subprotocols: Sequence[str] = ()
    ) -> Principal:
        """Return who makes a request, for any service or for one of them.

        Raises:
            Rejection: the URL contains a credential, or as `Authenticator.authenticate`.
        """
        self._authenticator.check_url(list(request.query.items()))
        principal = await self._authenticator.authenticate(request.headers, subprotocols, model)
        request[audit.PRINCIPAL] = principal
        return principal

    def record_refusal(
        self, request: web.Request, rejection: errors.Rejection, target: str = ""
    ) -> None:
        """Count a rejection, and write it to the audit log; `target` is the service."""
        self._metrics.count_rejection(rejection.code)
        self._audit.denied(request, rejection, target)

    def refuse(
        self, request: web.Request, rejection: errors.Rejection, target: str = ""
    ) -> web.Response:
        """Record a rejection, and return the answer."""
        self.record_refusal(request, rejection, target)
        return answers.of_rejection(rejection)

    def record_action(
        self, request: web.Request, action: str, target: str, detail: str = ""
    ) -> None:
        """Write an action of an identified caller to the audit log."""
        address = connection_of(request).caller or ""
        principal = request[audit.PRINCIPAL]
        self._audit.done(action, principal, target=target, detail=detail, address=address)
