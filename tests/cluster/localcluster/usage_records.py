"""What tests and benchmarks do with the records of usage in a shared state."""

from __future__ import annotations

from redis.asyncio import Redis

from avatar_gateway.shared.redis import ABANDONED_MS


async def let_a_minute_pass(url: str) -> None:
    """Make the open records as old as if nobody had reported them for a minute."""
    async with Redis.from_url(url, decode_responses=True) as client:
        for name in await client.zrange("avatar:open-records", 0, -1):
            await client.zincrby("avatar:open-records", -ABANDONED_MS - 1, str(name))
