"""Ends live sessions whose credential was revoked, and those that reached their tenant's limit."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from time import time
from typing import TYPE_CHECKING, Final

from avatar_gateway.serving import proxy

if TYPE_CHECKING:
    from collections.abc import Callable

    from avatar_gateway.core.tenants import Principal
    from avatar_gateway.serving.audit import AuditLog
    from avatar_gateway.serving.direct_sessions import DirectSessions
    from avatar_gateway.serving.sessions import LiveSession, Sessions
    from avatar_gateway.tenant_registry import TenantRegistry

REVOKED_CLOSE: Final = 4401
"""Clients do not connect again after it, as after a wrong credential."""
FORBIDDEN_CLOSE: Final = 4403
MAX_DURATION_CLOSE: Final = 4410
_GRACE_S: Final = 5.0
"""The pod ends a session at the limit of its tenant, which it announces to the client as
`expires_at`. The gateway ends the connection later, if the image of the pod ignores the limit."""
_INTERVAL_S: Final = 1.0
"""How often sessions are checked without a change: keys also end at a time of day."""


class RevocationWatch:
    """Checks the live sessions at each change of the tenants, and every second."""

    def __init__(
        self,
        sessions: Sessions,
        tenants: TenantRegistry,
        audit_log: AuditLog,
        direct: DirectSessions,
        clock: Callable[[], float] = time,
    ) -> None:
        self._sessions = sessions
        self._tenants = tenants
        self._audit = audit_log
        self._direct = direct
        self._clock = clock

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_INTERVAL_S):
                    await self._tenants.changed.wait()
            self._tenants.changed.clear()
            self.check()

    def check(self) -> None:
        """End the sessions that may not go on."""
        now, loop_now = self._clock(), asyncio.get_running_loop().time()
        self._check_direct(now)
        for stop, session in list(self._sessions.live_sessions.items()):
            end = None if stop.done() else self._end_of(session, now, loop_now)
            if end is not None:
                stop.set_result(end)
                self._record(session.principal, session.service, end)

    def _check_direct(self, now: float) -> None:
        """Ask pods to end the sessions without a gateway that may not go on."""
        self._direct.forget_lost()
        for session in self._direct:
            principal, service = session.principal, session.placed.account.service
            end = self._revoked(principal, service, now)
            if end is not None:
                on_ended = partial(self._record, principal, service, end)
                self._direct.ask_to_end(session, end.code, end.reason, on_ended)

    def _record(self, principal: Principal, service: str, end: proxy.End) -> None:
        self._audit.done("end session", principal, target=service, detail=end.reason)

    def _end_of(self, session: LiveSession, now: float, loop_now: float) -> proxy.End | None:
        principal = session.principal
        limit_s = None if principal.tenant is None else principal.tenant.limits.session_s
        if limit_s is not None and loop_now - session.started_at > limit_s + _GRACE_S:
            return _TOO_LONG
        return self._revoked(principal, session.service, now)

    def _revoked(self, principal: Principal, service: str, now: float) -> proxy.End | None:
        """Return how a session ends whose principal may not have it any more; None if it may."""
        tenant = principal.tenant
        if tenant is None:
            use = principal.client_secret
            is_revoked = use is not None and self._tenants.is_revoked(principal, now)
            return _REVOKED if is_revoked else None
        if not self._tenants.ends_sessions(tenant.name):
            return None
        if self._tenants.is_revoked(principal, now):
            return _REVOKED
        known = self._tenants.tenants.get(tenant.name)
        is_usable = known is not None and not known.problem
        # The services of a deleted AvatarService end with their pods.
        if is_usable and self._tenants.forbids(principal, service):
            return _FORBIDDEN
        return None


_TOO_LONG: Final = proxy.End(
    proxy.Side.GATEWAY, MAX_DURATION_CLOSE, "the session reached its maximum duration"
)
_REVOKED: Final = proxy.End(
    proxy.Side.GATEWAY,
    REVOKED_CLOSE,
    "credential_revoked: the credential was revoked",
    "credential_revoked",
)
_FORBIDDEN: Final = proxy.End(
    proxy.Side.GATEWAY,
    FORBIDDEN_CLOSE,
    "access_revoked: the tenant may not use this service",
    "access_revoked",
)
