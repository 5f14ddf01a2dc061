"""The live sessions of this gateway, and the demand for each service."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from avatar_gateway.core.arrivals import Arrivals
from avatar_gateway.core.tenants import PLATFORM, Principal
from avatar_gateway.serving import proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from avatar_contracts.state import DemandDocument, SharedStateName

_log = logging.getLogger(__name__)

CLOSE_TIMEOUT_S: Final = 15.0
"""How long a drain waits for the sessions that it ended.

Each side of a session gets 5 s to answer a close, first the relay's and then the pod's. The
chart's terminationGracePeriodSeconds leaves 30 s after the drain timeout.
"""


_HANDOVER_SESSIONS: Final = 50
"""Sessions that are handed over at a time: the callers of all come to the other gateways."""
_HANDOVER_S: Final = 0.05
_NEW_S: Final = 2.0
"""Age at which a session is handed over: its caller has the token with which it resumes."""


@dataclass(frozen=True, slots=True)
class Demand:
    """The demand for one service at this gateway."""

    sessions: int = 0
    waiting: int = 0
    arrivals_total: int = 0
    rejected_total: int = 0
    arrivals: Arrivals = field(default_factory=Arrivals)


@dataclass(frozen=True, slots=True)
class LiveSession:
    """A session that is proxied now."""

    service: str
    principal: Principal
    ready_at: float | None
    """From when on it can be handed over, seconds on the event loop's clock; None if it cannot."""
    started_at: float
    """When it began or was resumed, seconds on the event loop's clock."""


