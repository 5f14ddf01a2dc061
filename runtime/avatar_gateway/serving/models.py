"""`GET /v1/models` and `/v1/models/{id}`: the services that a caller may use, as OpenAI's API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web

from avatar_gateway import errors
from avatar_gateway.serving import answers
from avatar_gateway.serving.auth import ALL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from avatar_gateway.metrics import Metrics
    from avatar_gateway.serving.auth import Authenticator

_NO_STORE: Final = {"Cache-Control": "no-store"}


class Models:
    """Handles the two requests."""

    def __init__(
        self,
        authenticator: Authenticator,
        services: Callable[[], frozenset[str]],
        metrics: Metrics,
    ) -> None:
        self._authenticator = authenticator
        self._services = services
        self._metrics = metrics

    async def list(self, request: web.Request) -> web.Response:
        """Return all services that the caller may use."""
        try:
            names = sorted(self._permitted(request))
        except errors.Rejection as rejection:
            return self._rejected(rejection)
        document = {"object": "list", "data": [_model(name) for name in names]}
        return web.json_response(document, headers=_NO_STORE)

    async def retrieve(self, request: web.Request) -> web.Response:
        """Return one service; one that the caller may not use does not exist for it."""
        name = request.match_info["name"]
        try:
            if name not in self._permitted(request):
                message = f"service {name[:64]} does not exist"
                raise errors.Rejection("model_not_found", message, param="model", value=name)
        except errors.Rejection as rejection:
            return self._rejected(rejection)
        return web.json_response(_model(name), headers=_NO_STORE)

    def _permitted(self, request: web.Request) -> frozenset[str]:
        self._authenticator.check_url(list(request.query.items()))
        permitted = self._authenticator.permitted(request.headers)
        services = self._services()
        return services if permitted == ALL else services & {permitted}

    def _rejected(self, rejection: errors.Rejection) -> web.Response:
        self._metrics.count_rejection(rejection.code)
        return answers.of_rejection(rejection)


def _model(name: str) -> Mapping[str, object]:
    """Return a model object. The time of its creation is not known here."""
    return {"id": name, "object": "model", "created": 0, "owned_by": name.partition("/")[0]}
