"""Limits how fast one direction of a connection may send."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

BURST_S: Final = 2.0
"""A sender that was slower may send what it saved, up to this time at the full rate."""


@dataclass(frozen=True, slots=True)
class Rate:
    """The highest mean rate of one direction."""

    frames_per_s: float
    """Frames of a WebSocket, or lines of a state stream."""
    bytes_per_s: float


class RateLimit:
    """Tells how long to wait after each segment, so that the mean rate stays below the limit.

    Frames and bytes take time: what arrives has a cost in seconds, and a sender that costs more
    than a second each second waits. Waiting slows the sender down through TCP; nothing is dropped.
    """

    __slots__ = ("_bytes_per_s", "_frames_per_s", "_paid_until")

    def __init__(self, rate: Rate) -> None:
        self._frames_per_s = rate.frames_per_s
        self._bytes_per_s = rate.bytes_per_s
        self._paid_until: float | None = None

    def delay(self, now: float, frames: int, size: int) -> float:
        """Record a segment, and return the seconds to wait before the next one is read."""
        cost = max(frames / self._frames_per_s, size / self._bytes_per_s)
        earliest = now - BURST_S
        paid_until = earliest if self._paid_until is None else max(self._paid_until, earliest)
        self._paid_until = paid_until + cost
        return max(0.0, self._paid_until - now)

    def accept(self, now: float, frames: int, size: int) -> bool:
        """Record a segment if nothing has to wait after it; return whether that is so."""
        paid_until, earliest = self._paid_until, now - BURST_S
        if paid_until is None or paid_until < earliest:
            paid_until = earliest
        by_frames, by_bytes = frames / self._frames_per_s, size / self._bytes_per_s
        paid_until += by_bytes if by_bytes > by_frames else by_frames
        if paid_until > now:
            return False
        self._paid_until = paid_until
        return True
