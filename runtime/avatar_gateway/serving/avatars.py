"""`GET /v1/avatars` and the pictures of avatars: what a pod of the service answers."""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from aiohttp import web

from avatar_contracts import answer_limits
from avatar_gateway import errors
from avatar_gateway.serving.connection import connection_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from avatar_gateway.serving.access import Access
    from avatar_gateway.serving.connection import Connection
    from avatar_gateway.serving.placement import Fetched, Placer
    from avatar_gateway.serving.request_guard import RequestGuard

_PATH: Final = "/v1/avatars"
_NAME: Final = re.compile(r"[A-Za-z0-9][-_.A-Za-z0-9]{0,252}")
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_IMMUTABLE: Final = {"Cache-Control": answer_limits.IMMUTABLE}
_IDLE_QUERY: Final = ("version", "width", "height", "quality", "crop")
"""What the pod reads of the query of an idle picture."""


class Avatars:
    """Handles the requests."""

    def __init__(
        self,
        guard: RequestGuard,
        access: Access,
        placer: Placer,
    ) -> None:
        self._guard = guard
        self._access = access
        self._placer = placer

    def routes(self) -> Sequence[web.RouteDef]:
        """Return the routes."""
        return [
            web.get(_PATH, self.list),
            web.get(f"{_PATH}/{{name}}/picture.jpg", self.picture),
            web.get(f"{_PATH}/{{name}}/idle/{{frame:[0-9]{{1,6}}}}.jpg", self.idle_picture),
        ]

    async def list(self, request: web.Request) -> web.Response:
        """Return the avatars of a service, and what the service does."""
        return await self._fetch(request, _PATH)

    async def picture(self, request: web.Request) -> web.Response:
        """Return a picture of an avatar."""
        name = request.match_info["name"]
        return await self._fetch(request, f"{_PATH}/{name}/picture.jpg", name)

    async def idle_picture(self, request: web.Request) -> web.Response:
        """Return a picture of the loop that an avatar shows in silence."""
        name, frame = request.match_info["name"], request.match_info["frame"]
        given = {key: request.query[key] for key in _IDLE_QUERY if key in request.query}
        query = f"?{urlencode(given, safe=',')}" if given else ""
        path = f"{_PATH}/{name}/idle/{frame}.jpg{query}"
        return await self._fetch(request, path, name, kept="version" in given)

    async def _fetch(
        self, request: web.Request, path: str, name: str = "", *, kept: bool = False
    ) -> web.Response:
        """Return the answer of a pod; `kept` is whether it never changes."""
        model = request.query.get("model", "")
        try:
            principal = await self._guard.identify(request, model)
            if name and not _NAME.fullmatch(name):
                message = "the name of an avatar has letters, digits, '-', '_' and '.' only"
                raise errors.Rejection("invalid_query", message, param="avatar")
            self._access.check(principal, model)
            fetched = await self._fetch_unless_left(connection_of(request), model, path)
        except errors.Rejection as rejection:
            return self._guard.refuse(request, rejection, model)
        cached = _IMMUTABLE if kept and fetched.status == HTTPStatus.OK else {}
        return web.Response(
            status=fetched.status,
            body=fetched.body,
            content_type=fetched.media_type,
            headers={**_HEADERS, **cached, **fetched.headers},
        )

    async def _fetch_unless_left(self, connection: Connection, model: str, path: str) -> Fetched:
        """Return the answer of a pod; a pod makes no picture for a caller that has left.

        Raises:
            ConnectionError: the caller left.
            Rejection: the service does not exist, or no ready pod answers.
        """
        fetching = asyncio.create_task(
            self._placer.fetch(model, path, connection.caller), name="fetch-from-pod"
        )
        before, connection.on_lost = connection.on_lost, fetching.cancel
        try:
            await asyncio.wait([fetching])
        finally:
            connection.on_lost = before
            fetching.cancel()
        if fetching.cancelled():
            raise ConnectionResetError("the caller left")
        return fetching.result()
