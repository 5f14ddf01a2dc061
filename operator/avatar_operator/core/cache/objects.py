"""Keeps the latest version of each object of one kind, in whatever order versions arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_TOMBSTONES: Final = 10_000
"""Number of deleted UIDs that are kept, so that a late event cannot restore an object."""

_Value = TypeVar("_Value")


class Cache(Generic[_Value]):
    """Objects by UID, fed by watch events, by the responses to own writes, and by lists."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[int, _Value]] = {}  # version and value
        self._tombstones: dict[str, None] = {}  # UIDs in the order of deletion

    def get(self, uid: str) -> _Value | None:
        """Return an object, None if it is unknown."""
        entry = self._entries.get(uid)
        return None if entry is None else entry[1]

    def version(self, uid: str) -> int | None:
        """Return the version of an object, None if the object is unknown."""
        entry = self._entries.get(uid)
        return None if entry is None else entry[0]

    def uids(self) -> tuple[str, ...]:
        """Return the UIDs of all objects."""
        return tuple(self._entries)

    def values(self) -> Iterator[_Value]:
        """Yield all objects."""
        return (value for _, value in self._entries.values())

    def put(self, uid: str, version: int, value: _Value) -> bool:
        """Store an object and return whether its value changed; an older version is ignored.

        Versions are those of the API server, which are increasing numbers.
        """
        known = self._entries.get(uid)
        if uid in self._tombstones or (known is not None and version < known[0]):
            return False
        if known is not None and known[1] == value:
            self._entries[uid] = (version, known[1])  # an equal copy would only use memory
            return False
        self._entries[uid] = (version, value)
        return True

    def remove(self, uid: str) -> None:
        """Remove an object that exists but does not belong here any more; it may come back."""
        self._entries.pop(uid, None)

    def drop(self, uid: str) -> _Value | None:
        """Remove a deleted object, and return it if it was known."""
        self._tombstones[uid] = None
        if len(self._tombstones) > MAX_TOMBSTONES:
            del self._tombstones[next(iter(self._tombstones))]
        entry = self._entries.pop(uid, None)
        return None if entry is None else entry[1]
