"""`GET /v1/models` and `/v1/models/{id}`: the services that a caller may use, as OpenAI's API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web

from avatar_gateway import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_gateway.serving.access import Access
    from avatar_gateway.serving.request_guard import RequestGuard

_NO_STORE: Final = {"Cache-Control": "no-store"}


class Models:
    """Handles the two requests."""

    def __init__(
        self,
        guard: RequestGuard,
        access: Access,
    ) -> None:
        self._guard = guard
        self._access = access

    async def list(self, request: web.Request) -> web.Response:
        """Return all services that the caller may use."""
        try:
            names = self._access.visible(await self._guard.identify(request))
        except errors.Rejection as rejection:
            return self._guard.refuse(request, rejection)
        document = {"object": "list", "data": [_model(name) for name in names]}
        return web.json_response(document, headers=_NO_STORE)

    async def retrieve(self, request: web.Request) -> web.Response:
        """Return one service; one that the caller may not use does not exist for it."""
        name = request.match_info["name"]
        try:
            if not self._access.is_visible(await self._guard.identify(request), name):
                message = f"service {name[:64]} does not exist"
                raise errors.Rejection("model_not_found", message, param="model", value=name)
        except errors.Rejection as rejection:
            return self._guard.refuse(request, rejection, name)
        return web.json_response(_model(name), headers=_NO_STORE)


def _model(name: str) -> Mapping[str, object]:
    """Return a model object. The time of its creation is not known here."""
    return {"id": name, "object": "model", "created": 0, "owned_by": name.partition("/")[0]}
