"""Remembers which pods have shown an avatar lately, so that its pictures are decoded there.

A pod reads an avatar and decodes its pictures when a session shows it (docs/avatars.md), and its
state does not name the avatars that it has in memory.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_PODS: Final = 8
"""Pods that are remembered for one avatar."""
MAX_AVATARS: Final = 4096
"""Avatars of all services together; the one that was used longest ago makes room."""
MAX_NAME: Final = 253
"""Longest name of an avatar, in characters."""


class RecentAvatars:
    """The pods of each avatar, the last used first."""

    def __init__(self) -> None:
        self._pods: OrderedDict[tuple[str, str], tuple[str, ...]] = OrderedDict()

    def pods(self, service: str, avatar: str) -> Sequence[str]:
        """Return the keys of the pods; some of them may be gone."""
        return self._pods.get((service, avatar), ())

    def add(self, service: str, avatar: str, pod: str) -> None:
        """Record that a pod has accepted a session with an avatar; an empty name is ignored."""
        if not avatar or len(avatar) > MAX_NAME:
            return
        key = service, avatar
        others = [each for each in self._pods.get(key, ()) if each != pod]
        self._pods[key] = (pod, *others)[:MAX_PODS]
        self._pods.move_to_end(key)
        if len(self._pods) > MAX_AVATARS:
            self._pods.popitem(last=False)
