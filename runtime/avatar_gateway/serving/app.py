"""The sessions port: `/v1/realtime`, client secrets, the page and the probes."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aiohttp import WSMsgType, web

from avatar_gateway import errors
from avatar_gateway.core import credentials, refusals, requests
from avatar_gateway.core.wait_queue import WORTH
from avatar_gateway.serving import placement, proxy
from avatar_gateway.serving.wait_queue import Waiting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from avatar_gateway.metrics import Metrics
    from avatar_gateway.serving.auth import Door
    from avatar_gateway.serving.sessions import Sessions

    Query = Sequence[tuple[str, str]]

logger = logging.getLogger(__name__)

PAGE: Final = Path(__file__).with_name("page") / "index.html"
_REALTIME: Final = "realtime"
_PASSED_ON: Final = ("OpenAI-Beta",)
"""Headers of the caller that a pod needs; a credential is never among them."""
_FAULT: Final = 1011
_CLOSE_S: Final = 5.0
"""How long a caller may take to answer a close."""


class Gateway:
    """Handles the requests of the sessions port."""

    def __init__(
        self,
        door: Door,
        placer: placement.Placer,
        sessions: Sessions,
        metrics: Metrics,
        is_synced: Callable[[], bool],
    ) -> None:
        self._door = door
        self._placer = placer
        self._sessions = sessions
        self._waiting = Waiting(sessions)
        self._metrics = metrics
        self._is_synced = is_synced

    def application(self) -> web.Application:
        """Return the application to serve."""
        application = web.Application()
        application.add_routes(
            [
                web.get("/v1/realtime", self.realtime),
                web.post("/v1/realtime/client_secrets", self.client_secrets),
                web.get("/healthz", self.healthz),
                web.get("/readyz", self.readyz),
                web.get("/", self.page),
            ]
        )
        return application

    async def healthz(self, _: web.Request) -> web.Response:
        """Answer as long as the loop runs."""
        return web.json_response({"ok": True})

    async def readyz(self, _: web.Request) -> web.Response:
        """Answer 200 once services and pods are known, and until the gateway is to go."""
        ready = self._is_synced() and not self._sessions.draining
        return web.json_response({"ready": ready}, status=200 if ready else 503)

    async def page(self, _: web.Request) -> web.StreamResponse:
        """Serve the page that shows a face."""
        return web.FileResponse(PAGE, headers={"Cache-Control": "no-cache"})

    async def client_secrets(self, request: web.Request) -> web.Response:
        """Make a short-lived secret for a browser."""
        query = list(request.query.items())
        try:
            self._door.check_url(query)
            self._door.admit(request.headers, (), None)
            return web.json_response(
                self._door.client_secret(await request.read()),
                headers={"Cache-Control": "no-store"},
            )
        except errors.Refusal as refusal:
            self._metrics.rejected(refusal.code)
            return refused(refusal)

    async def realtime(self, request: web.Request) -> web.StreamResponse:
        """Authenticate, place and proxy one session."""
        query = list(request.query.items())
        offered = _offered(request)
        try:
            asked = self._check(request, query, offered)
            placed = await self._place(asked, request, offered)
        except errors.Refusal as refusal:
            self._metrics.rejected(refusal.code)
            way = refusals.way(refusal.code)
            if way.close is None or not requests.refuses_by_close(query):
                return refused(refusal)
            return await _close(request, offered, refusals.error_object(refusal), way.close)
        except errors.PodAnswer as answer:
            self._metrics.rejected("pod")
            if not requests.refuses_by_close(query):
                return web.Response(status=answer.status, body=answer.body, headers=answer.headers)
            code = refusals.close_for_status(answer.status)
            return await _close(request, offered, answer.error, code)
        if placed is None:
            return await self._wait(asked, request, offered)
        caller = _socket(offered, placed.socket.protocol)
        return await self._hold(asked.model, placed, caller, caller.prepare(request))

    def _check(self, request: web.Request, query: Query, offered: Sequence[str]) -> requests.Asked:
        # With what was offered, so that the library finds nothing to complain of in its log.
        if not web.WebSocketResponse(protocols=offered).can_prepare(request):
            raise errors.Refusal("upgrade_required", "this address speaks WebSocket only")
        self._door.check_url(query)
        # An unauthenticated caller learns nothing but that, whatever else is wrong.
        self._door.admit(request.headers, offered, dict(query).get("model", ""))
        return requests.parse(query)

    async def _place(
        self, asked: requests.Asked, request: web.Request, offered: Sequence[str]
    ) -> placement.Placed | None:
        """Return the caller's session, None if it has to wait for one."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        if self._sessions.draining:
            raise errors.Refusal("draining", "this gateway is about to go")
        if not self._is_synced():
            raise errors.Refusal("not_ready", "this gateway does not know the pods yet")
        line = self._waiting.line(asked.model)
        try:
            if line.tickets:
                raise errors.Refusal("no_capacity", f"{len(line.tickets)} callers wait for a slot")
            placed = await self._ask(asked, request, offered)
        except errors.Refusal as refusal:
            if refusal.code != "model_not_found":
                self._sessions.arrived(asked.model, begun)
                if asked.wait_ms and refusal.code in WORTH and not line.is_full:
                    return None
                self._sessions.rejected(asked.model)
            raise
        self._sessions.arrived(asked.model, begun)
        self._metrics.placed(loop.time() - begun)
        return placed

    async def _ask(
        self, asked: requests.Asked, request: web.Request, offered: Sequence[str]
    ) -> placement.Placed:
        passed = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        protocols = [name for name in offered if not name.startswith(credentials.PROTOCOL_PREFIX)]
        return await self._placer.place(asked, protocols, passed)

    async def _wait(
        self, asked: requests.Asked, request: web.Request, offered: Sequence[str]
    ) -> web.StreamResponse:
        """Hold a caller until a slot comes free; from now on refusals are an event and a close."""
        caller = _socket(offered, None)
        begun = asyncio.get_running_loop().time()
        try:
            await caller.prepare(request)
            turn = await self._waiting.turn(
                caller, asked, lambda: self._ask(asked, request, offered)
            )
        except errors.Refusal as refusal:
            self._sessions.rejected(asked.model)
            self._metrics.rejected(refusal.code)
            code = refusals.way(refusal.code).close or _FAULT
            return await _end(caller, refusals.error_object(refusal), code)
        except errors.PodAnswer as answer:
            self._metrics.rejected("pod")
            return await _end(caller, answer.error, refusals.close_for_status(answer.status))
        except ConnectionError:
            return caller
        self._metrics.placed(asyncio.get_running_loop().time() - begun)

        async def hand_over() -> None:
            if turn.first is not None:
                await turn.placed.socket.send_frame(turn.first.data, turn.first.type)

        return await self._hold(asked.model, turn.placed, caller, hand_over())

    async def _hold(
        self,
        model: str,
        placed: placement.Placed,
        caller: web.WebSocketResponse[bool],
        opening: Awaitable[object],
    ) -> web.StreamResponse:
        """Proxy a session from `opening`, which makes both sides ready, to its end."""
        stop = self._sessions.begin(model)
        logger.info("session begins service=%s pod=%s", model, placed.pod)
        try:
            await opening
            end = await proxy.relay(caller, placed.socket, stop)
        except ConnectionError:
            end = proxy.End(proxy.Side.CALLER, 1001, "gone before the session began")
        finally:
            # Also on the way out of a cancelled request: the pod's slot must become free.
            await placed.socket.close(code=1001)
            self._placer.withdraw(placed)
            self._sessions.end(model, stop)
        logger.info(
            "session ends service=%s pod=%s by=%s code=%d",
            model,
            placed.pod,
            end.side.value,
            end.code,
        )
        return caller


