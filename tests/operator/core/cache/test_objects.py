from __future__ import annotations

from avatar_operator.core.cache import objects
from avatar_operator.core.cache.objects import Cache


def test_put_returns_whether_the_value_changed() -> None:
    cache: Cache[str] = Cache()
    assert cache.put("u", 1, "a")
    assert not cache.put("u", 2, "a")
    assert cache.put("u", 3, "b")
    assert cache.get("u") == "b"
    assert list(cache.values()) == ["b"]
    assert cache.uids() == ("u",)


def test_the_version_is_stored_with_the_object() -> None:
    cache: Cache[str] = Cache()
    assert cache.version("u") is None
    cache.put("u", 5, "a")
    cache.put("u", 6, "a")
    assert cache.version("u") == 6


def test_an_older_version_is_ignored() -> None:
    cache: Cache[str] = Cache()
    cache.put("u", 5, "new")
    assert not cache.put("u", 4, "old")
    assert cache.get("u") == "new"


def test_a_late_event_does_not_restore_a_deleted_object() -> None:
    cache: Cache[str] = Cache()
    cache.put("u", 1, "a")
    assert cache.drop("u") == "a"
    assert cache.drop("u") is None
    assert not cache.put("u", 9, "a")
    assert cache.get("u") is None


def test_the_number_of_tombstones_is_limited() -> None:
    cache: Cache[str] = Cache()
    for number in range(objects.MAX_TOMBSTONES + 1):
        cache.drop(str(number))
    assert cache.put("0", 1, "the oldest is forgotten")
    assert not cache.put("1", 1, "the others are not")


def test_an_object_that_left_may_return() -> None:
    cache: Cache[str] = Cache()
    cache.put("u", 1, "a")
    cache.remove("u")
    cache.remove("u")
    assert cache.get("u") is None
    assert cache.put("u", 1, "a")


def test_ten_thousand_tombstones_are_kept_in_the_order_of_deletion() -> None:
    cache: Cache[int] = Cache()
    for number in range(10_002):
        cache.drop(str(number))
    assert cache.put("0", 1, 0)
    assert cache.put("1", 1, 1)
    assert not cache.put("2", 1, 2)
    assert not cache.put("10001", 1, 3)