class Sessions:
    """Counts sessions, and ends those that outlast the drain."""

    def __init__(self) -> None:
        self.leaving = False
        """Whether the gateway shuts down; it is not ready, but may still accept sessions."""
        self.draining = False
        """Whether the gateway accepts no more sessions."""
        self.shared_state: Callable[[], SharedStateName] = lambda: "none"
        """Returns whether the gateways count together, for the state document."""
        self.waiting = 0
        """Callers that wait now, of all services."""
        self._demand: dict[str, Demand] = {}
        self._stops: dict[asyncio.Future[proxy.End], LiveSession] = {}
        self._empty = asyncio.Event()
        self._empty.set()
        self._sequence = 0
        self._changed = asyncio.Event()

    @property
    def live(self) -> int:
        """Return the number of sessions that are proxied now."""
        return len(self._stops)

    def set_waiting(self, service: str, callers: int) -> None:
        """Set how many callers that wait for a slot of a service count as demand."""
        demand = self._demand_of(service)
        if demand.waiting != callers:
            self._set(service, replace(demand, waiting=callers))

    def record_arrival(self, service: str, now: float) -> None:
        """Count an authenticated caller that requests an existing service."""
        demand = self._demand_of(service)
        total = demand.arrivals_total + 1
        arrivals = demand.arrivals.with_one(now)
        self._set(service, replace(demand, arrivals=arrivals, arrivals_total=total))

    def record_rejection(self, service: str) -> None:
        """Count a caller that was rejected because no slot was free."""
        demand = self._demand_of(service)
        self._set(service, replace(demand, rejected_total=demand.rejected_total + 1))

    @property
    def live_sessions(self) -> Mapping[asyncio.Future[proxy.End], LiveSession]:
        """Return the live sessions by their futures, the oldest first; setting the result of one
        ends its session."""
        return self._stops

    def start(
        self, service: str, principal: Principal = PLATFORM, *, can_resume: bool = False
    ) -> asyncio.Future[proxy.End]:
        """Count a new session and return a future; setting its result ends the session.

        `can_resume` is whether its caller continues it through another gateway when this one ends
        the connection.
        """
        stop: asyncio.Future[proxy.End] = asyncio.get_running_loop().create_future()
        now = asyncio.get_running_loop().time()
        ready_at = now + _NEW_S if can_resume else None
        self._stops[stop] = LiveSession(service, principal, ready_at, now)
        self._empty.clear()
        demand = self._demand_of(service)
        self._set(service, replace(demand, sessions=demand.sessions + 1))
        return stop

    def finish(self, service: str, stop: asyncio.Future[proxy.End]) -> None:
        """Count the end of a session."""
        self._stops.pop(stop, None)
        stop.cancel()
        if not self._stops:
            self._empty.set()
        demand = self._demand_of(service)
        self._set(service, replace(demand, sessions=demand.sessions - 1))

    async def drain(self, timeout_s: float, close_timeout_s: float = CLOSE_TIMEOUT_S) -> int:
        """Accept no more sessions, hand over the live ones, and end those that outlast the drain.

        A session whose caller can resume goes on through another gateway: its connections end now,
        and its pod holds it. The others stay until they end. The drain takes at most
        `timeout_s + close_timeout_s` seconds, even if a session does not end: its connections then
        close with the process.

        Returns:
            The number of sessions that the gateway had to end.
        """
        self.leaving = self.draining = True
        self._notify()
        if await self._hand_over_and_wait(timeout_s):
            return 0
        remaining = list(self._stops)
        for stop in remaining:
            _restart(stop)
        if not await self._wait_until_empty(close_timeout_s):
            _log.warning(
                "drain timed out, sessions did not end sessions=%d timeout_s=%g",
                self.live,
                close_timeout_s,
            )
        return len(remaining)

    async def wait_for_change(self, sequence: int, timeout_s: float) -> None:
        """Wait until the state is newer than `sequence`, at most `timeout_s` seconds."""
        if self._sequence != sequence:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return

    def state(self, pod: str, services: frozenset[str], now: float) -> DemandDocument:
        """Return the document of `/control/v1/state`.

        A deleted service stays in the document until its last session ends.
        """
        for name in [
            name
            for name, demand in self._demand.items()
            if name not in services and not demand.sessions and not demand.waiting
        ]:
            del self._demand[name]
        return {
            "pod": pod,
            "services": {
                name: {
                    "sessions": demand.sessions,
                    "waiting": demand.waiting,
                    "arrivals_per_s": demand.arrivals.per_s(now),
                    "arrivals_total": demand.arrivals_total,
                    "rejected_total": demand.rejected_total,
                }
                for name, demand in sorted(self._demand.items())
            },
            "tenants": {},
            "shared_state": self.shared_state(),
            "sequence": self._sequence,
        }

    async def _hand_over_and_wait(self, timeout_s: float) -> bool:
        """Hand over the sessions that can be, and return whether all have ended in time."""
        handover = asyncio.create_task(self._hand_over(), name="handover")
        try:
            return await self._wait_until_empty(timeout_s)
        finally:
            handover.cancel()

    async def _hand_over(self) -> None:
        loop, sessions = asyncio.get_running_loop(), 0
        for stop, session in list(self._stops.items()):
            ready_at = session.ready_at
            if ready_at is None:
                continue
            sessions += 1
            if ready_at > loop.time():
                await asyncio.sleep(ready_at - loop.time())
            elif sessions % _HANDOVER_SESSIONS == 0:
                await asyncio.sleep(_HANDOVER_S)
            _restart(stop)
        _log.info("handed over sessions=%d", sessions)

    async def _wait_until_empty(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def _demand_of(self, service: str) -> Demand:
        return self._demand.get(service, Demand())

    def _set(self, service: str, demand: Demand) -> None:
        self._demand[service] = demand
        self._notify()

    def _notify(self) -> None:
        self._sequence += 1
        self._changed.set()
        self._changed = asyncio.Event()


def _restart(stop: asyncio.Future[proxy.End]) -> None:
    """End the connections of a session, unless they have ended."""
    if not stop.done():
        stop.set_result(proxy.End(proxy.Side.GATEWAY, 1012, "the gateway restarts"))
