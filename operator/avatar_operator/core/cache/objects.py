"""Keeps the latest of each object of one kind, whatever order news of it arrives in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

REMEMBERED_GONE: Final = 10_000
"""Deleted objects that are remembered, so that late news cannot bring one back."""

_Value = TypeVar("_Value")


class Cache(Generic[_Value]):
    """Objects by UID, fed by watch events, by answers to our own writes, and by listings."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[int, _Value]] = {}  # version and value
        self._gone: dict[str, None] = {}  # in the order in which they went

    def get(self, uid: str) -> _Value | None:
        """Return an object, None if it is not known."""
        entry = self._entries.get(uid)
        return None if entry is None else entry[1]

    def version(self, uid: str) -> int | None:
        """Return the version in which an object is known, None if it is not."""
        entry = self._entries.get(uid)
        return None if entry is None else entry[0]

    def uids(self) -> tuple[str, ...]:
        """Return the UIDs of all objects."""
        return tuple(self._entries)

    def values(self) -> Iterator[_Value]:
        """Yield all objects."""
        return (value for _, value in self._entries.values())

    def put(self, uid: str, version: int, value: _Value) -> bool:
        """Take in an object and return whether its value changed; older news is ignored.

        Versions are those of the API server, which are numbers that only rise.
        """
        old = self._entries.get(uid)
        if uid in self._gone or (old is not None and version < old[0]):
            return False
        if old is not None and old[1] == value:
            self._entries[uid] = (version, old[1])  # an equal copy would only take room
            return False
        self._entries[uid] = (version, value)
        return True

    def drop(self, uid: str) -> _Value | None:
        """Forget an object that was deleted, and return it if it was known."""
        self._gone[uid] = None
        if len(self._gone) > REMEMBERED_GONE:
            del self._gone[next(iter(self._gone))]
        entry = self._entries.pop(uid, None)
        return None if entry is None else entry[1]
