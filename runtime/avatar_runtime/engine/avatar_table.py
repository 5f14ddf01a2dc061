"""The avatars that frame requests may name, while avatars are added, replaced and removed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from avatar_runtime.avatars.cache import Avatar, AvatarInfo


class AvatarTable(Mapping[str, "Avatar"]):
    """Avatars by key (`AvatarInfo.key`), and the current version of each by name.

    A session names the key, so that it keeps its version when the avatar is replaced. One thread
    changes the table and any thread reads it: each change replaces the mapping as a whole.
    """

    def __init__(self, current: Mapping[str, Avatar]) -> None:
        self._current: Mapping[str, Avatar] = {}
        self._versions: Mapping[str, Avatar] = {}
        self._unused: frozenset[str] = frozenset()
        self.publish(current)

    def __getitem__(self, key: str) -> Avatar:
        avatar = self._versions.get(key)
        return self._current[key] if avatar is None else avatar

    def __iter__(self) -> Iterator[str]:
        return iter(self._versions)

    def __len__(self) -> int:
        return len(self._versions)

    def infos(self) -> dict[str, AvatarInfo]:
        """Return the current versions by name."""
        return {name: avatar.info for name, avatar in self._current.items()}

    def publish(self, current: Mapping[str, Avatar]) -> None:
        """Set the current versions by name; earlier versions are kept until `drop_unused`."""
        versions = {avatar.info.key: avatar for avatar in current.values()}
        self._versions = {**self._versions, **versions}
        self._current = dict(current)

    def drop_unused(self, in_use: Collection[str]) -> list[str]:
        """Drop earlier versions that two calls in a row found unused, and return their keys.

        A frame of a session that has just ended may still be in a batch: hence the second call.
        """
        kept = {avatar.info.key for avatar in self._current.values()} | set(in_use)
        unused = frozenset(self._versions) - kept
        dropped = sorted(unused & self._unused)
        self._versions = {k: v for k, v in self._versions.items() if k not in dropped}
        self._unused = unused
        return dropped
