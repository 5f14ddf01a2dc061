"""Detects frozen watches: lists keep finding changes that the watch did not deliver.

The absence of events proves nothing, because objects of a quiet cluster do not change, and
kopf does not report when it reconnects. A list that finds changes after a time without any
event does prove something, and a second one some minutes later is not a coincidence.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Final

from avatar_operator.core.cache.entries import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

FROZEN_S: Final = 180.0
"""How long every list must contradict a watch: kopf may need up to a minute to reconnect."""


@dataclass(frozen=True, slots=True)
class _Watch:
    event_at: float
    listed_at: float = inf  # never
    suspected_at: float | None = None  # the first list in a row that found missed changes


class WatchHealth:
    """The evidence for and against the watch of each kind; the current time is an argument."""

    def __init__(self, now: float) -> None:
        self._watches = {kind: _Watch(now) for kind in Kind}

    def on_event(self, kind: Kind, now: float) -> None:
        """Record that a watch delivered an event."""
        self._watches[kind] = replace(self._watches[kind], event_at=now, suspected_at=None)

    def on_list(self, kind: Kind, changes: int, now: float) -> None:
        """Record how many changes a list found that the watch had not delivered."""
        watch = self._watches[kind]
        is_suspect = changes > 0 and watch.event_at < watch.listed_at < inf
        first = watch.suspected_at if watch.suspected_at is not None else now
        since = first if is_suspect else None
        self._watches[kind] = replace(watch, listed_at=now, suspected_at=since)

    def ages(self, now: float) -> Mapping[Kind, float]:
        """Return the seconds since the last event of each watch."""
        return {kind: now - watch.event_at for kind, watch in self._watches.items()}

    def frozen(self) -> tuple[Kind, ...]:
        """Return the kinds whose watch stopped delivering events without an error."""
        return tuple(
            kind
            for kind, watch in self._watches.items()
            if watch.suspected_at is not None and watch.listed_at - watch.suspected_at >= FROZEN_S
        )
