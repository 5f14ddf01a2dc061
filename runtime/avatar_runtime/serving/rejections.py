"""Rejections as JSON: the error object that all answers of the sessions port share."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from fastapi.responses import JSONResponse

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

    from avatar_runtime.errors import Rejection


def describe(rejection: Rejection) -> dict[str, object]:
    """Return the error object: docs/wire-protocol.md, "Errors". It is the same for a rejection."""
    kind = "server_error" if rejection.status >= 500 else "invalid_request_error"
    return {
        "type": kind,
        "code": rejection.code,
        "message": rejection.message,
        "param": rejection.param,
        "event_id": None,
        "value": rejection.value,
        "limit": rejection.limit,
    }


async def close(websocket: WebSocket, error: object, code: int, reason: str) -> None:
    """Send the error object on an accepted connection that has no session, and close it."""
    event = {"type": "error", "event_id": "event_refused", "error": error}
    await websocket.send_text(json.dumps(event))
    await websocket.close(code, reason)


def answer(rejection: Rejection) -> JSONResponse:
    """Return the HTTP answer of a rejection."""
    headers = {"Cache-Control": "no-store"}
    if rejection.retry_after_s is not None:
        headers["Retry-After"] = str(rejection.retry_after_s)
    return JSONResponse({"error": describe(rejection)}, rejection.status, headers)
