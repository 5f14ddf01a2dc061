from __future__ import annotations

from avatar_gateway.core import use_counts


async def test_uses_are_counted_until_they_are_forgotten() -> None:
    now = 100.0
    counts = use_counts.LocalUseCounts(lambda: now)
    assert [await counts.count_use("a", 2, 60) for _ in range(3)] == [True, True, False]
    assert await counts.count_use("b", 1, 600)
    now = 160.0
    assert await counts.count_use("a", 2, 60)
    assert not await counts.count_use("b", 1, 600)


async def test_the_memory_is_bounded() -> None:
    now = 0.0
    counts = use_counts.LocalUseCounts(lambda: now)
    for number in range(50):
        await counts.count_use(f"old-{number}", 1, 60)
    now = 60.0
    await counts.count_use("new", 1, 60)
    assert list(vars(counts)["_counts"]) == ["new"]
