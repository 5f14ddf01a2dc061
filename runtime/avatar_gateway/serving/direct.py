"""`POST /v1/sessions`: the address of a pod and a token for one session there.

In direct mode, clients reach the pods themselves, for example through a route for each pod, and no
gateway is between them. The gateway reserves a slot as long as the token is valid, and counts the
session for the limits of its tenant. The token says whom the session counts for and how long it may
take, and the pod reports it to all gateways as long as it lives (`direct_sessions`).
"""

from __future__ import annotations

import logging
import secrets
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from aiohttp import web

from avatar_contracts import direct_tokens, tokens
from avatar_contracts.direct_tokens import DirectClaims
from avatar_gateway import errors
from avatar_gateway.core import requests
from avatar_gateway.serving.bodies import read_body
from avatar_gateway.shared.metering import new_record

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from avatar_gateway.core.requests import SessionRequest
    from avatar_gateway.serving.auth import Authenticator
    from avatar_gateway.serving.placement import Placer
    from avatar_gateway.serving.request_guard import RequestGuard
    from avatar_gateway.shared.leases import Leases
    from avatar_gateway.shared.metering import Meter

PATH: Final = "/v1/sessions"
MAX_ISSUER: Final = 256
"""Characters of the issuer of a caller's token, so that the text for the pod is not too long."""
_NO_STORE: Final = {"Cache-Control": "no-store"}

_log = logging.getLogger(__name__)


class Direct:
    """Handles the request, if the settings have an address of the pods."""

    def __init__(
        self,
        url: str,
        guard: RequestGuard,
        authenticator: Authenticator,
        placer: Placer,
        admit: Callable[[SessionRequest], Awaitable[None]],
        leases: Leases,
        meter: Meter | None,
    ) -> None:
        """`url` is the template of `settings.Settings.direct_url`; empty turns direct mode off.

        `admit` raises a `Rejection` if no new session may start here now, and counts the arrival.
        """
        self._leases = leases
        self._meter = meter
        self._url = url
        self._guard = guard
        self._authenticator = authenticator
        self._placer = placer
        self._admit = admit

    def routes(self) -> Sequence[web.RouteDef]:
        """Return the route; none without direct mode."""
        return [web.post(PATH, self.create)] if self._url else []

    async def create(self, request: web.Request) -> web.Response:
        """Choose a pod and return its address with a token."""
        target = ""
        try:
            principal = await self._guard.identify(request)
            asked = requests.parse_direct(await read_body(request), principal)
            target = asked.model
            await self._admit(asked)
            made = await self._offer(asked)
            self._guard.record_action(request, "create direct session", asked.model)
            return web.json_response(made, status=201, headers=_NO_STORE)
        except errors.Rejection as rejection:
            return self._guard.refuse(request, rejection, target)

    async def _offer(self, asked: SessionRequest) -> Mapping[str, object]:
        """Count a session for the limits of its tenant, and reserve a slot for it.

        Raises:
            Rejection: a limit is reached, the client secret is used up, or no pod has room.
        """
        principal, record = asked.principal, new_record()
        if len(principal.source.name) > MAX_ISSUER:
            text = "the name of the issuer is too long for direct sessions"
            shown = principal.source.name[:64]
            raise errors.Rejection(
                "direct_mode_unavailable", text, param="iss", value=shown, limit=MAX_ISSUER
            )
        if principal.tenant is None:
            await self._authenticator.count_use(principal)
            return self._reserve(asked, record)
        lease = await self._leases.offer(principal.tenant, asked.model, record)
        try:
            await self._authenticator.count_use(principal)
            return self._reserve(asked, record)
        except BaseException:
            self._leases.withdraw(lease)
            raise

    def _reserve(self, asked: SessionRequest, record: str) -> Mapping[str, object]:
        keys = self._placer.read_keys()
        if not keys:
            raise errors.Rejection("not_ready", "the gateway has no key to make a token with")
        pod = self._placer.reserve(asked, direct_tokens.TTL_S)
        tenant, account = asked.principal.tenant, ""
        longest_s = None if tenant is None else tenant.limits.session_s
        if self._meter is not None:
            account = self._meter.offer(asked.principal, asked.model, pod, record)
        claims = DirectClaims(
            pod.name,
            asked.model,
            secrets.token_hex(16),
            int(time.time()) + direct_tokens.TTL_S,
            account,
            longest_s,
        )
        query = f"?avatar={quote(asked.avatar, safe='')}" if asked.avatar else ""
        _log.debug("direct session offered service=%s pod=%s", asked.model, pod.key)
        return {
            "object": "avatar.direct_session",
            "model": asked.model,
            "url": self._url.format(pod=pod.name, namespace=pod.namespace) + query,
            "token": direct_tokens.make(
                tokens.session_token(keys[0], pod.original_service), claims
            ),
            "expires_at": claims.expires_at,
        }
