"""The page: a fixed list of files, each at its path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from avatar_contracts import packaged_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp.typedefs import Handler

    from avatar_contracts.packaged_files import PageFile


def routes() -> Sequence[web.RouteDef]:
    """Return the routes of the files."""
    found = packaged_files.page_files()
    return [
        web.get("/", _serve(found[packaged_files.INDEX])),
        *(
            web.get(f"{packaged_files.PAGE_PATH}/{name}", _serve(file))
            for name, file in found.items()
        ),
    ]


def _serve(file: PageFile) -> Handler:
    charset = "utf-8" if file.media_type.startswith("text/") else None

    async def serve(_: web.Request) -> web.Response:
        return web.Response(
            body=file.content,
            content_type=file.media_type,
            charset=charset,
            headers=packaged_files.page_headers(),
        )

    return serve
