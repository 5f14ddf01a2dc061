"""`GET /v1/models` and `/v1/models/{id}`: the services that a caller may use, as OpenAI's API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web

from avatar_gateway import errors
from avatar_gateway.serving import answers, audit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_gateway.core.tenants import Principal
    from avatar_gateway.metrics import Metrics
    from avatar_gateway.serving.access import Access
    from avatar_gateway.serving.auth import Authenticator

_NO_STORE: Final = {"Cache-Control": "no-store"}


class Models:
    """Handles the two requests."""

    def __init__(
        self,
        authenticator: Authenticator,
        access: Access,
        metrics: Metrics,
        audit_log: audit.AuditLog,
    ) -> None:
        self._authenticator = authenticator
        self._access = access
        self._metrics = metrics
        self._audit = audit_log

    async def list(self, request: web.Request) -> web.Response:
        """Return all services that the caller may use."""
        try:
            names = self._access.visible(await self._authenticate(request))
        except errors.Rejection as rejection:
            return self._rejected(request, rejection)
        document = {"object": "list", "data": [_model(name) for name in names]}
        return web.json_response(document, headers=_NO_STORE)

    async def retrieve(self, request: web.Request) -> web.Response:
        """Return one service; one that the caller may not use does not exist for it."""
        name = request.match_info["name"]
        try:
            if not self._access.is_visible(await self._authenticate(request), name):
                message = f"service {name[:64]} does not exist"
                raise errors.Rejection("model_not_found", message, param="model", value=name)
        except errors.Rejection as rejection:
            return self._rejected(request, rejection)
        return web.json_response(_model(name), headers=_NO_STORE)

    async def _authenticate(self, request: web.Request) -> Principal:
        self._authenticator.check_url(list(request.query.items()))
        principal = await self._authenticator.authenticate(request.headers)
        request[audit.PRINCIPAL] = principal
        return principal

    def _rejected(self, request: web.Request, rejection: errors.Rejection) -> web.Response:
        self._metrics.count_rejection(rejection.code)
        self._audit.denied(request, rejection, request.match_info.get("name", ""))
        return answers.of_rejection(rejection)


def _model(name: str) -> Mapping[str, object]:
    """Return a model object. The time of its creation is not known here."""
    return {"id": name, "object": "model", "created": 0, "owned_by": name.partition("/")[0]}
