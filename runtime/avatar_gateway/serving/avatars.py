"""`GET /v1/avatars` and `/v1/avatars/NAME/picture.jpg`: what a pod of the service answers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from aiohttp import web

from avatar_gateway import errors
from avatar_gateway.serving import answers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from avatar_gateway.metrics import Metrics
    from avatar_gateway.serving.auth import Authenticator
    from avatar_gateway.serving.placement import Placer

_PATH: Final = "/v1/avatars"
_NAME: Final = re.compile(r"[A-Za-z0-9][-_.A-Za-z0-9]{0,252}")
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Avatars:
    """Handles the two requests."""

    def __init__(self, authenticator: Authenticator, placer: Placer, metrics: Metrics) -> None:
        self._authenticator = authenticator
        self._placer = placer
        self._metrics = metrics

    def routes(self) -> Sequence[web.RouteDef]:
        """Return the routes."""
        return [
            web.get(_PATH, self.list),
            web.get(f"{_PATH}/{{name}}/picture.jpg", self.picture),
        ]

    async def list(self, request: web.Request) -> web.Response:
        """Return the avatars of a service, and what the service does."""
        return await self._fetch(request, _PATH)

    async def picture(self, request: web.Request) -> web.Response:
        """Return a picture of an avatar."""
        name = request.match_info["name"]
        return await self._fetch(request, f"{_PATH}/{name}/picture.jpg", name)

    async def _fetch(self, request: web.Request, path: str, name: str = "") -> web.Response:
        model = request.query.get("model", "")
        try:
            self._authenticator.check_url(list(request.query.items()))
            self._authenticator.authenticate(request.headers, (), model)
            if name and not _NAME.fullmatch(name):
                message = "the name of an avatar has letters, digits, '-', '_' and '.' only"
                raise errors.Rejection("invalid_query", message, param="avatar")
            fetched = await self._placer.fetch(model, path)
        except errors.Rejection as rejection:
            self._metrics.count_rejection(rejection.code)
            return answers.of_rejection(rejection)
        return web.Response(
            status=fetched.status,
            body=fetched.body,
            content_type=fetched.media_type,
            headers=_HEADERS,
        )
