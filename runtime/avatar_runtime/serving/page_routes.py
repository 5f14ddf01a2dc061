"""The page: a fixed list of files, each at its path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter
from fastapi.responses import Response

from avatar_contracts import packaged_files

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from avatar_contracts.packaged_files import PageFile


def router() -> APIRouter:
    """Return the routes of the files."""
    made = APIRouter()
    for name, file in packaged_files.page_files().items():
        made.add_api_route(f"{packaged_files.PAGE_PATH}/{name}", _serve(file), response_model=None)
    index = packaged_files.page_files()[packaged_files.INDEX]
    made.add_api_route("/", _serve(index), response_model=None)
    return made


def _serve(file: PageFile) -> Callable[[], Awaitable[Response]]:
    async def serve() -> Response:
        headers = packaged_files.page_headers()
        return Response(file.content, media_type=file.media_type, headers=headers)

    return serve
