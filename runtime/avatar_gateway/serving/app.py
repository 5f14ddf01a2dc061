"""The sessions port: `/v1/realtime`, client secrets, the demo page and the probes."""

from __future__ import annotations

import asyncio
import json
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from avatar_contracts import refusals
from avatar_contracts.rate_limit import Rate
from avatar_gateway import errors
from avatar_gateway.core import credentials, rejections, requests
from avatar_gateway.core.frames import GOING_AWAY, NORMAL, Opcode
from avatar_gateway.core.wait_queue import RETRYABLE_CODES
from avatar_gateway.serving import answers, page, probes, proxy, upgrade
from avatar_gateway.serving.avatars import Avatars
from avatar_gateway.serving.connection import connection_of
from avatar_gateway.serving.models import Models
from avatar_gateway.serving.wait_queue import WaitQueues

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from aiohttp.typedefs import Handler

    from avatar_gateway.core.memory_budget import MemoryBudget
    from avatar_gateway.metrics import Metrics
    from avatar_gateway.serving import placement
    from avatar_gateway.serving.auth import Authenticator
    from avatar_gateway.serving.peer import Peer
    from avatar_gateway.serving.sessions import Sessions
    from avatar_gateway.settings import Limits

    Query = Sequence[tuple[str, str]]
    Connect = Callable[
        [requests.SessionRequest, Sequence[str], Mapping[str, str]],
        Awaitable[placement.PlacedSession],
    ]

_log = logging.getLogger(__name__)

_FORWARDED_HEADERS: Final = ("OpenAI-Beta",)
"""Headers of the caller that the pod receives. A credential is never one of them."""
_BODY_S: Final = 10.0
_INTERNAL_ERROR: Final = 1011


