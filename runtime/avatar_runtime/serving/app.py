"""The listener for sessions: `/v1/realtime`, the page, and the probes."""

from __future__ import annotations

import json
import logging
from importlib.resources import files
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from avatar_runtime.errors import Refusal
from avatar_runtime.serving import admission
from avatar_runtime.serving.connection import Connection

if TYPE_CHECKING:
    from avatar_runtime.serving.runtime import Runtime

_SUBPROTOCOL = "realtime"

_log = logging.getLogger(__name__)


def create(runtime: Runtime) -> FastAPI:
    """Return the application of the sessions port."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    page = files("avatar_runtime.serving").joinpath("page/index.html").read_text("utf-8")

    @app.get("/")
    async def index() -> HTMLResponse:
        return HTMLResponse(page, headers={"Cache-Control": "no-cache"})

    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        problem = runtime.pump.health()
        return JSONResponse({"ok": problem is None, "problem": problem}, 503 if problem else 200)

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        # A draining pod stays ready: its sessions go on, and disruption budgets count on it.
        ready = runtime.door.is_open
        body = {"ready": ready, "draining": runtime.door.draining}
        return JSONResponse(body, 200 if ready else 503)

    @app.get("/v1/realtime")
    async def upgrade_required() -> JSONResponse:
        refusal = Refusal(426, 1008, "upgrade_required", "connect with a WebSocket")
        headers = {"Upgrade": "websocket", "Connection": "Upgrade"}
        return JSONResponse({"error": _describe(refusal)}, 426, headers)

    @app.websocket("/v1/realtime")
    async def realtime(websocket: WebSocket) -> None:
        await serve_session(websocket, runtime)

    return app


async def serve_session(websocket: WebSocket, runtime: Runtime) -> None:
    """Let a connection in or refuse it, and serve it to its end."""
    caller = admission.Caller(
        query=dict(websocket.query_params),
        headers=admission.headers_of(websocket.scope["headers"]),
        subprotocols=websocket.scope["subprotocols"],
    )
    try:
        runtime.door.enter()
    except Refusal as refusal:
        await _refuse(websocket, caller, refusal, runtime)
        return
    try:
        service = runtime.settings.identity.service
        avatar = admission.check(caller, service, runtime.avatars.keys())
        told = admission.told_service(caller, service)
        await _converse(websocket, avatar, told, runtime)
    except Refusal as refusal:
        await _refuse(websocket, caller, refusal, runtime)
    except WebSocketDisconnect:
        _log.info("client left before its session began")
    finally:
        runtime.door.leave()


async def _converse(
    websocket: WebSocket, avatar: str | None, service: str, runtime: Runtime
) -> None:
    await websocket.accept(_subprotocol(websocket))
    session = runtime.open_session(avatar, service)
    connection = Connection(websocket, session, runtime)
    _log.info("session opened session=%s sessions=%d", session.id, runtime.door.sessions)
    runtime.connections.add(connection)
    try:
        ended = await connection.run()
    except Exception:
        # The fault is ours: this session ends, the others go on.
        _log.exception("session failed session=%s", session.id)
        await websocket.close(1011, "internal_error")
        return
    finally:
        runtime.connections.discard(connection)
    _log.info("session ended session=%s how=%s", session.id, ended)


async def _refuse(
    websocket: WebSocket, caller: admission.Caller, refusal: Refusal, runtime: Runtime
) -> None:
    runtime.metrics.count_rejection(refusal.code)
    error = _describe(refusal)
    if caller.query.get("refuse") == "close":
        event = {"type": "error", "event_id": "event_refused", "error": error}
        await websocket.accept(_subprotocol(websocket))
        await websocket.send_text(json.dumps(event))
        await websocket.close(refusal.close, refusal.code)
        return
    headers = {}
    if refusal.retry_after_s is not None:
        headers["Retry-After"] = str(refusal.retry_after_s)
    response = JSONResponse({"error": error}, refusal.status, headers)
    await websocket.send_denial_response(response)


def _describe(refusal: Refusal) -> dict[str, object]:
    """Return the error object of wire protocol §13; it is the same before the upgrade."""
    kind = "server_error" if refusal.status >= 500 else "invalid_request_error"
    return {
        "type": kind,
        "code": refusal.code,
        "message": refusal.message,
        "param": refusal.param,
        "event_id": None,
        "value": refusal.value,
        "limit": refusal.limit,
    }


def _subprotocol(websocket: WebSocket) -> str | None:
    return _SUBPROTOCOL if _SUBPROTOCOL in websocket.scope["subprotocols"] else None
