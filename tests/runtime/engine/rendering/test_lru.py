"""A cache bounded by bytes, beside a model of a few lines."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from avatar_runtime.engine.rendering.lru import LRUCache

_SIZES = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 40)), max_size=60)


@given(asked=_SIZES, limit=st.integers(1, 100))
def test_the_most_recently_used_values_stay_within_the_limit(
    asked: list[tuple[int, int]], limit: int
) -> None:
    cache: LRUCache[int, int] = LRUCache(limit, lambda value: value)
    recent: dict[int, int] = {}
    for key, size in asked:
        expected = recent.pop(key, size)
        assert cache.get(key, size.__int__) == expected
        recent[key] = expected
        while sum(recent.values()) > limit and len(recent) > 1:
            del recent[next(iter(recent))]
        assert cache.used == sum(recent.values())
        assert [k in cache for k in range(6)] == [k in recent for k in range(6)]


def test_a_cleared_cache_holds_nothing() -> None:
    cache: LRUCache[str, bytes] = LRUCache(10, len)
    cache.get("a", lambda: b"1234")
    cache.clear()

    assert cache.used == 0
    assert cache.get("a", lambda: b"56") == b"56"