class Gateway:
    """Handles the requests of the sessions port."""

    def __init__(
        self,
        authenticator: Authenticator,
        placer: placement.Placer,
        sessions: Sessions,
        metrics: Metrics,
        is_synced: Callable[[], bool],
        limits: Limits,
        budget: MemoryBudget,
    ) -> None:
        self._authenticator = authenticator
        self._placer = placer
        self._sessions = sessions
        self._queues = WaitQueues(sessions, placer.end_session, limits.held_bytes)
        self._rate = Rate(limits.frames_per_s, limits.bytes_per_s)
        self._budget = budget
        self._metrics = metrics
        self._is_synced = is_synced
        self._avatars = Avatars(authenticator, placer, metrics)
        metrics.watch_snapshots(lambda: placer.snapshots.nbytes, lambda: placer.snapshots.evicted)
        self.models = Models(authenticator, lambda: placer.services, metrics)

    def application(self) -> web.Application:
        """Return the application to serve."""
        application = web.Application(middlewares=[_refuse_upgrades_completely])
        application.add_routes(
            [
                *(web.get(path, self.realtime) for path in requests.PATHS),
                web.get("/v1/models", self.models.list),
                web.get("/v1/models/{name:.+}", self.models.retrieve),
                web.post("/v1/realtime/client_secrets", self.client_secrets),
                *probes.routes(lambda: self.is_ready),
                *self._avatars.routes(),
                *page.routes(),
            ]
        )
        return application

    @property
    def is_ready(self) -> bool:
        """Whether services and pods are known and the gateway does not shut down."""
        return self._is_synced() and not self._sessions.leaving

    async def client_secrets(self, request: web.Request) -> web.Response:
        """Create a short-lived client secret for a browser."""
        query = list(request.query.items())
        try:
            self._authenticator.check_url(query)
            self._authenticator.authenticate(request.headers, (), None)
            return web.json_response(
                self._authenticator.create_client_secret(await _read_body(request)),
                headers={"Cache-Control": "no-store"},
            )
        except errors.Rejection as rejection:
            self._metrics.count_rejection(rejection.code)
            return answers.of_rejection(rejection)

    async def realtime(self, request: web.Request) -> web.StreamResponse:
        """Authenticate, place and proxy one session."""
        query = list(request.query.items())
        try:
            session_request = self._check(request, query)
            placed = await self._place(session_request, request)
        except errors.Rejection as rejection:
            self._metrics.count_rejection(rejection.code)
            close_code = rejections.mapping_of(rejection.code).close_code
            # A pod can refuse to resume only after the upgrade, and both must look the same.
            closes = requests.wants_close_code(query) or close_code == refusals.RESUME_REFUSED_CLOSE
            if close_code is None or not closes:
                return answers.of_rejection(rejection)
            return await self._accept_and_close(
                request, rejections.error_object(rejection), close_code
            )
        except errors.PodRejection as rejection:
            self._metrics.count_rejection("pod")
            if not requests.wants_close_code(query):
                return web.Response(
                    status=rejection.status, body=rejection.body, headers=rejection.headers
                )
            close_code = rejections.close_code_for_status(rejection.status)
            return await self._accept_and_close(request, rejection.error, close_code)
        if placed is None:
            return await self._wait(session_request, request)
        response, caller = await self._accept(request, placed)
        if session_request.resume is not None:
            connection_of(request).message_awaited()
        await self._proxy_session(
            session_request, placed, caller, connection_of(request).message_arrived
        )
        return response

    def _check(self, request: web.Request, query: Query) -> requests.SessionRequest:
        if not upgrade.is_upgrade(request):
            raise errors.Rejection("upgrade_required", "this address accepts only WebSocket")
        if not upgrade.has_valid_key(request):
            raise errors.Rejection(
                "invalid_handshake",
                "the header Sec-WebSocket-Key must occur once and be 16 bytes in base64",
                param="Sec-WebSocket-Key",
            )
        for name in ("Sec-WebSocket-Protocol", *_FORWARDED_HEADERS):
            if not all(value.isascii() for value in request.headers.getall(name, [])):
                raise errors.Rejection(
                    "invalid_query", f"the header {name} must be ASCII", param=name
                )
        self._authenticator.check_url(query)
        # Authentication precedes every other check: an unauthenticated caller learns nothing else.
        offered = upgrade.offered_subprotocols(request)
        self._authenticator.authenticate(request.headers, offered, dict(query).get("model", ""))
        return requests.parse(query, request.path, connection_of(request).caller)

    async def _place(
        self,
        session_request: requests.SessionRequest,
        request: web.Request,
    ) -> placement.PlacedSession | None:
        """Return the session on a pod, or None if the caller has to wait for a slot."""
        started = asyncio.get_running_loop().time()
        if self._sessions.draining:
            raise errors.Rejection("draining", "this gateway is shutting down")
        if not self._is_synced():
            raise errors.Rejection("not_ready", "this gateway has not listed the pods yet")
        model = session_request.model
        if session_request.resume is not None:
            return await self._open(self._placer.resume, session_request, request)
        queue = self._queues.queue(model)
        try:
            if queue.callers:
                raise errors.Rejection("no_capacity", _waiting_callers(len(queue.callers)))
            placed = await self._place_on_pod(session_request, request)
        except errors.Rejection as rejection:
            if rejection.code != "model_not_found":
                retryable = rejection.code in RETRYABLE_CODES
                if session_request.wait_ms and retryable and not self._queues.queue(model).is_full:
                    return None  # the queue records the arrival
                self._sessions.record_arrival(model, started)
                self._sessions.record_rejection(model)
            raise
        self._sessions.record_arrival(model, started)
        self._metrics.observe_placement(asyncio.get_running_loop().time() - started)
        return placed

    async def _place_on_pod(
        self, session_request: requests.SessionRequest, request: web.Request
    ) -> placement.PlacedSession:
        return await self._open(self._placer.place, session_request, request)

    async def _open(
        self, connect: Connect, session_request: requests.SessionRequest, request: web.Request
    ) -> placement.PlacedSession:
        headers = {
            name: request.headers[name] for name in _FORWARDED_HEADERS if name in request.headers
        }
        offered = upgrade.offered_subprotocols(request)
        protocols = [name for name in offered if not name.startswith(credentials.PROTOCOL_PREFIX)]
        return await connect(session_request, protocols, headers)

    async def _wait(
        self, session_request: requests.SessionRequest, request: web.Request
    ) -> web.StreamResponse:
        """Accept the WebSocket and keep the caller in the queue until a pod accepts its session.

        From here on, a rejection is an `error` event followed by a close.
        """
        model, started = session_request.model, asyncio.get_running_loop().time()
        response, caller = await upgrade.accept(request, self._budget, None)
        try:
            placed = await self._queues.wait_for_slot(
                caller, session_request, lambda: self._place_on_pod(session_request, request)
            )
        except errors.Rejection as rejection:
            if rejection.code in RETRYABLE_CODES:
                self._sessions.record_rejection(model)
            self._metrics.count_rejection(rejection.code)
            code = rejections.mapping_of(rejection.code).close_code or _INTERNAL_ERROR
            await _send_error_and_close(caller, rejections.error_object(rejection), code)
        except errors.PodRejection as rejection:
            self._metrics.count_rejection("pod")
            code = rejections.close_code_for_status(rejection.status)
            await _send_error_and_close(caller, rejection.error, code)
        except ConnectionError:
            await caller.close(NORMAL)
        else:
            self._metrics.observe_placement(asyncio.get_running_loop().time() - started)
            await self._proxy_session(session_request, placed, caller)
        return response

    async def _accept(
        self, request: web.Request, placed: placement.PlacedSession
    ) -> tuple[web.StreamResponse, Peer]:
        """Accept the WebSocket of a caller whose session a pod accepted."""
        try:
            return await upgrade.accept(request, self._budget, placed.peer.subprotocol)
        except BaseException:
            await self._placer.end_session(placed)
            raise

    async def _proxy_session(
        self,
        session_request: requests.SessionRequest,
        placed: placement.PlacedSession,
        caller: Peer,
        on_message: Callable[[], None] = lambda: None,
    ) -> None:
        """Proxy until the session ends; `on_message` is called when the caller sends something."""
        model = session_request.model
        can_resume = session_request.can_resume and placed.peer.resume_s > 0
        stop = self._sessions.start(model, can_resume=can_resume)
        _log.info("session started service=%s pod=%s", model, placed.pod)
        try:
            end = await proxy.relay(
                caller,
                placed.peer,
                stop,
                self._rate,
                on_message,
                None if placed.source is None else lambda: self._recover(placed),
            )
        finally:
            # A cancelled request passes here, too: the pod's slot must become free.
            await self._placer.end_session(placed, GOING_AWAY)
            self._sessions.finish(model, stop)
        _log.info(
            "session ended service=%s pod=%s by=%s code=%d",
            model,
            placed.pod,
            end.side.value,
            end.code,
        )

    async def _recover(self, placed: placement.PlacedSession) -> Mapping[str, object] | None:
        """Continue a session whose pod is lost; return the event that says where it is."""
        session_id, result = await self._placer.recover(placed)
        if result is not None:
            self._metrics.count_recovery(result)
        if session_id is None:
            return None
        return {
            "type": "session.migrate",
            "event_id": "event_recovered",
            "reason": "pod_lost",
            "deadline_ms": 0,
            "session_id": session_id,
        }

    async def _accept_and_close(
        self, request: web.Request, error: Mapping[str, Any], code: int
    ) -> web.StreamResponse:
        """Reject a browser: accept the WebSocket, send one `error` event and close."""
        response, caller = await upgrade.accept(request, self._budget, None)
        await _send_error_and_close(caller, error, code)
        return response


