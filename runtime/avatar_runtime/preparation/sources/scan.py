"""Length of a video, found by reading its packets without decoding them.

Headers lie: a recording that was cut off still claims its whole length, and browsers write none.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

from avatar_runtime.preparation.sources.timeline import LONGEST_PAUSE, Clock

if TYPE_CHECKING:
    from collections.abc import Iterable

# 10 minutes at 60 frames per second have 36,000 packets; a video of 9 hours fits.
_MOST_PACKETS: Final = 2_000_000


@dataclass(frozen=True, slots=True)
class Scan:
    """What the packets of a video stream tell; times are seconds on the clock of the file."""

    packets: int
    first: Fraction
    last: Fraction
    """Start of the frame that is shown last."""
    end: Fraction
    clean: bool
    """Whether the time stamps are complete and without breaks, so that seeking is exact."""
    complete: bool = True
    """Whether the packets were read to the end."""


def scan(packets: Iterable[Any], step: Fraction, until: Fraction | None = None) -> Scan | None:
    """Return what the packets tell, or `None` if there are none.

    `step` is the time between two frames. Reading ends once a packet starts `until` seconds after
    the first one.
    """
    found = _Extent(step)
    for packet in packets:
        if packet.is_discard:
            continue
        found.add(packet)
        if found.count >= _MOST_PACKETS or (until is not None and found.length > until):
            return found.result(complete=False)
    return found.result(complete=True)


class _Extent:
    """First, last and end of the packets so far, by their own stamps and by a repaired clock."""

    def __init__(self, step: Fraction) -> None:
        self._step = step
        self._clock = Clock(step)
        self._repaired = Fraction(0)
        self._first: Fraction | None = None
        self._last = Fraction(0)
        self._end = Fraction(0)
        self._clean = True
        self._decoded: Fraction | None = None
        self.count = 0

    @property
    def length(self) -> Fraction:
        return self._repaired if self._first is None else self._last - self._first

    def add(self, packet: Any) -> None:
        self.count += 1
        shown, decoded = _seconds(packet, packet.pts), _seconds(packet, packet.dts)
        self._clean = self._clean and not packet.is_corrupt and self._follows(shown, decoded)
        self._repaired = self._clock.place(shown if decoded is None else decoded)
        if shown is None:
            return
        if self._first is None:
            self._first = self._last = shown
        self._first = min(self._first, shown)
        self._last = max(self._last, shown)
        self._end = max(self._end, shown + self._duration(packet))

    def _follows(self, shown: Fraction | None, decoded: Fraction | None) -> bool:
        """Return whether the stamps are there and go on where the last packet stopped."""
        if shown is None:
            return False
        stamp = shown if decoded is None else decoded
        before, self._decoded = self._decoded, stamp
        return before is None or 0 <= stamp - before <= LONGEST_PAUSE

    def _duration(self, packet: Any) -> Fraction:
        told = _seconds(packet, packet.duration or None)
        return self._step if told is None else min(told, LONGEST_PAUSE)

    def result(self, *, complete: bool) -> Scan | None:
        if not self.count:
            return None
        if self._clean and self._first is not None:
            return Scan(self.count, self._first, self._last, self._end, True, complete)
        first = self._first or Fraction(0)
        last = first + self._repaired
        return Scan(self.count, first, last, last + self._step, False, complete)


def _seconds(packet: Any, stamp: int | None) -> Fraction | None:
    if stamp is None or not packet.time_base:
        return None
    return stamp * Fraction(packet.time_base)
