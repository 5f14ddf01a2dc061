"""Counts the uses of client secrets over all gateways."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from avatar_gateway import errors
from avatar_gateway.core.use_counts import LocalUseCounts

if TYPE_CHECKING:
    from collections.abc import Callable

    from avatar_gateway.shared.state import SharedState

_log = logging.getLogger(__name__)


class SharedUseCounts:
    """Counts in the shared state; while it is away, this gateway counts alone."""

    def __init__(self, state: SharedState, clock: Callable[[], float]) -> None:
        """`clock` returns seconds since the epoch."""
        self._state = state
        self._alone = LocalUseCounts(clock)

    async def count_use(self, use_id: str, limit: int, ttl_s: int) -> bool:
        """Count one use, and return whether it is within the limit; forget it after `ttl_s`."""
        try:
            return await self._state.count_use(use_id, limit, ttl_s)
        except errors.SharedStateUnavailable as error:
            _log.debug("use of a client secret counted here only: %s", error)
            return await self._alone.count_use(use_id, limit, ttl_s)
