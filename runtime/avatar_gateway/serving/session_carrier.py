"""Carries one connection of a session between its caller and its pod, and measures it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from avatar_contracts import refusals
from avatar_gateway.core.frames import GOING_AWAY
from avatar_gateway.serving import proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from avatar_contracts.rate_limit import Rate
    from avatar_gateway.core.requests import SessionRequest
    from avatar_gateway.metrics import Metrics
    from avatar_gateway.serving.peer import Peer
    from avatar_gateway.serving.placement import PlacedSession, Placer
    from avatar_gateway.serving.sessions import Sessions
    from avatar_gateway.shared.metering import Meter, Segment

_KEPT_CODES: Final = refusals.RESUMABLE_CODES | {
    refusals.RESUME_REFUSED_CLOSE,
    refusals.TRY_LATER_CLOSE,
}
"""Close codes after which a pod may still have the session of a connection."""

_log = logging.getLogger(__name__)


class SessionCarrier:
    """Proxies the connections of sessions."""

    def __init__(
        self,
        placer: Placer,
        sessions: Sessions,
        metrics: Metrics,
        meter: Meter | None,
        rate: Rate,
    ) -> None:
        """`rate` bounds each direction of each connection."""
        self._placer = placer
        self._sessions = sessions
        self._metrics = metrics
        self._meter = meter
        self._rate = rate

    async def carry(
        self,
        session_request: SessionRequest,
        placed: PlacedSession,
        caller: Peer,
        on_message: Callable[[], None] = lambda: None,
    ) -> None:
        """Proxy until the session ends; `on_message` is called when the caller sends something.

        A connection that resumes and got nothing from the pod does not end the lease of the
        session: it may have asked for it without its token.
        """
        model, principal = session_request.model, session_request.principal
        can_resume = session_request.can_resume and placed.peer.resume_s > 0
        if placed.source is not None:
            self._placer.silent_pods.watch(placed.peer, placed.source)
        stop = self._sessions.start(model, principal, can_resume=can_resume)
        _log.info("session started service=%s pod=%s", model, placed.pod)
        segment = self._meter_start(session_request, placed, caller)
        may_return = True
        try:
            end = await proxy.relay(
                caller,
                placed.peer,
                stop,
                self._rate,
                on_message,
                None if placed.source is None else lambda: self._recover(placed),
            )
            got_nothing = session_request.resume is not None and not caller.forwarded_bytes
            may_return = end.code in _KEPT_CODES or got_nothing
        finally:
            if segment is not None:
                segment.finish()
            if may_return and placed.peer.resume_s and placed.lease is not None:
                placed.lease.suspend()
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

    def _meter_start(
        self,
        request: SessionRequest,
        placed: PlacedSession,
        caller: Peer,
    ) -> Segment | None:
        """Begin to measure what a connection uses."""
        if self._meter is None:
            return None
        return self._meter.start(
            request.principal.tenant_name,
            request.model,
            placed.pod,
            placed.gpu_class,
            placed.named_session,
            is_new=request.resume is None,
            count_bytes=lambda: (placed.peer.forwarded_bytes, caller.forwarded_bytes),
            record=placed.usage_record,
        )

    async def _recover(self, placed: PlacedSession) -> Mapping[str, object] | None:
        """Continue a session whose pod is lost; return the event that says where it is."""
        session_id, result = await self._placer.recover(placed)
        if result is not None:
            self._metrics.count_recovery(result)
        if session_id is None:
            return None
        if placed.lease is not None:
            placed.lease.bind(session_id)
        return {
            "type": "session.migrate",
            "event_id": "event_recovered",
            "reason": "pod_lost",
            "deadline_ms": 0,
            "session_id": session_id,
        }
