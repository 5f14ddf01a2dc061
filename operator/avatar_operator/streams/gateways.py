"""Keeps what every gateway says of the callers of each service, and how old it is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from avatar_operator.core.autoscaling import capacity, observation
from avatar_operator.core.resources.gateway import Demand, Tally, parse_demand
from avatar_operator.streams import client

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from avatar_operator.core.resources.service import ServiceKey


@dataclass(slots=True)
class _Gateway:
    heard_at: float  # of the loop's clock; before the first word, when it was followed
    demand: Demand | None = None  # None: it said nothing yet


class Gateways:
    """The streams of all gateways, by UID of the pod."""

    def __init__(self, changed: Callable[[ServiceKey], None]) -> None:
        self._changed = changed
        self._streams = client.Streams(self._hear, self._hear_again)
        self._gateways: dict[str, _Gateway] = {}
        self._tally = Tally()

    def follow(self, uid: str, endpoint: client.Endpoint) -> None:
        """Read the stream of a gateway from now on; a new address starts over."""
        if self._streams.follow(uid, endpoint):
            self._gateways[uid] = _Gateway(asyncio.get_running_loop().time())

    def unfollow(self, uid: str) -> None:
        """Forget a gateway; who waited there waits no more."""
        self._streams.unfollow(uid)
        gateway = self._gateways.pop(uid, None)
        if gateway is not None:
            self._tell(gateway.demand or {}, {})

    def demand(self, key: ServiceKey) -> observation.Demand:
        """Return what all gateways together say of a service."""
        now = asyncio.get_running_loop().time()
        told = [gateway.demand or {} for gateway in self._gateways.values()]
        return observation.Demand(
            waiting=sum(demand[key].waiting for demand in told if key in demand),
            arrived=self._tally.arrived.get(key, 0),
            gateways=len(self._gateways),
            silent=sum(now - g.heard_at > capacity.STALE_S for g in self._gateways.values()),
        )

    def silent(self) -> frozenset[str]:
        """Return the gateways that are not heard of."""
        now = asyncio.get_running_loop().time()
        return frozenset(
            uid for uid, g in self._gateways.items() if now - g.heard_at > capacity.STALE_S
        )

    async def close(self) -> None:
        """End all streams."""
        await self._streams.close()

    def _hear(self, uid: str, document: Mapping[str, object]) -> None:
        demand = parse_demand(document)
        gateway = self._gateways[uid]
        before, gateway.demand = gateway.demand, demand
        gateway.heard_at = asyncio.get_running_loop().time()
        self._tally = self._tally.with_news(before, demand)
        self._tell(before or {}, demand)

    def _hear_again(self, uid: str) -> None:
        self._gateways[uid].heard_at = asyncio.get_running_loop().time()

    def _tell(self, before: Demand, after: Demand) -> None:
        for key in before.keys() | after.keys():
            if before.get(key) != after.get(key):
                self._changed(key)
