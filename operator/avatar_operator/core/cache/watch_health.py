"""Judges watches by evidence: one is frozen if listings keep finding what it never told.

Silence proves nothing, since a quiet cluster has no news; and a reconnecting
framework does not say that it reconnects. A listing that finds changes after a
time in which the watch said nothing at all does prove something, and once more
some minutes later it is no coincidence.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Final

from avatar_operator.core.cache.store import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

FROZEN_S: Final = 180.0
"""So long must every listing contradict a watch: reconnecting takes kopf up to a minute."""


@dataclass(frozen=True, slots=True)
class _Watch:
    heard_at: float
    listed_at: float = inf  # never
    doubted_at: float | None = None  # the first listing in a row that found what was not told


class Watches:
    """What is known of the watches of all kinds; times come in as arguments."""

    def __init__(self, now: float) -> None:
        self._watches = {kind: _Watch(now) for kind in Kind}

    def hear(self, kind: Kind, now: float) -> None:
        """Take in that a watch told something."""
        self._watches[kind] = replace(self._watches[kind], heard_at=now, doubted_at=None)

    def list(self, kind: Kind, changes: int, now: float) -> None:
        """Take in that a listing found so many changes that nobody had told."""
        watch = self._watches[kind]
        doubted = changes > 0 and watch.heard_at < watch.listed_at < inf
        since = (watch.doubted_at if watch.doubted_at is not None else now) if doubted else None
        self._watches[kind] = replace(watch, listed_at=now, doubted_at=since)

    def ages(self, now: float) -> Mapping[Kind, float]:
        """Return the seconds since each watch told anything."""
        return {kind: now - watch.heard_at for kind, watch in self._watches.items()}

    def frozen(self) -> tuple[Kind, ...]:
        """Return the kinds whose watch has died without a word."""
        return tuple(
            kind
            for kind, watch in self._watches.items()
            if watch.doubted_at is not None and watch.listed_at - watch.doubted_at >= FROZEN_S
        )