@web.middleware
async def _refuse_upgrades_completely(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Read nothing after a handshake that is not accepted, and close its connection."""
    if "Upgrade" not in request.headers:
        return await handler(request)
    upgrade.stop_reading(request)
    try:
        response = await handler(request)
    except web.HTTPException as answer:
        upgrade.refuse(request)
        answer.force_close()
        raise
    if response.status != HTTPStatus.SWITCHING_PROTOCOLS:
        upgrade.refuse(request)
        response.force_close()
    return response


async def _read_body(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(_BODY_S):
            return await request.read()
    except TimeoutError:
        raise errors.Rejection(
            "request_timeout", f"the body did not arrive within {_BODY_S:g} s"
        ) from None
    except web.RequestPayloadError as error:  # for example wrong gzip data
        raise errors.Rejection("invalid_query", "the body cannot be read") from error


async def _send_error_and_close(caller: Peer, error: Mapping[str, Any], code: int) -> None:
    """Send one `error` event to a caller whose WebSocket is open, then close."""
    event = {"type": "error", "event_id": "event_refused", "error": error}
    caller.send(Opcode.TEXT, json.dumps(event).encode())
    await caller.close(code, str(error.get("code", "")))


def _waiting_callers(count: int) -> str:
    return "1 caller waits for a slot" if count == 1 else f"{count} callers wait for a slot"
