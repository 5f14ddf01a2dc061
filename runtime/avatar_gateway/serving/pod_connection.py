"""One request to a pod on a connection of its own: the handshake of a session.

aiohttp's client would follow redirects, keep cookies, find proxies and reuse connections, of which
a session needs nothing. It took more processor time than the rest of a placement. Its protocol and
its parser read the answer.
"""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlencode

import aiohttp
from aiohttp.client_proto import ResponseHandler

from avatar_gateway import errors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aiohttp.http_parser import RawResponseMessage

_TCP_CONNECT_S: Final = 2.0
_MAX_BODY_BYTES: Final = 64 * 1024
"""Of the answer of a pod that refuses a session; the rest is not read."""
_FORWARDED_HEADERS: Final = ("Content-Type", "Retry-After")
"""Headers of that answer which the caller gets."""
_HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e]*")


async def upgrade(
    address: tuple[str, int],
    path: str,
    query: Sequence[tuple[str, str]],
    headers: Mapping[str, str],
) -> tuple[ResponseHandler, RawResponseMessage]:
    """Send a request, and return the connection with the head of an answer of status 101.

    Raises:
        PodRejection: the status is another one.
        ClientError, OSError, TimeoutError: the pod is not reachable or its answer is no HTTP.
        ValueError: a header contains what is not ASCII, or a line break.
    """
    request = _encode(address, path, query, headers)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(_TCP_CONNECT_S):
        _, protocol = await loop.create_connection(lambda: ResponseHandler(loop), *address)
    transport = protocol.transport
    try:
        if transport is None:
            raise ConnectionResetError("the pod closed the connection")
        protocol.set_response_params()
        transport.write(request)
        message, content = await protocol.read()
        while 100 <= message.code < 200 and message.code != HTTPStatus.SWITCHING_PROTOCOLS:
            message, content = await protocol.read()
        if message.code != HTTPStatus.SWITCHING_PROTOCOLS:
            body = await content.read(_MAX_BODY_BYTES)
            kept = {
                name: message.headers[name]
                for name in _FORWARDED_HEADERS
                if name in message.headers
            }
            raise errors.PodRejection(message.code, kept, body)
    except BaseException as error:
        if transport is not None:
            transport.abort()
        if isinstance(error, aiohttp.http.HttpProcessingError):
            raise aiohttp.ClientError(f"the pod's answer is no HTTP: {error.message}") from error
        raise
    return protocol, message


def _encode(
    address: tuple[str, int],
    path: str,
    query: Sequence[tuple[str, str]],
    headers: Mapping[str, str],
) -> bytes:
    host, port = address
    target = quote(path)
    if query:
        target += f"?{urlencode(query, errors='ignore', quote_via=quote)}"
    lines = [f"GET {target} HTTP/1.1", f"Host: {f'[{host}]' if ':' in host else host}:{port}"]
    for name, value in headers.items():
        if _HEADER_VALUE.fullmatch(value) is None:
            raise ValueError(f"the header {name} is not printable ASCII")
        lines.append(f"{name}: {value}")
    return "\r\n".join([*lines, "", ""]).encode("ascii")
