"""The answers of both ports: headers that all of them have, and errors as JSON.

No answer and no log line repeats a part of a malformed request, which may contain a credential.
"""

from __future__ import annotations

import json
import logging
import traceback
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import web

from avatar_gateway import errors
from avatar_gateway.core import rejections
from avatar_gateway.core.connections import Refusal

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from aiohttp.typedefs import Handler

SECURITY_HEADERS: Final = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
)
_CODES: Final = {400: "invalid_request", 404: "not_found", 405: "method_not_allowed"}
_MESSAGES: Final = {
    400: "the request is malformed",
    404: "this path does not exist",
    405: "this path does not have this method",
    413: "the body is too large",
}

_log = logging.getLogger(__name__)


def of_rejection(rejection: errors.Rejection) -> web.Response:
    """Return the HTTP response to a caller that is rejected before the upgrade."""
    mapping = rejections.mapping_of(rejection.code)
    return web.json_response(
        {"error": rejections.error_object(rejection)},
        status=mapping.status,
        headers=dict(mapping.headers),
    )


def too_many_connections(refusal: Refusal) -> errors.Rejection:
    """Return the rejection of a caller for which there is no connection left."""
    if refusal is Refusal.ADDRESS:
        return errors.Rejection(
            "too_many_connections", "this address has too many open connections"
        )
    return errors.Rejection("no_capacity", "this gateway has too many open connections")


def raw(rejection: errors.Rejection) -> bytes:
    """Return the bytes of a response to a connection whose request was not read."""
    mapping = rejections.mapping_of(rejection.code)
    body = json.dumps({"error": rejections.error_object(rejection)}).encode()
    headers = {
        **dict(SECURITY_HEADERS),
        **dict(mapping.headers),
        "Content-Type": "application/json; charset=utf-8",
        "Content-Length": str(len(body)),
        "Connection": "close",
    }
    lines = [f"{name}: {value}" for name, value in headers.items()]
    status = f"HTTP/1.1 {mapping.status} {HTTPStatus(mapping.status).phrase}"
    return "\r\n".join([status, *lines, "", ""]).encode() + body


def malformed(status: int) -> web.Response:
    """Return the response to a request that cannot be parsed; the connection closes after it."""
    response = _error(status)
    add_headers(response.headers)
    response.force_close()
    return response


def add_headers(headers: MutableMapping[str, str]) -> None:
    """Add the headers that every answer has; a stricter or wider policy of the answer stays."""
    for name, value in SECURITY_HEADERS:
        headers.setdefault(name, value)


@web.middleware
async def as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error into JSON, and add the common headers."""
    try:
        response = await handler(request)
    except web.HTTPException as error:
        response = _of_exception(error)
    except web.RequestPayloadError:
        return malformed(HTTPStatus.BAD_REQUEST)
    except ConnectionError:
        raise
    except Exception as error:
        # Without the text of the error, which may contain a part of the request.
        frames = "".join(traceback.format_tb(error.__traceback__))
        _log.error("request failed error=%s\n%s", type(error).__name__, frames)
        if request.writer.output_size:
            raise ConnectionResetError("the answer has begun") from None
        response = _error(500)
        response.force_close()
    if not response.prepared:
        add_headers(response.headers)
    return response


def _of_exception(error: web.HTTPException) -> web.Response:
    if error.status == 413:
        response = of_rejection(errors.Rejection("message_too_large", _MESSAGES[413]))
    else:
        response = _error(error.status)
    if "Allow" in error.headers:
        response.headers["Allow"] = error.headers["Allow"]
    if error.keep_alive is False:
        response.force_close()
    return response


def _error(status: int) -> web.Response:
    error = {
        "type": "server_error" if status >= 500 else "invalid_request_error",
        "code": _CODES.get(status, "internal_error" if status >= 500 else "invalid_request"),
        "message": _MESSAGES.get(status, "the gateway failed to handle the request"),
        "param": None,
        "event_id": None,
        "value": None,
        "limit": None,
    }
    return web.json_response({"error": error}, status=status)
