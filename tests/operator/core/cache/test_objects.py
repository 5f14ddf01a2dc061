from __future__ import annotations

from avatar_operator.core.cache import objects
from avatar_operator.core.cache.objects import Cache


def test_a_put_says_whether_the_value_changed() -> None:
    known: Cache[str] = Cache()
    assert known.put("u", 1, "a")
    assert not known.put("u", 2, "a")
    assert known.put("u", 3, "b")
    assert known.get("u") == "b"
    assert list(known.values()) == ["b"]
    assert known.uids() == ("u",)


def test_a_version_is_known_with_its_object() -> None:
    known: Cache[str] = Cache()
    assert known.version("u") is None
    known.put("u", 5, "a")
    known.put("u", 6, "a")
    assert known.version("u") == 6


def test_older_news_is_ignored() -> None:
    known: Cache[str] = Cache()
    known.put("u", 5, "new")
    assert not known.put("u", 4, "old")
    assert known.get("u") == "new"


def test_late_news_does_not_bring_a_deleted_object_back() -> None:
    known: Cache[str] = Cache()
    known.put("u", 1, "a")
    assert known.drop("u") == "a"
    assert known.drop("u") is None
    assert not known.put("u", 9, "a")
    assert known.get("u") is None


def test_the_memory_of_deleted_objects_is_bounded() -> None:
    known: Cache[str] = Cache()
    for number in range(objects.REMEMBERED_GONE + 1):
        known.drop(str(number))
    assert known.put("0", 1, "the oldest is forgotten")
    assert not known.put("1", 1, "the others are not")
