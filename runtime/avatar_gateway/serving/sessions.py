"""The sessions a gateway holds, and the demand it sees, by service."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from avatar_gateway.core.arrivals import Arrivals
from avatar_gateway.serving import proxy

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Demand:
    """What one service sees at this gateway."""

    sessions: int = 0
    waiting: int = 0
    arrivals_total: int = 0
    rejected_total: int = 0
    arrivals: Arrivals = field(default_factory=Arrivals)


class Sessions:
    """Counts, and the means to end what is left when the gateway has to go."""

    def __init__(self) -> None:
        self.draining = False
        self._demand: dict[str, Demand] = {}
        self._stops: set[asyncio.Future[proxy.End]] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._sequence = 0
        self._changed = asyncio.Event()

    @property
    def live(self) -> int:
        """Return the number of sessions proxied now."""
        return len(self._stops)

    @property
    def waiting(self) -> int:
        """Return the number of callers who wait now."""
        return sum(demand.waiting for demand in self._demand.values())

    def wait(self, service: str, callers: int) -> None:
        """Note how many callers wait for a slot of a service."""
        demand = self._of(service)
        if demand.waiting != callers:
            self._set(service, replace(demand, waiting=callers))

    def arrived(self, service: str, now: float) -> None:
        """Count an authenticated caller that asks for a service that exists."""
        demand = self._of(service)
        total = demand.arrivals_total + 1
        arrivals = demand.arrivals.with_one(now)
        self._set(service, replace(demand, arrivals=arrivals, arrivals_total=total))

    def rejected(self, service: str) -> None:
        """Count a caller turned away for want of room."""
        demand = self._of(service)
        self._set(service, replace(demand, rejected_total=demand.rejected_total + 1))

    def begin(self, service: str) -> asyncio.Future[proxy.End]:
        """Count a session; the future ends it when it is set."""
        stop: asyncio.Future[proxy.End] = asyncio.get_running_loop().create_future()
        self._stops.add(stop)
        self._empty.clear()
        demand = self._of(service)
        self._set(service, replace(demand, sessions=demand.sessions + 1))
        return stop

    def end(self, service: str, stop: asyncio.Future[proxy.End]) -> None:
        """Count a session that is over."""
        self._stops.discard(stop)
        stop.cancel()
        if not self._stops:
            self._empty.set()
        demand = self._of(service)
        self._set(service, replace(demand, sessions=demand.sessions - 1))

    async def drain(self, timeout_s: float) -> int:
        """Take no more sessions, wait until none is left, and end those that outlast the time.

        Returns how many had to be ended.
        """
        self.draining = True
        self._touch()
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        except TimeoutError:
            left = list(self._stops)
            for stop in left:
                stop.set_result(proxy.End(proxy.Side.GATEWAY, 1012, "the gateway restarts"))
            await self._empty.wait()
            return len(left)
        return 0

    async def wait_for_change(self, sequence: int, timeout_s: float) -> None:
        """Wait until the state is newer than `sequence`, or the time is up."""
        if self._sequence != sequence:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return

    def state(self, pod: str, services: frozenset[str], now: float) -> Mapping[str, Any]:
        """Return the document of `/control/v1/state`.

        A service that is gone leaves it with its last session.
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
            "sequence": self._sequence,
        }

    def _of(self, service: str) -> Demand:
        return self._demand.get(service, Demand())

    def _set(self, service: str, demand: Demand) -> None:
        self._demand[service] = demand
        self._touch()

    def _touch(self) -> None:
        self._sequence += 1
        self._changed.set()
        self._changed = asyncio.Event()
