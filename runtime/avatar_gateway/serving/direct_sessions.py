"""The sessions that clients have opened at pods themselves, as the pods report them.

Every gateway hears of all of them. It renews their leases, so that they count for the limits of
their tenants, and asks the pods to end those whose credential was revoked. A pod can report only
what a gateway has offered for it (`shared.usage_accounts`), and no more than it has room for.
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from avatar_contracts import labels
from avatar_gateway import errors
from avatar_gateway.core.tenants import ClientSecretUse, Principal, Tenant
from avatar_gateway.core.usage import PLATFORM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from avatar_gateway.core.model import Pod
    from avatar_gateway.core.usage import PlacedConnection
    from avatar_gateway.serving.pod_answers import PodRequests
    from avatar_gateway.shared.leases import HeldLease, Leases

SILENT_S: Final = 60.0
"""Time without a line of its pod after which a session is forgotten; its lease expires then."""
LONGEST_S: Final = 86_400.0
"""The longest `spec.sessions.maxDurationSeconds` of a service."""
LATE_S: Final = 60.0
"""How much longer than it may take a session counts at most, whatever its pod says."""
ASK_AGAIN_S: Final = 5.0
"""How long after a request to end a session the next one is sent, if it is still there."""
MAX_REQUESTS: Final = 16
"""Requests to pods at a time."""
_MAX_ANSWER_BYTES: Final = 4096
_REQUEST_S: Final = 3.0

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class DirectSession:
    """A session at a pod, without a gateway between them."""

    id: str
    pod: Pod
    placed: PlacedConnection
    lease: HeldLease | None
    """None for a session of the platform, which no limit counts."""
    heard_at: float
    """When its pod was heard last, seconds on the monotonic clock."""
    asked_at: float | None = None
    """When the pod was asked to end it."""

    @property
    def principal(self) -> Principal:
        """Return who opened it. The limits of the tenant are not known here."""
        tenant = self.placed.account.tenant
        secret = self.placed.secret_id
        return Principal(
            tenant=None if tenant == PLATFORM else Tenant(tenant),
            source=self.placed.source,
            client_secret=ClientSecretUse(secret, 0) if secret else None,
        )


class DirectSessions:
    """Knows the live direct sessions of all pods."""

    def __init__(
        self,
        leases: Leases,
        pods: PodRequests,
        now: Callable[[], float],
        time_s: Callable[[], float],
    ) -> None:
        """`now` returns seconds on a monotonic clock, `time_s` seconds since the epoch."""
        self._leases = leases
        self._pods = pods
        self._now = now
        self._time_s = time_s
        self._by_pod: dict[str, dict[str, DirectSession]] = {}
        """The sessions of each pod, by the uid of the pod and the ids of their records."""
        self._requests: set[asyncio.Task[None]] = set()
        self._limit = asyncio.Semaphore(MAX_REQUESTS)

    def __iter__(self) -> Iterator[DirectSession]:
        """Yield all sessions."""
        for sessions in list(self._by_pod.values()):
            yield from list(sessions.values())

    def begin(self, pod: Pod, session_id: str, placed: PlacedConnection) -> bool:
        """Count a session that a pod reports for the first time; return whether it counts.

        What no gateway has offered to this pod, what is older than it can be, and what the pod has
        no room for, counts nothing.
        """
        if not placed.is_direct or placed.pod_uid != pod.uid or self._is_over(placed):
            return False
        sessions = self._by_pod.get(pod.uid, {})
        if placed.record in sessions:
            return sessions[placed.record].id == session_id
        if len(sessions) >= max(1, placed.capacity):
            _log.warning("direct session not counted pod=%s problem=more than it can have", pod.key)
            return False
        account, lease = placed.account, None
        if account.tenant != PLATFORM:
            lease = self._leases.adopt(account.tenant, account.service, placed.record, session_id)
        session = DirectSession(session_id, pod, placed, lease, self._now())
        self._by_pod.setdefault(pod.uid, {})[placed.record] = session
        return True

    def end(self, pod: Pod, session_id: str) -> None:
        """Give up the lease of a session that has ended."""
        sessions = self._by_pod.get(pod.uid, {})
        for session in [each for each in sessions.values() if each.id == session_id]:
            self._remove(session)
            if session.lease is not None:
                session.lease.release()

    def on_line(self, pod: Pod) -> None:
        """Take note that a pod was heard."""
        for session in self._by_pod.get(pod.uid, {}).values():
            session.heard_at = self._now()

    def forget_lost(self) -> None:
        """Forget the sessions of pods that are silent, and those that can no longer be there."""
        oldest = self._now() - SILENT_S
        for session in self:
            if session.heard_at < oldest or self._is_over(session.placed):
                self._remove(session)
                if session.lease is not None:
                    self._leases.forget(session.lease)

    def ask_to_end(
        self, session: DirectSession, close_code: int, reason: str, on_ended: Callable[[], None]
    ) -> None:
        """Ask the pod of a session to end it; call `on_ended` if it does.

        All gateways ask. The pod ends the session once, and its report removes it here.
        """
        now = self._now()
        if session.asked_at is not None and now - session.asked_at < ASK_AGAIN_S:
            return
        session.asked_at = now
        task = asyncio.create_task(
            self._ask_to_end(session, close_code, reason, on_ended), name="end-direct-session"
        )
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)

    async def close(self) -> None:
        """Stop the requests to pods."""
        for task in self._requests:
            task.cancel()
        await asyncio.gather(*self._requests, return_exceptions=True)

    async def _ask_to_end(
        self, session: DirectSession, close_code: int, reason: str, on_ended: Callable[[], None]
    ) -> None:
        path = f"{labels.SESSIONS_PATH}/{session.id}/end"
        body = json.dumps({"close_code": close_code, "reason": reason}).encode()
        async with self._limit:
            try:
                answer = await self._pods.post(
                    session.pod, path, body, _MAX_ANSWER_BYTES, _REQUEST_S
                )
            except errors.PodError as error:
                _log.warning("direct session not ended pod=%s problem=%s", error.pod, error.problem)
                return
        if answer.status == 200:
            on_ended()
        else:  # 404 if it has ended, or if another gateway was first
            _log.info("direct session not ended pod=%s status=%d", session.pod.key, answer.status)

    def _is_over(self, placed: PlacedConnection) -> bool:
        longest_s = LONGEST_S if placed.longest_ms is None else placed.longest_ms / 1000
        return self._time_s() > placed.at_ms / 1000 + longest_s + LATE_S

    def _remove(self, session: DirectSession) -> None:
        sessions = self._by_pod[session.pod.uid]
        del sessions[session.placed.record]
        if not sessions:
            del self._by_pod[session.pod.uid]
