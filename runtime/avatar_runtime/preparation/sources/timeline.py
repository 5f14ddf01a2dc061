"""Time of a video: which source frame each frame of the result shows.

All times are exact fractions of a second, so that no rounding error grows with the length.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")

# A frame that starts up to 5 ms late still counts as on time. Matroska rounds times to 1 ms, and
# phones write times with a jitter of a few milliseconds; a slot at 25 fps has 40 ms.
SLACK: Final = Fraction(1, 200)
# A step beyond these is a break in the time stamps (joined recordings, a restarted clock), not a
# pause: screen recorders write a frame at least every few seconds.
LONGEST_PAUSE: Final = Fraction(10)
_HALF: Final = Fraction(1, 2)


def count_frames(seconds: Fraction, fps: int) -> int:
    """Return the number of frames that cover `seconds` at `fps`, rounded half up, at least 1."""
    return max(1, int(seconds * fps + _HALF))


class Clock:
    """Turns the time stamps of frames in presentation order into seconds that never go back.

    A missing time stamp becomes the previous time plus `step`. So does a stamp that goes back, or
    ahead by more than `LONGEST_PAUSE`; the stamps after it keep their distance from it.
    """

    def __init__(self, step: Fraction, origin: Fraction | None = None) -> None:
        """`origin` is the stamp of second 0; the first stamp if it is `None`."""
        self._step = step
        self._shift = None if origin is None else -origin
        self._last: Fraction | None = None
        self.breaks = 0
        """Number of time stamps that were corrected."""

    def place(self, stamp: Fraction | None) -> Fraction:
        """Return the time of the next frame; `stamp` is its time on the clock of the file."""
        expected = Fraction(0) if self._last is None else self._last + self._step
        time = self._read(stamp, expected)
        if self._last is not None and not 0 <= time - self._last <= LONGEST_PAUSE:
            self.breaks += 1
            if self._shift is not None:
                self._shift += expected - time
            time = expected
        self._last = time
        return time

    def _read(self, stamp: Fraction | None, expected: Fraction) -> Fraction:
        if stamp is None:
            self.breaks += 1
            return expected
        if self._shift is None:
            self._shift = expected - stamp
        return stamp + self._shift


def resample(
    frames: Iterable[tuple[Fraction, T]],
    *,
    start: Fraction,
    first: int,
    count: int,
    fps: int,
    step: Fraction,
    last: Fraction | None = None,
) -> Iterator[tuple[int, Fraction, T]]:
    """Yield `(index, source time, frame)` for the frames `first` to `count - 1` of the result.

    Frame k shows the latest source frame that starts at `start + k / fps` or before it; the first
    source frame if none does. `frames` are in increasing order of time. If they end before the
    time `last` of the last frame that the file promises, the result ends `step` seconds after
    the last one that came.
    """
    index = first
    held: tuple[Fraction, T] | None = None
    for time, frame in frames:
        while held is not None and index < count and time > start + Fraction(index, fps) + SLACK:
            yield (index, *held)
            index += 1
        if index >= count:
            return
        held = (time, frame)
    if held is None:
        return
    if last is None or held[0] < last:
        shown = held[0] + step - start
        count = min(count, count_frames(shown, fps)) if shown > 0 else 0
    for tail in range(index, count):
        yield (tail, *held)
