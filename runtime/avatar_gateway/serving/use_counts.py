"""Counts how often client secrets are used, over all gateways if they share their state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avatar_gateway import errors
from avatar_gateway.shared.memory import MemoryState

if TYPE_CHECKING:
    from collections.abc import Callable

    from avatar_gateway.shared.state import SharedState


class UseCounts:
    """Counts uses in the shared state, and in memory while that is away."""

    def __init__(self, state: SharedState, clock: Callable[[], float]) -> None:
        self._state = state
        self._local = MemoryState(clock)

    async def count_use(self, secret_id: str, limit: int, ttl_s: float) -> bool:
        """Count one use, and return whether it is within the limit; forget it after `ttl_s`."""
        counter = f"client-secret/{secret_id}"
        try:
            return await self._state.count_use(counter, limit, ttl_s)
        except errors.SharedStateUnavailable:
            return await self._local.count_use(counter, limit, ttl_s)
