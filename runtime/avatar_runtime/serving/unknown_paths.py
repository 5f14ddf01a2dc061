"""Answers for paths and methods that do not exist, for HTTP and for WebSockets alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi.exceptions import HTTPException as FastAPIError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.websockets import WebSocket

from avatar_runtime.errors import Rejection
from avatar_runtime.serving import rejections

if TYPE_CHECKING:
    from fastapi import FastAPI, Request
    from starlette.types import Receive, Scope, Send

_CODES = {404: "not_found", 405: "method_not_allowed"}
_MESSAGES = {404: "this path does not exist", 405: "this path does not have this method"}


def install(app: FastAPI) -> None:
    """Answer with the error object of all other answers."""
    app.router.default = _not_found
    app.add_exception_handler(HTTPException, _answer)
    app.add_exception_handler(FastAPIError, _answer)


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    answer = _response(404)
    if scope["type"] == "websocket":
        # Starlette would close the connection, which uvicorn turns into a 403.
        await WebSocket(scope, receive, send).send_denial_response(answer)
    else:
        await answer(scope, receive, send)


async def _answer(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    answer = _response(error.status_code)
    answer.headers.update(error.headers or {})
    return answer


def _response(status: int) -> JSONResponse:
    code, message = _CODES.get(status, "invalid_request"), _MESSAGES.get(status, "invalid request")
    rejection = Rejection(status, 1008, code, message)
    return JSONResponse({"error": rejections.describe(rejection)}, status)
