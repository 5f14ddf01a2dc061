"""How far the client has played, by its acknowledgements: docs/wire-protocol.md, "Flow control".

All responses of a session lie on one timeline, one after another, counted in frames. The client
plays them in that order, so that an acknowledgement of one response covers all before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Final

from avatar_runtime.protocol import document_fields, pacing
from avatar_runtime.protocol.document_fields import At, Count, Flag, Maybe, Number, Table, Text

if TYPE_CHECKING:
    from avatar_runtime.protocol.strict_fields import StrictFields

_ROUNDING: Final = 1e-6  # of a frame
_MAX_SPANS: Final = 256
"""Responses whose acknowledgements are known. A window of 10 s has room for 250 at 25 fps."""


@dataclass(slots=True)
class _Span:
    """Where a response lies on the timeline, in frames."""

    start: int
    audio: float | None = None
    """Its audio in frames, which need not be whole; `None` while the response is active."""


_STATE: Final[Table] = {
    "_made": Count(-document_fields.MAX_COUNT),
    "_played": Number(0, document_fields.MAX_COUNT),
    "_is_full": Flag(),
    "_opened_at": At(),
}
_SPAN_VALUES: Final[Table] = {
    "start": Count(-document_fields.MAX_COUNT),
    "audio": Maybe(Number(0, document_fields.MAX_COUNT)),
}
_SPAN: Final[Table] = {"response_id": Text(), **_SPAN_VALUES}


class Credits:
    """The frames that are settled and that the client has not acknowledged as played."""

    def __init__(self, fps: int) -> None:
        self._fps = fps
        self._made = 0
        self._played = 0.0
        self._spans: dict[str, _Span] = {}
        self._is_full = False
        self._opened_at = 0.0

    @property
    def unplayed_s(self) -> float:
        """The media that the client has not acknowledged, in seconds."""
        return (self._made - self._played) / self._fps

    @property
    def is_full(self) -> bool:
        """Whether the window had no room for a frame when `fits` was called last."""
        return self._is_full

    @property
    def opened_at(self) -> float:
        """When the window had room again after it was full, monotonic seconds; 0 if never full."""
        return self._opened_at

    def begin(self, response_id: str) -> None:
        """Start a response after all before it."""
        self._spans[response_id] = _Span(self._made)
        if len(self._spans) > _MAX_SPANS:
            del self._spans[next(iter(self._spans))]

    def add_frames(self, frames: int) -> None:
        """Add settled frames to the response that began last."""
        self._made += frames

    def finish(self, response_id: str, audio_ms: float) -> None:
        """End the response that began last; `audio_ms` of its audio were sent."""
        span = self._spans.get(response_id)
        if span is None:
            return
        span.audio = audio_ms * self._fps / 1000
        self._made = span.start + ceil(span.audio - _ROUNDING)
        self._move(span, self._played - span.start)

    def ack(self, response_id: str, pts_ms: float) -> bool:
        """Record that the client has played a response up to `pts_ms`.

        Return false for a response that is unknown, played already, or of an older epoch. A
        position before the one that was acknowledged last changes nothing.
        """
        span = self._spans.get(response_id)
        if span is None:
            return False
        self._move(span, pts_ms * self._fps / 1000)
        return True

    def discard(self) -> None:
        """Count everything as played and forget the responses: the client has discarded it."""
        self._spans.clear()
        self._played = self._made

    def set_unplayed(self, seconds: float) -> None:
        """Count all but the last `seconds` as played, as the clock of the server says."""
        self._played = max(self._played, self._made - max(0.0, seconds) * self._fps)

    def played_ms(self, response_id: str) -> float:
        """Return how much of a response was acknowledged; 0 if it is not known."""
        span = self._spans.get(response_id)
        return 0.0 if span is None else max(0.0, self._played - span.start) * 1000 / self._fps

    def fits(self, window_ms: int, in_flight: int, now: float) -> bool:
        """Return whether one more frame fits into the window beside the frames in flight."""
        ahead = self._made - self._played + in_flight + 1
        fits = ahead * 1000 <= window_ms * self._fps + _ROUNDING
        if fits and self._is_full:
            self._opened_at = now
        self._is_full = not fits
        return fits

    def deadline(self, frame_index: int, in_flight: int, now: float) -> float:
        """Return when the next frame is due: when it is played, or the latency objective."""
        played_at = now + self.unplayed_s + in_flight / self._fps
        return max(played_at, pacing.objective(frame_index, now))

    def export(self, unsettled: int, now: float) -> dict[str, object]:
        """Return the state as plain values, without the last `unsettled` frames.

        They are generated again. The client may have played the sound of some of them.
        """
        spans = [
            {"response_id": name, **document_fields.export(span, _SPAN_VALUES)}
            for name, span in self._spans.items()
        ]
        state = document_fields.export(self, _STATE, now)
        return {**state, "made": self._made - unsettled, "spans": spans}

    def restore(self, fields: StrictFields, now: float) -> None:
        """Continue from what another session has exported.

        Raises:
            ProtocolError: a field is missing or wrong.
        """
        document_fields.restore(self, fields, _STATE, now)
        for found in fields.objects("spans", _MAX_SPANS):
            span = document_fields.read(found, _SPAN, now)
            response_id = span.pop("response_id")
            self._spans[response_id] = _Span(**span)

    def _move(self, span: _Span, played: float) -> None:
        """Record the played frames of a response; the end of its audio is the end of its frames."""
        if span.audio is not None and played >= span.audio - _ROUNDING:
            played = ceil(span.audio - _ROUNDING)
        self._played = min(max(self._played, span.start + played), self._made)