def _offered(request: web.Request) -> Sequence[str]:
    lines = request.headers.getall("Sec-WebSocket-Protocol", [])
    return [name.strip() for line in lines for name in line.split(",") if name.strip()]


def _socket(offered: Sequence[str], chosen: str | None) -> web.WebSocketResponse[bool]:
    """Return the caller's side; it answers with what the pod chose, else with `realtime`.

    A browser fails the connection if it offered protocols and none is chosen.
    """
    answer = chosen or (_REALTIME if _REALTIME in offered else None)
    return web.WebSocketResponse(
        protocols=() if answer is None else (answer,),
        compress=False,
        heartbeat=placement.HEARTBEAT_S,
        max_msg_size=placement.MAX_MESSAGE_BYTES + 1,
        timeout=_CLOSE_S,
        decode_text=False,
    )


def refused(refusal: errors.Refusal) -> web.Response:
    """Return the HTTP answer to a caller turned away before the upgrade."""
    way = refusals.way(refusal.code)
    return web.json_response(
        {"error": refusals.error_object(refusal)}, status=way.status, headers=dict(way.headers)
    )


async def _close(
    request: web.Request, offered: Sequence[str], error: Mapping[str, Any], code: int
) -> web.StreamResponse:
    """Tell a browser: accept, one `error`, close."""
    caller = _socket(offered, None)
    await caller.prepare(request)
    return await _end(caller, error, code)


async def _end(
    caller: web.WebSocketResponse[bool], error: Mapping[str, Any], code: int
) -> web.StreamResponse:
    """Tell a caller that was accepted: one `error`, close."""
    event = {"type": "error", "event_id": "event_refused", "error": error}
    await caller.send_frame(json.dumps(event).encode(), WSMsgType.TEXT)
    await caller.close(code=code, message=str(error.get("code", "")).encode()[:120])
    return caller
