"""Opens sessions on pods for callers, and counts them for the limits of their tenants."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from avatar_gateway.core import credentials
from avatar_gateway.core.frames import GOING_AWAY
from avatar_gateway.serving import upgrade

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from aiohttp import web

    from avatar_gateway.core.requests import SessionRequest
    from avatar_gateway.core.tenants import Tenant
    from avatar_gateway.serving.access import Access
    from avatar_gateway.serving.auth import Authenticator
    from avatar_gateway.serving.placement import PlacedSession, Placer
    from avatar_gateway.shared.leases import Leases

    Connect = Callable[[SessionRequest, Sequence[str], Mapping[str, str]], Awaitable[PlacedSession]]

FORWARDED_HEADERS: Final = ("OpenAI-Beta",)
"""Headers of the caller that the pod receives. A credential is never one of them."""


class SessionOpener:
    """Opens new sessions, and connects callers with those that they resume."""

    def __init__(
        self, authenticator: Authenticator, access: Access, placer: Placer, leases: Leases
    ) -> None:
        self._authenticator = authenticator
        self._access = access
        self._placer = placer
        self._leases = leases

    async def open(self, session_request: SessionRequest, request: web.Request) -> PlacedSession:
        """Return a new session on a pod. The caller may have waited for long.

        Raises:
            Rejection: the caller may not have a session any more, or none can be had now.
            PodRejection: a pod rejected the request itself; every pod would reject it.
        """
        session_request = self._access.current(session_request)
        principal = session_request.principal
        self._authenticator.check_current(principal)
        self._access.check(principal, session_request.model)
        placed = await self._connect(self._placer.place, session_request, request)
        try:
            await self._authenticator.count_use(principal)
        except BaseException:
            await self._placer.end_session(placed)
            raise
        return placed

    async def resume(self, session_request: SessionRequest, request: web.Request) -> PlacedSession:
        """Return a connection to the pod that has a session; no limit refuses it.

        Raises:
            Rejection: no pod of the service has it, or the pod does not answer now.
        """
        return await self._connect(self._placer.resume, session_request, request)

    async def _connect(
        self, connect: Connect, session_request: SessionRequest, request: web.Request
    ) -> PlacedSession:
        headers = {
            name: request.headers[name] for name in FORWARDED_HEADERS if name in request.headers
        }
        offered = upgrade.offered_subprotocols(request)
        protocols = [name for name in offered if not name.startswith(credentials.PROTOCOL_PREFIX)]
        tenant, model = session_request.principal.tenant, session_request.model
        if tenant is None:
            return await connect(session_request, protocols, headers)
        if session_request.resume is not None:
            placed = await connect(session_request, protocols, headers)
            return await self._take_over(tenant, model, session_request.resume, placed)
        self._placer.check_room(session_request)  # before a lease is counted for nothing
        lease = await self._leases.acquire(tenant, model)
        try:
            placed = await connect(session_request, protocols, headers)
        except BaseException:
            lease.release()
            raise
        lease.bind(placed.named_session)
        return replace(placed, lease=lease)

    async def _take_over(
        self, tenant: Tenant, model: str, session_id: str, placed: PlacedSession
    ) -> PlacedSession:
        """Count the connection of a session that its pod has already."""
        if placed.named_session is None:  # the pod does not have it, and will refuse
            return placed
        try:
            lease = await self._leases.take_over(tenant, model, session_id)
        except BaseException:
            await self._placer.end_session(placed, GOING_AWAY)
            raise
        if placed.named_session != session_id:  # it has moved to another pod
            lease.bind(placed.named_session)
        return replace(placed, lease=lease)
