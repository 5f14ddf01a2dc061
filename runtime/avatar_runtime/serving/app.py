"""The listener for sessions: `/v1/realtime`, avatars, the page, and the probes."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from avatar_runtime.errors import Rejection
from avatar_runtime.serving import admission, page_routes, rejections, unknown_paths
from avatar_runtime.serving.avatar_routes import AvatarRoutes
from avatar_runtime.serving.connection import Connection
from avatar_runtime.serving.model_routes import ModelRoutes

if TYPE_CHECKING:
    from avatar_runtime.serving.runtime import Runtime

_SUBPROTOCOL = "realtime"

_log = logging.getLogger(__name__)


def create(runtime: Runtime) -> FastAPI:
    """Return the application of the sessions port."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)

    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        problem = runtime.batcher.health()
        return JSONResponse({"ok": problem is None, "problem": problem}, 503 if problem else 200)

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        # A draining pod stays ready: its sessions continue, and disruption budgets count it.
        ready = runtime.slots.is_ready
        body = {"ready": ready, "draining": runtime.slots.draining}
        return JSONResponse(body, 200 if ready else 503)

    async def upgrade_required() -> JSONResponse:
        rejection = Rejection(426, 1008, "upgrade_required", "connect with a WebSocket")
        headers = {"Upgrade": "websocket", "Connection": "Upgrade"}
        return JSONResponse({"error": rejections.describe(rejection)}, 426, headers)

    async def realtime(websocket: WebSocket) -> None:
        await serve_session(websocket, runtime)

    for path in admission.PATHS:
        app.add_api_route(path, upgrade_required, response_model=None)
        app.add_api_websocket_route(path, realtime)
    app.include_router(page_routes.router())
    app.include_router(AvatarRoutes(runtime).router())
    app.include_router(ModelRoutes(runtime).router())
    unknown_paths.install(app)
    return app


async def serve_session(websocket: WebSocket, runtime: Runtime) -> None:
    """Accept or reject a connection, and serve it until it ends."""
    request = admission.SessionRequest(
        query=dict(websocket.query_params),
        headers=admission.headers_of(websocket.scope["headers"]),
        subprotocols=websocket.scope["subprotocols"],
        path=websocket.scope["path"],
    )
    if runtime.tokens.session_is_required:
        try:
            admission.check_token(request, runtime.tokens.session())
        except Rejection as rejection:
            # Also with refuse=close: a stranger gets no WebSocket.
            await _deny(websocket, rejection, runtime)
            return
    try:
        runtime.slots.acquire()
    except Rejection as rejection:
        await _reject(websocket, request, rejection, runtime)
        return
    try:
        service = runtime.settings.identity.service
        avatar = admission.check(request, service, runtime.avatars.keys())
        await _run_session(websocket, request, avatar, runtime)
    except Rejection as rejection:
        await _reject(websocket, request, rejection, runtime)
    except WebSocketDisconnect:
        _log.info("client left before its session started")
    finally:
        runtime.slots.release()


async def _run_session(
    websocket: WebSocket, request: admission.SessionRequest, avatar: str | None, runtime: Runtime
) -> None:
    await websocket.accept(_subprotocol(websocket))
    reported = admission.reported_service(request, runtime.settings.identity.service)
    session = runtime.open_session(
        avatar, reported, request.video, names_avatar=request.names_avatar
    )
    connection = Connection(websocket, session, runtime, request.dialect)
    _log.info("session opened session=%s sessions=%d", session.id, runtime.slots.sessions)
    runtime.connections.add(connection)
    try:
        ended = await connection.run()
    except Exception:
        # A defect of the runtime ends this session only.
        _log.exception("session failed session=%s", session.id)
        await websocket.close(1011, "internal_error")
        return
    finally:
        runtime.connections.discard(connection)
    _log.info("session ended session=%s how=%s", session.id, ended)


async def _reject(
    websocket: WebSocket, request: admission.SessionRequest, rejection: Rejection, runtime: Runtime
) -> None:
    if request.query.get("refuse") == "close":
        _count(rejection, runtime)
        error = rejections.describe(rejection)
        event = {"type": "error", "event_id": "event_refused", "error": error}
        await websocket.accept(_subprotocol(websocket))
        await websocket.send_text(json.dumps(event))
        await websocket.close(rejection.close, rejection.code)
        return
    await _deny(websocket, rejection, runtime)


async def _deny(websocket: WebSocket, rejection: Rejection, runtime: Runtime) -> None:
    """Answer the upgrade with an HTTP status."""
    _count(rejection, runtime)
    headers = {}
    if rejection.retry_after_s is not None:
        headers["Retry-After"] = str(rejection.retry_after_s)
    response = JSONResponse({"error": rejections.describe(rejection)}, rejection.status, headers)
    await websocket.send_denial_response(response)


def _count(rejection: Rejection, runtime: Runtime) -> None:
    runtime.metrics.count_rejection(rejection.code)
    _log.info("session refused code=%s status=%d", rejection.code, rejection.status)


def _subprotocol(websocket: WebSocket) -> str | None:
    return _SUBPROTOCOL if _SUBPROTOCOL in websocket.scope["subprotocols"] else None
