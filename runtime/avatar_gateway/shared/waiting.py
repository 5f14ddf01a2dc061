"""The fair order of the callers that wait at all gateways, in Redis or Valkey.

`scripts/queue.lua` is `core.fair_queue` in the same arithmetic. A caller belongs to its gateway,
which polls; the callers of a gateway that has not polled for `TTL_MS` are skipped and removed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from avatar_gateway.core.fair_queue import FairQueue, FlowState, Share
from avatar_gateway.shared.connection import load_script
from avatar_gateway.shared.redis import RedisState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from avatar_gateway.shared.connection import Connection
    from avatar_gateway.shared.state import SharedState

TTL_MS: Final = 3000
BATCH: Final = 100
"""Callers in one call, so that the server is never busy for long."""
_QUEUE: Final = load_script("queue")


@dataclass(frozen=True, slots=True)
class Turn:
    """What a poll of a gateway finds."""

    caller: str | None
    """The next caller if it is one of this gateway; None if it is another gateway's turn."""
    known: int
    """Callers of this gateway in the queue; another number than expected if some were lost."""


def shared_queue(state: SharedState, service: str, gateway: str) -> SharedQueue | None:
    """Return the queue of a service in a state that several gateways share."""
    if isinstance(state, RedisState):
        return SharedQueue(state.connection, service, gateway)
    return None


class SharedQueue:
    """The queue of one service. Every method raises `SharedStateUnavailable` without an answer."""

    def __init__(self, connection: Connection, service: str, gateway: str) -> None:
        """`gateway` is a name that no other process uses."""
        self._connection = connection
        self._key = f"queue:{service}"
        self._gateway = gateway

    async def poll(self, joining: Mapping[str, Share], leaving: Sequence[str]) -> Turn:
        """Add and remove callers of this gateway, and return whose turn it is.

        Callers that are known are not added twice.
        """
        found, known = "", 0
        for left, new in _batches(list(leaving), list(joining.items())):
            words: list[object] = [len(left), *map(self._full, left)]
            for caller, share in new:
                words += [self._full(caller), share.tenant, share.weight, share.priority]
            found, known = await self._run("poll", self._gateway, TTL_MS, *words)
        gateway, _, caller = found.rpartition("/")
        return Turn(caller if gateway == self._gateway else None, int(known))

    async def before(self, share: Share) -> tuple[bool, int]:
        """Return whether a new caller has to wait behind another one, and how many callers wait."""
        found, callers = await self._run("before", share.tenant, share.priority)
        return bool(found), int(callers)

    async def grant(self, caller: str) -> None:
        """Remove a caller that got a slot, and charge its tenant for it."""
        await self._run("grant", self._full(caller))

    async def set_aside(self, tenant: str, seconds: float) -> None:
        """Skip a tenant at all gateways for some time."""
        await self._run("aside", tenant, round(1000 * seconds))

    async def resume(self, tenant: str) -> None:
        """Let a tenant that was set aside take part again."""
        await self._run("resume", tenant)

    async def places(self, callers: Mapping[str, str]) -> Mapping[str, tuple[int, int]]:
        """Return the place and the rank of callers of this gateway, whose tenants are given.

        The place is the position in the whole queue from 1, the rank that among the callers of the
        tenant from 0. Callers that are not in the queue are left out.
        """
        flows, levels, ranks = await self._run("snapshot", *map(self._full, callers))
        copy = FairQueue.restore(
            [
                FlowState(
                    Share(tenant, int(weight), int(priority)),
                    float(start),
                    takes_part=bool(int(part)),
                    is_set_aside=bool(int(aside)),
                    callers=int(count),
                )
                for tenant, weight, priority, start, part, aside, count in flows
            ],
            {int(priority): float(virtual) for priority, virtual in levels},
        )
        places = copy.places()
        return {
            caller: (places[f"{tenant}/{rank}"], int(rank))
            for (caller, tenant), rank in zip(callers.items(), ranks, strict=True)
            if f"{tenant}/{rank}" in places
        }

    def _full(self, caller: str) -> str:
        return f"{self._gateway}/{caller}"

    async def _run(self, *words: object) -> Any:
        return await self._connection.run(_QUEUE, [self._key], words)


def _batches(
    leaving: Sequence[str], joining: Sequence[tuple[str, Share]]
) -> Iterator[tuple[Sequence[str], Sequence[tuple[str, Share]]]]:
    """Return leaving and joining callers, `BATCH` at a time; at least one batch, maybe empty."""
    for at in range(0, max(1, len(leaving), len(joining)), BATCH):
        yield leaving[at : at + BATCH], joining[at : at + BATCH]
