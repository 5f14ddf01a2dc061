from __future__ import annotations

from avatar_gateway import errors
from avatar_gateway.serving.use_counts import UseCounts
from avatar_gateway.shared.memory import MemoryState


class Unavailable(MemoryState):
    """A shared state that can be away."""

    away = False

    async def count_use(self, counter: str, limit: int, ttl_s: float) -> bool:
        """See `SharedState`."""
        if self.away:
            raise errors.SharedStateUnavailable("TimeoutError")
        return await super().count_use(counter, limit, ttl_s)


async def test_uses_are_bounded_while_the_shared_state_is_away() -> None:
    state = Unavailable(lambda: 0.0)
    uses = UseCounts(state, lambda: 0.0)
    assert [await uses.count_use("a", 1, 60) for _ in range(2)] == [True, False]
    state.away = True
    assert [await uses.count_use("b", 1, 60) for _ in range(2)] == [True, False]
