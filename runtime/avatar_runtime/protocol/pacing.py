"""How far the media is ahead of what the client has played, by the server's clock."""

from __future__ import annotations

from math import inf
from typing import Final

from avatar_runtime.protocol.document_fields import At, Table

# The latency objective of the first frame: docs/architecture.md, "Runtime pod".
_FIRST_FRAME_S: Final = 0.150
_LATER_FRAME_S: Final = 0.040  # one frame at 25 fps
_ROUNDING_S: Final = 1e-6


def objective(frame_index: int, now: float) -> float:
    """Return when a frame that is requested now is due by the latency objective."""
    return now + (_LATER_FRAME_S if frame_index else _FIRST_FRAME_S)


class Pacer:
    """Computes when the client will have played the delivered frames.

    It covers all responses of a session: a response that follows immediately is played after the
    one before. If the client has played everything, new media starts to play when it arrives.
    """

    STATE: Final[Table] = {"_end": At()}
    """What a session takes along to another pod."""

    def __init__(self, fps: int) -> None:
        self._frame_s = 1 / fps
        self._end = 0.0

    @property
    def end(self) -> float:
        """When the client will have played all frames added so far, monotonic seconds."""
        return self._end

    def add_frames(self, frames: int, now: float, latest: float = inf) -> None:
        """Add settled frames (no frame before them is in flight) to the time to play.

        `latest` is when the client has played them at the latest, because it follows a speaker.
        """
        if frames:
            self._end = min(max(self._end, now) + frames * self._frame_s, latest)

    def add_known(self, frames: int) -> None:
        """Add frames that the client has from another pod, and may have played meanwhile."""
        self._end += frames * self._frame_s

    def remove_frames(self, frames: int) -> None:
        """Remove frames that were added and never sent."""
        self._end -= frames * self._frame_s

    def stop(self, now: float) -> None:
        """Remove all that is not played: the client has discarded it."""
        self._end = min(self._end, now)

    def is_playing(self, now: float) -> bool:
        """Return whether the client has not played all frames added so far."""
        return self._end > now + _ROUNDING_S

    def fits(self, window_ms: int, in_flight: int, now: float) -> bool:
        """Return whether one more frame fits into the window beside the frames in flight."""
        ahead_s = self.ahead_s(now) + (in_flight + 1) * self._frame_s
        return ahead_s <= window_ms / 1000 + _ROUNDING_S

    def opens_at(self, window_ms: int, in_flight: int) -> float | None:
        """Return when one more frame fits, or `None` if time alone does not make room."""
        excess_s = (in_flight + 1) * self._frame_s - window_ms / 1000
        return None if excess_s > _ROUNDING_S else self._end + excess_s

    def ahead_s(self, now: float) -> float:
        """Return how much of the frames added so far the client has not played, in seconds."""
        return max(0.0, self._end - now)

    def set_ahead(self, seconds: float, now: float) -> None:
        """Count all but the last `seconds` as played, as the client has acknowledged."""
        self._end = now + seconds

    def deadline(self, frame_index: int, in_flight: int, now: float) -> float:
        """Return when the next frame is due: when it is played, or the latency objective."""
        return max(self._end + in_flight * self._frame_s, objective(frame_index, now))
