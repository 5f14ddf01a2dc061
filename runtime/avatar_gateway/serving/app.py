"""The sessions port: `/v1/realtime`, client secrets, the demo page and the probes."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from avatar_contracts import refusals
from avatar_contracts.rate_limit import Rate
from avatar_gateway import errors
from avatar_gateway.core import rejections, requests, wait_queue
from avatar_gateway.core.demand import DemandLimiter
from avatar_gateway.core.frames import NORMAL, Opcode
from avatar_gateway.serving import answers, audit, page, probes, upgrade
from avatar_gateway.serving.access import Access
from avatar_gateway.serving.avatars import Avatars
from avatar_gateway.serving.bodies import read_body
from avatar_gateway.serving.connection import connection_of
from avatar_gateway.serving.direct import Direct
from avatar_gateway.serving.models import Models
from avatar_gateway.serving.request_guard import RequestGuard
from avatar_gateway.serving.session_carrier import SessionCarrier
from avatar_gateway.serving.session_opener import FORWARDED_HEADERS, SessionOpener
from avatar_gateway.serving.wait_queue import WaitQueues

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from avatar_gateway.core.memory_budget import MemoryBudget
    from avatar_gateway.metrics import Metrics
    from avatar_gateway.serving import placement
    from avatar_gateway.serving.auth import Authenticator
    from avatar_gateway.serving.peer import Peer
    from avatar_gateway.serving.sessions import Sessions
    from avatar_gateway.settings import Limits
    from avatar_gateway.shared.leases import Leases
    from avatar_gateway.shared.metering import Meter
    from avatar_gateway.shared.waiting import SharedQueue
    from avatar_gateway.tenant_registry import TenantRegistry

    Query = Sequence[tuple[str, str]]
    Connect = Callable[
        [requests.SessionRequest, Sequence[str], Mapping[str, str]],
        Awaitable[placement.PlacedSession],
    ]

_log = logging.getLogger(__name__)

_INTERNAL_ERROR: Final = 1011


class Gateway:
    """Handles the requests of the sessions port."""

    def __init__(
        self,
        authenticator: Authenticator,
        tenants: TenantRegistry,
        placer: placement.Placer,
        sessions: Sessions,
        metrics: Metrics,
        is_synced: Callable[[], bool],
        limits: Limits,
        budget: MemoryBudget,
        audit_log: audit.AuditLog,
        leases: Leases,
        meter: Meter | None = None,
        shared_queue: Callable[[str], SharedQueue | None] = lambda _service: None,
        direct_url: str = "",
    ) -> None:
        """`shared_queue` returns the order in which all gateways serve the callers of a service."""
        self._meter = meter
        self._leases = leases
        self._authenticator = authenticator
        self._placer = placer
        self._sessions = sessions
        self._access = Access(tenants, lambda: placer.services)
        self._demand = DemandLimiter(
            sessions.set_waiting,
            self._usage,
            lambda tenant: leases.overview.waiting.get(tenant, {}),
        )
        leases.waiting = self._demand.waiting
        self._queues = WaitQueues(
            sessions,
            placer.end_session,
            limits.held_bytes,
            self._demand,
            lambda request: placer.has_room(self._access.current(request)),
            shared_queue,
        )
        rate = Rate(limits.frames_per_s, limits.bytes_per_s)
        self._carrier = SessionCarrier(placer, sessions, metrics, meter, rate)
        self._budget = budget
        self._metrics = metrics
        self._is_synced = is_synced
        self._guard = RequestGuard(authenticator, metrics, audit_log)
        self._opener = SessionOpener(authenticator, self._access, placer, self._leases)
        self._avatars = Avatars(self._guard, self._access, placer)
        self._direct = Direct(
            direct_url, self._guard, authenticator, placer, self._admit_direct, leases, meter
        )
        metrics.watch_snapshots(lambda: placer.snapshots.nbytes)
        placer.snapshots.on_evicted = metrics.count_evicted_snapshot
        self.models = Models(self._guard, self._access)

    def application(self) -> web.Application:
        """Return the application to serve."""
        application = web.Application(middlewares=[upgrade.refuse_completely])
        application.add_routes(
            [
                *(web.get(path, self.realtime) for path in requests.PATHS),
                web.get("/v1/models", self.models.list),
                web.get("/v1/models/{name:.+}", self.models.retrieve),
                web.post("/v1/realtime/client_secrets", self.client_secrets),
                *probes.routes(lambda: self.is_ready),
                *self._avatars.routes(),
                *self._direct.routes(),
                *page.routes(),
            ]
        )
        return application

    def tenant_waiting(self, tenant: str) -> int:
        """Return how many callers of a tenant wait here."""
        return self._queues.tenant_waiting(tenant)

    @property
    def is_ready(self) -> bool:
        """Whether services and pods are known and the gateway does not shut down."""
        return self._is_synced() and not self._sessions.leaving

    async def client_secrets(self, request: web.Request) -> web.Response:
        """Create a short-lived client secret for a browser."""
        try:
            principal = await self._guard.identify(request)
            body = await read_body(request)
            made = self._authenticator.create_client_secret(principal, body)
            model, secret_id = made["session"]["model"], made["avatar"]["id"]
            self._guard.record_action(request, "create client secret", model, secret_id)
            return web.json_response(made, headers={"Cache-Control": "no-store"})
        except errors.Rejection as rejection:
            return self._guard.refuse(request, rejection)

    async def realtime(self, request: web.Request) -> web.StreamResponse:
        """Authenticate, place and proxy one session."""
        query = list(request.query.items())
        try:
            session_request = await self._check(request, query)
            placed = await self._place(session_request, request)
        except errors.Rejection as rejection:
            self._guard.record_refusal(request, rejection, dict(query).get("model", ""))
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
        with self._demand.session(session_request.principal, session_request.model):
            await self._carrier.carry(
                session_request, placed, caller, connection_of(request).message_arrived
            )
        return response

    async def _check(self, request: web.Request, query: Query) -> requests.SessionRequest:
        if not upgrade.is_upgrade(request):
            raise errors.Rejection("upgrade_required", "this address accepts only WebSocket")
        if not upgrade.has_valid_key(request):
            raise errors.Rejection(
                "invalid_handshake",
                "the header Sec-WebSocket-Key must occur once and be 16 bytes in base64",
                param="Sec-WebSocket-Key",
            )
        for name in ("Sec-WebSocket-Protocol", *FORWARDED_HEADERS):
            if not all(value.isascii() for value in request.headers.getall(name, [])):
                raise errors.Rejection(
                    "invalid_query", f"the header {name} must be ASCII", param=name
                )
        # Authentication precedes every other check: an unauthenticated caller learns nothing else.
        offered = upgrade.offered_subprotocols(request)
        model = dict(query).get("model", "")
        principal = await self._guard.identify(request, model, offered)
        parsed = requests.parse(query, request.path, connection_of(request).caller)
        return replace(parsed, principal=principal)

    async def _place(
        self,
        session_request: requests.SessionRequest,
        request: web.Request,
    ) -> placement.PlacedSession | None:
        """Return the session on a pod, or None if the caller has to wait for a slot."""
        started = asyncio.get_running_loop().time()
        self._check_state()
        self._access.check_request(session_request)
        model = session_request.model
        if session_request.resume is not None:
            return await self._opener.resume(session_request, request)
        principal = session_request.principal
        try:
            if callers := await self._queues.callers_before(model, principal):
                raise errors.Rejection("no_capacity", _waiting_callers(callers))
            placed = await self._opener.open(session_request, request)
        except errors.Rejection as rejection:
            may_wait = session_request.wait_ms and wait_queue.is_temporary(rejection)
            if may_wait and self._queues.accepts(model, principal):
                return None  # the queue records the arrival
            if rejection.code not in ("model_not_found", "quota_exceeded"):
                self._record_arrival(session_request, started)
                self._sessions.record_rejection(model)
            if rejection.code != "model_not_found":
                self._count_refused(session_request)
            raise
        self._record_arrival(session_request, started)
        self._metrics.observe_placement(asyncio.get_running_loop().time() - started)
        return placed

    async def _admit_direct(self, session_request: requests.SessionRequest) -> None:
        """Refuse a session without a gateway as `_place` refuses others, and count its arrival."""
        model, now = session_request.model, asyncio.get_running_loop().time()
        self._check_state()
        self._access.check_request(session_request)
        try:
            if callers := await self._queues.callers_before(model, session_request.principal):
                raise errors.Rejection("no_capacity", _waiting_callers(callers))
            self._placer.check_room(session_request)
        except errors.Rejection:
            self._sessions.record_rejection(model)
            raise
        finally:
            self._record_arrival(session_request, now)

    def _check_state(self) -> None:
        if self._sessions.draining:
            raise errors.Rejection("draining", "this gateway is shutting down")
        if not self._is_synced():
            raise errors.Rejection("not_ready", "this gateway has not listed the pods yet")

    def _usage(self, tenant: str) -> Mapping[str, int]:
        """Return the sessions of a tenant at all gateways, as they were some seconds ago."""
        found = self._leases.overview.tenants.get(tenant)
        return {} if found is None else found.by_service

    def _record_arrival(self, session_request: requests.SessionRequest, now: float) -> None:
        """Count an arrival as far as the limits of its tenant permit."""
        if self._demand.counts_arrival(session_request.principal, session_request.model, now):
            self._sessions.record_arrival(session_request.model, now)

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
                caller, session_request, lambda: self._opener.open(session_request, request)
            )
        except errors.Rejection as rejection:
            if rejection.code in wait_queue.RETRYABLE_CODES:
                self._sessions.record_rejection(model)
            self._guard.record_refusal(request, rejection, model)
            self._count_refused(session_request)
            code = rejections.mapping_of(rejection.code).close_code or _INTERNAL_ERROR
            await _send_error_and_close(caller, rejections.error_object(rejection), code)
        except errors.PodRejection as rejection:
            self._metrics.count_rejection("pod")
            code = rejections.close_code_for_status(rejection.status)
            await _send_error_and_close(caller, rejection.error, code)
        except ConnectionError:
            await caller.close(NORMAL)
        else:
            caller.take_over()
            self._metrics.observe_placement(asyncio.get_running_loop().time() - started)
            with self._demand.session(session_request.principal, model):
                await self._carrier.carry(session_request, placed, caller)
        return response

    async def _accept(
        self, request: web.Request, placed: placement.PlacedSession
    ) -> tuple[web.StreamResponse, Peer]:
        """Accept the WebSocket of a caller whose session a pod accepted."""
        try:
            response, caller = await upgrade.accept(request, self._budget, placed.peer.subprotocol)
        except BaseException:
            await self._placer.end_session(placed)
            raise
        caller.take_over()
        return response, caller

    def _count_refused(self, request: requests.SessionRequest) -> None:
        if self._meter is not None:
            self._meter.reject(request.principal.tenant_name, request.model)

    async def _accept_and_close(
        self, request: web.Request, error: Mapping[str, Any], code: int
    ) -> web.StreamResponse:
        """Reject a browser: accept the WebSocket, send one `error` event and close."""
        response, caller = await upgrade.accept(request, self._budget, None)
        await _send_error_and_close(caller, error, code)
        return response


async def _send_error_and_close(caller: Peer, error: Mapping[str, Any], code: int) -> None:
    """Send one `error` event to a caller whose WebSocket is open, then close."""
    event = {"type": "error", "event_id": "event_refused", "error": error}
    caller.send(Opcode.TEXT, json.dumps(event).encode())
    await caller.close(code, str(error.get("code", "")))


def _waiting_callers(count: int) -> str:
    return "1 caller waits for a slot" if count == 1 else f"{count} callers wait for a slot"
