"""The admin listener: for the operator, the gateway and Prometheus."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Final

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST

from avatar_contracts import labels
from avatar_contracts.state import LINE_AGE_S, LINE_SPACING_S
from avatar_contracts.tokens import matches
from avatar_runtime.errors import ProtocolError, Rejection
from avatar_runtime.protocol.client_events import load
from avatar_runtime.protocol.strict_fields import StrictFields  # noqa: TC001 - FastAPI reads it

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from avatar_runtime.serving.runtime import Runtime

_MAX_BODY_BYTES: Final = 4096


def create(runtime: Runtime) -> FastAPI:
    """Return the application of the admin listener."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    tokens = runtime.tokens
    is_open = runtime.settings.admin_listen.is_loopback and not tokens.are_required

    async def may_control(request: Request) -> None:
        if not is_open:
            check_token(request.headers.get("authorization", ""), tokens.control())

    async def may_read(request: Request) -> None:
        if not is_open:
            accepted = (*tokens.state(), *tokens.control())
            check_token(request.headers.get("authorization", ""), accepted)

    async def may_scrape(request: Request) -> None:
        if not runtime.settings.admin.metrics_open:
            await may_read(request)

    _add_error_handlers(app)

    @app.get("/metrics", dependencies=[Depends(may_scrape)])
    async def metrics() -> Response:
        return Response(runtime.metrics.render(), media_type=CONTENT_TYPE_LATEST)

    @app.get(labels.STATE_PATH, dependencies=[Depends(may_read)])
    async def state(watch: str = "") -> Response:
        if watch == "1":
            return StreamingResponse(lines(runtime), media_type="application/x-ndjson")
        return JSONResponse(runtime.state())

    @app.post(labels.DRAIN_PATH, dependencies=[Depends(may_control)])
    async def drain(body: Annotated[StrictFields, Depends(body_of)]) -> JSONResponse:
        runtime.set_draining(body.boolean("draining"))
        return JSONResponse(runtime.state())

    @app.post("/control/v1/batch-limit", dependencies=[Depends(may_control)])
    async def batch_limit(body: Annotated[StrictFields, Depends(body_of)]) -> JSONResponse:
        runtime.set_batch_limit(body.integer("limit", 1, runtime.batcher.limit.batch_size))
        return JSONResponse(runtime.state())

    return app


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(Rejection)
    async def unauthenticated(request: Request, rejection: Rejection) -> JSONResponse:
        body = {"error": {"code": rejection.code, "message": rejection.message}}
        return JSONResponse(body, rejection.status, {"WWW-Authenticate": "Bearer"})

    @app.exception_handler(ProtocolError)
    async def invalid(request: Request, error: ProtocolError) -> JSONResponse:
        document = {
            "code": error.code,
            "message": error.message,
            "param": error.param,
            "value": error.value,
            "limit": error.limit,
        }
        return JSONResponse({"error": document}, 400)


def check_token(authorization: str, accepted: Sequence[str]) -> None:
    """Check that the header has one of the accepted tokens.

    Raises:
        Rejection: with status 401, if it does not.
    """
    scheme, _, token = authorization.partition(" ")
    if scheme != "Bearer" or not matches(token, accepted):
        message = "a bearer token with the right for this request is required"
        raise Rejection(401, 4401, "unauthenticated", message)


async def body_of(request: Request) -> StrictFields:
    """Return the JSON object in the body.

    Raises:
        ProtocolError: the body is not a JSON object, or too large.
    """
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MAX_BODY_BYTES:
            message = f"the body is too large, must be at most {_MAX_BODY_BYTES} bytes"
            raise ProtocolError("message_too_large", message, limit=_MAX_BODY_BYTES)
    return load(body.decode("utf-8", "replace"))


async def lines(runtime: Runtime) -> AsyncIterator[bytes]:
    """Yield the state at each change, at most ten times and at least once per second."""
    while not runtime.stopping:
        seen, sent_at = runtime.changes.count, runtime.clock()
        yield json.dumps(runtime.state(), separators=(",", ":")).encode() + b"\n"
        await runtime.changes.wait(seen, LINE_AGE_S)
        await runtime.sleep_until(sent_at + LINE_SPACING_S)
