"""Reads the body of a request, with a deadline."""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

from avatar_gateway import errors

_BODY_S: Final = 10.0


async def read_body(request: web.Request) -> bytes:
    """Return the body.

    Raises:
        Rejection: it did not arrive in time, or cannot be read.
    """
    try:
        async with asyncio.timeout(_BODY_S):
            return await request.read()
    except TimeoutError:
        raise errors.Rejection(
            "request_timeout", f"the body did not arrive within {_BODY_S:g} s"
        ) from None
    except web.RequestPayloadError as error:  # for example wrong gzip data
        raise errors.Rejection("invalid_query", "the body cannot be read") from error
