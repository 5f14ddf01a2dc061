"""The admin listener: for the operator, the gateway and Prometheus."""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST

from avatar_contracts import labels
from avatar_contracts.state import LINE_AGE_S, LINE_SPACING_S
from avatar_contracts.tokens import matches
from avatar_runtime.errors import ProtocolError, Rejection, shown
from avatar_runtime.protocol import session_document
from avatar_runtime.protocol.client_events import load
from avatar_runtime.protocol.strict_fields import StrictFields  # noqa: TC001 - FastAPI reads it
from avatar_runtime.serving import usage
from avatar_runtime.serving.snapshots import SnapshotStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from avatar_runtime.serving.live_sessions import LiveSessions
    from avatar_runtime.serving.runtime import Runtime

_MAX_BODY_BYTES: Final = 4096
_CLOSE_CODES: Final = (4000, 4999)
"""The close codes for applications (RFC 6455, section 7.4.2)."""
_MAX_REASON: Final = 123
"""Bytes of the reason in a close frame (RFC 6455, section 5.5)."""
_MILLISECONDS: Final = re.compile(r"[0-9]{1,6}")


def create(runtime: Runtime, sessions: LiveSessions) -> FastAPI:
    """Return the application of the admin listener."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    tokens, identity = runtime.tokens, runtime.settings.identity
    is_open = runtime.settings.admin_listen.is_loopback and not tokens.are_required

    async def may_control(request: Request) -> None:
        if not is_open:
            check_token(request.headers.get("authorization", ""), tokens.control())

    async def may_move(request: Request) -> None:
        # Who opens the sessions of a pod carries all that their documents contain.
        if not is_open:
            accepted = (*tokens.session(), *tokens.control())
            check_token(request.headers.get("authorization", ""), accepted)

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

    @app.get(labels.USAGE_PATH, dependencies=[Depends(may_read)])
    async def used(watch: str = "") -> Response:
        if watch == "1":
            return StreamingResponse(
                usage.lines(runtime, identity.pod), media_type="application/x-ndjson"
            )
        ended = [document for _, document in runtime.usage.connections()]
        body = usage.encode(identity.pod, list(runtime.usage.documents()), ended)
        return Response(body, media_type="application/json")

    @app.post(labels.DRAIN_PATH, dependencies=[Depends(may_control)])
    async def drain(body: Annotated[StrictFields, Depends(body_of)]) -> JSONResponse:
        runtime.set_draining(body.boolean("draining"))
        return JSONResponse(runtime.state())

    @app.post("/control/v1/batch-limit", dependencies=[Depends(may_control)])
    async def batch_limit(body: Annotated[StrictFields, Depends(body_of)]) -> JSONResponse:
        runtime.set_batch_limit(body.integer("limit", 1, runtime.batcher.limit.batch_size))
        return JSONResponse(runtime.state())

    @app.post(labels.SESSIONS_PATH, dependencies=[Depends(may_move)])
    async def take(request: Request) -> JSONResponse:
        age_s = _age_s(request.query_params.get("recovered_ms"))
        body = await read_body(request, session_document.MAX_BYTES)
        live = await sessions.take(body, age_s)
        ttl_ms = runtime.settings.sessions.resume_ttl_s * 1000
        return JSONResponse({"session": {"id": live.session.id}, "ttl_ms": ttl_ms})

    @app.post(f"{labels.SESSIONS_PATH}/{{session_id}}/end", dependencies=[Depends(may_move)])
    async def end(session_id: str, body: Annotated[StrictFields, Depends(body_of)]) -> Response:
        code = body.integer("close_code", *_CLOSE_CODES)
        reason = body.text("reason")
        if len(reason.encode()) > _MAX_REASON:
            raise body.invalid("reason", f"must have at most {_MAX_REASON} bytes", _MAX_REASON)
        sessions.end(session_id, code, reason)
        return JSONResponse({})

    @app.get(labels.SNAPSHOTS_PATH, dependencies=[Depends(may_move)])
    async def snapshots(gateway: str) -> StreamingResponse:
        stream = SnapshotStream(sessions, runtime, gateway)
        return StreamingResponse(stream.records(), media_type="application/octet-stream")

    @app.post(f"{labels.SESSIONS_PATH}/{{session_id}}/export", dependencies=[Depends(may_move)])
    async def export(session_id: str, body: Annotated[StrictFields, Depends(body_of)]) -> Response:
        document = await sessions.export(
            session_id,
            destination=body.text("destination") if "destination" in body else "",
            only_if_asked="only_if_asked" in body and body.boolean("only_if_asked"),
        )
        return Response(document, media_type="application/json")

    return app


def _age_s(milliseconds: str | None) -> float | None:
    """Return the age of a snapshot, seconds.

    Raises:
        ProtocolError: it is not a number of milliseconds.
    """
    if milliseconds is None:
        return None
    if not _MILLISECONDS.fullmatch(milliseconds):
        message = f"recovered_ms is {shown(milliseconds)}, must be 0 to 999999"
        raise ProtocolError("invalid_value", message, param="recovered_ms", limit=999_999)
    return int(milliseconds) / 1000


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(Rejection)
    async def rejected(request: Request, rejection: Rejection) -> JSONResponse:
        headers = {}
        if rejection.status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        if rejection.retry_after_s is not None:
            headers["Retry-After"] = str(rejection.retry_after_s)
        return JSONResponse({"error": _described(rejection)}, rejection.status, headers)

    @app.exception_handler(ProtocolError)
    async def invalid(request: Request, error: ProtocolError) -> JSONResponse:
        return JSONResponse({"error": _described(error)}, HTTPStatus.BAD_REQUEST)


def _described(error: Rejection | ProtocolError) -> dict[str, Any]:
    return {
        "code": error.code,
        "message": error.message,
        "param": error.param,
        "value": error.value,
        "limit": error.limit,
    }


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
    return load((await read_body(request, _MAX_BODY_BYTES)).decode("utf-8", "replace"))


async def read_body(request: Request, most: int) -> bytes:
    """Return the body of a request, at most `most` bytes.

    Raises:
        ProtocolError: it is larger.
    """
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most:
            message = f"the body is too large, must be at most {most} bytes"
            raise ProtocolError("message_too_large", message, limit=most)
    return bytes(body)


async def lines(runtime: Runtime) -> AsyncIterator[bytes]:
    """Yield the state at each change, at most ten times and at least once per second."""
    while not runtime.stopping:
        seen, sent_at = runtime.changes.count, runtime.clock()
        yield json.dumps(runtime.state(), separators=(",", ":")).encode() + b"\n"
        await runtime.changes.wait(seen, LINE_AGE_S)
        await runtime.sleep_until(sent_at + LINE_SPACING_S)
