"""How far the media is ahead of what the client has played, by the server's clock."""

from __future__ import annotations

from typing import Final

_FIRST_FRAME_S: Final = 0.150  # objective from computable to sent, architecture §7
_LATER_FRAME_S: Final = 0.040
_ROUNDING_S: Final = 1e-6


class Playout:
    """A bucket of finished media that empties at the speed of time.

    It spans responses: one that follows at once is played after the one before. A client
    that ran dry plays what comes next from its arrival, so the bucket never goes below empty.
    """

    def __init__(self, fps: int) -> None:
        self._frame_s = 1 / fps
        self._end = 0.0

    @property
    def end(self) -> float:
        """When everything finished so far will have been played, monotonic seconds."""
        return self._end

    def add_frames(self, frames: int, now: float) -> None:
        """Take note of finished frames, none of which has a missing one before it."""
        if frames:
            self._end = max(self._end, now) + frames * self._frame_s

    def take_back(self, frames: int) -> None:
        """Forget finished frames that never left."""
        self._end -= frames * self._frame_s

    def stop(self, now: float) -> None:
        """Forget what was not played: the client has thrown it away, or has played it."""
        self._end = min(self._end, now)

    def fits(self, window_ms: int, waiting: int, now: float) -> bool:
        """Return whether one more frame fits the window beside the `waiting` unfinished ones."""
        ahead_s = max(self._end - now, 0.0) + (waiting + 1) * self._frame_s
        return ahead_s <= window_ms / 1000 + _ROUNDING_S

    def opens_at(self, window_ms: int, waiting: int) -> float | None:
        """Return when one more frame fits, or `None` if time alone does not make room."""
        wanted_s = (waiting + 1) * self._frame_s - window_ms / 1000
        return None if wanted_s > _ROUNDING_S else self._end + wanted_s

    def deadline(self, frame_index: int, waiting: int, now: float) -> float:
        """Return when the next frame is due: when it is played, or as soon as can be."""
        soonest = now + (_LATER_FRAME_S if frame_index else _FIRST_FRAME_S)
        return max(self._end + waiting * self._frame_s, soonest)
