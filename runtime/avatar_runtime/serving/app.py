"""The listener for sessions: `/v1/realtime`, avatars, the page, and the probes."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from avatar_contracts import labels, refusals, usage
from avatar_runtime.errors import ProtocolError, Rejection
from avatar_runtime.protocol import resume
from avatar_runtime.serving import (
    admission,
    direct_access,
    live_session,
    page_routes,
    rejections,
    unknown_paths,
)
from avatar_runtime.serving.avatar_routes import AvatarRoutes
from avatar_runtime.serving.model_routes import ModelRoutes

if TYPE_CHECKING:
    from avatar_contracts.direct_tokens import DirectClaims
    from avatar_runtime.protocol.resume import ResumeRequest
    from avatar_runtime.serving.live_session import LiveSession
    from avatar_runtime.serving.live_sessions import LiveSessions
    from avatar_runtime.serving.runtime import Runtime

    Headers = list[tuple[bytes, bytes]]


_SUBPROTOCOL = "realtime"

_log = logging.getLogger(__name__)


def create(runtime: Runtime, sessions: LiveSessions) -> FastAPI:
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
        await serve_session(websocket, runtime, sessions)

    for path in admission.PATHS:
        app.add_api_route(path, upgrade_required, response_model=None)
        app.add_api_websocket_route(path, realtime)
    app.include_router(page_routes.router())
    app.include_router(AvatarRoutes(runtime).router())
    app.include_router(ModelRoutes(runtime).router())
    unknown_paths.install(app)
    return app


async def serve_session(websocket: WebSocket, runtime: Runtime, sessions: LiveSessions) -> None:
    """Accept or reject a connection, and serve it until it ends."""
    request = admission.SessionRequest(
        query=dict(websocket.query_params),
        headers=admission.headers_of(websocket.scope["headers"]),
        subprotocols=websocket.scope["subprotocols"],
        path=websocket.scope["path"],
    )
    claims = None
    if runtime.tokens.session_is_required:
        try:
            claims = runtime.direct.claims(request)
            if claims is None:
                admission.check_token(request, runtime.tokens.session())
            else:
                request = direct_access.as_session_request(request, claims)
        except Rejection as rejection:
            # Also with refuse=close: a stranger gets no WebSocket.
            await _deny(websocket, rejection, runtime)
            return
    if "resume" in request.query:
        await _resume(websocket, request, runtime, sessions)
        return
    try:
        live = await _open_session(websocket, request, runtime, sessions, claims)
    except Rejection as rejection:
        await _reject(websocket, request, rejection, runtime)
    except WebSocketDisconnect:
        _log.info("client left before its session started")
    else:
        with runtime.usage.connected(_account(request)):
            await live.carry(websocket, carrier=_carrier(request, runtime))


async def _open_session(
    websocket: WebSocket,
    request: admission.SessionRequest,
    runtime: Runtime,
    sessions: LiveSessions,
    claims: DirectClaims | None,
) -> LiveSession:
    """Accept a connection and start its session; `claims` are those of its one-time token.

    Raises:
        Rejection: there is no slot, the request is wrong, or the token was used.
        WebSocketDisconnect: the client has left.
    """
    runtime.slots.acquire()
    try:
        service = runtime.settings.identity.service
        avatar = admission.check(request, service, runtime.avatars.keys())
        if claims is not None:
            runtime.direct.use(claims)
        session_id = runtime.new_session_id()
        headers = [*_resume_header(runtime), *_session_header(session_id)]
        await websocket.accept(_subprotocol(websocket), headers)
    except BaseException:
        runtime.slots.release()
        raise
    account = "" if claims is None else usage.parse_account(claims.account)
    return sessions.start(request, avatar, session_id, account)


async def _resume(
    websocket: WebSocket,
    request: admission.SessionRequest,
    runtime: Runtime,
    sessions: LiveSessions,
) -> None:
    """Continue a session on this connection; whoever has its token may do that."""
    try:
        admission.check_resume(request)
        async with sessions.pending.entered(_caller(websocket, request, runtime)):
            # Whether a session exists is told to gateways only, which have a token.
            is_gateway = runtime.tokens.session_is_required
            known = sessions.id_of(request.query["resume"]) if is_gateway else None
            headers = [*_resume_header(runtime), *_session_header(known)]
            await websocket.accept(_subprotocol(websocket), headers)
            message = await _first_message(websocket)
            live = await _find(request.query["resume"], message, runtime, sessions)
        with runtime.usage.connected(_account(request)):
            await live.carry(websocket, message, _carrier(request, runtime))
    except Rejection as rejection:
        await _reject(websocket, request, rejection, runtime)
    except WebSocketDisconnect:
        _log.info("client left before it resumed its session")
    except ProtocolError as error:
        if error.close == refusals.RESUME_REFUSED_CLOSE:
            runtime.metrics.count_resume("refused")
        _log.info("resume refused code=%s", error.code)
        await live_session.close_refused(websocket, error)


async def _first_message(websocket: WebSocket) -> ResumeRequest:
    """Return the message with which a client resumes.

    Raises:
        ProtocolError: it is another one.
        WebSocketDisconnect: the client has left.
    """
    message = await websocket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1006))
    text = message.get("text")
    return resume.parse(message["bytes"] if text is None else text)


async def _find(
    session_id: str, message: ResumeRequest, runtime: Runtime, sessions: LiveSessions
) -> LiveSession:
    """Return the session that a client may continue.

    Does not return if too many attempts for the same session have failed: the client waits like one
    that says nothing. The right token is not affected.

    Raises:
        ProtocolError: there is no such session, or the request does not fit it.
    """
    try:
        live = sessions.find(session_id, message)
        live.admit(message)
    except ProtocolError as error:
        if error.code == refusals.RESUME_REFUSED:
            if not sessions.failed.admits(session_id, runtime.clock()):
                await asyncio.Event().wait()
        raise
    return live


def _caller(websocket: WebSocket, request: admission.SessionRequest, runtime: Runtime) -> str:
    peer = websocket.client.host if websocket.client is not None else ""
    return admission.caller_of(
        request.headers, peer, is_from_gateway=runtime.tokens.session_is_required
    )


async def _reject(
    websocket: WebSocket, request: admission.SessionRequest, rejection: Rejection, runtime: Runtime
) -> None:
    if request.query.get("refuse") == "close":
        _count(rejection, runtime)
        await websocket.accept(_subprotocol(websocket))
        error = rejections.describe(rejection)
        await rejections.close(websocket, error, rejection.close, rejection.code)
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


def _carrier(request: admission.SessionRequest, runtime: Runtime) -> str:
    """Return what the gateway calls the connection; empty if no gateway has opened it."""
    named = request.headers.get(labels.CONNECTION_HEADER.lower(), "")
    return named[: labels.MAX_CONNECTION_NAME]


def _account(request: admission.SessionRequest) -> str:
    """Return whom gateways count the connection for; empty if no gateway has opened it."""
    return usage.parse_account(request.headers.get(labels.USAGE_HEADER.lower(), ""))


def _resume_header(runtime: Runtime) -> Headers:
    """Return the header that says how long the session waits for its client."""
    value = str(runtime.settings.sessions.resume_ttl_s)
    return [(labels.RESUME_HEADER.lower().encode(), value.encode())]


def _session_header(session_id: str | None) -> Headers:
    """Return the header that tells a gateway the session of a connection."""
    if session_id is None:
        return []
    return [(labels.SESSION_HEADER.lower().encode(), session_id.encode())]


def _subprotocol(websocket: WebSocket) -> str | None:
    return _SUBPROTOCOL if _SUBPROTOCOL in websocket.scope["subprotocols"] else None
