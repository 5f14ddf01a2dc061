"""Whether audio arrives at the pace of speech, and when each part of it was captured.

A microphone delivers a second of audio per second. A file, or a voice model, delivers it faster,
and its frames may be late without anybody noticing. The difference is read from the arrivals alone.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from avatar_runtime.protocol import document_fields
from avatar_runtime.protocol.document_fields import At, List, Maybe, Number, Pair, Table

if TYPE_CHECKING:
    from avatar_runtime.protocol.strict_fields import StrictFields

_BURST_S: Final = 0.5
"""Audio of a microphone may arrive this much too early: a network delivers it in bursts."""
LIVE_AFTER_S: Final = 0.5
"""Seconds of audio that must arrive no faster than they last before a source counts as live."""
_LEAD_STEP_S: Final = 0.1
"""A lead that grows by more than this means that the audio is faster than speech. The clock of a
sound card differs from the clock of the server by at most 0.1 %, which is 0.1 s in 100 s."""
_MAX_GAP_S: Final = 1.5
"""Audio after a longer gap says nothing about the pace."""
_ROUNDING_S: Final = 1e-6
_STEP_S: Final = 0.04
"""Resolution of the capture times: bounds their number."""
MAX_BEHIND_S: Final = 0.9
"""How far a frame of a live source may be behind the speaker; 0.1 s remain for the network."""
_DUE_AFTER_S: Final = 0.15
"""When a frame is due after its audio is complete: the latency objective of the first frame."""
_MIN_SLACK_S: Final = 0.3
"""How much longer than the source needs a frame may take, unless the window is smaller."""

_MAX_ARRIVALS: Final = 16_384  # 10 min of audio in steps of 40 ms
_CLOCK: Final[Table] = {
    "_origin_at": At(),
    "_first_at": At(),
    "_last_at": At(),
    "_end_s": Number(0),
    "_lead_s": Number(),
    "_steady_lead_s": Number(),
    "_paced_s": Number(0),
    "_forgotten_s": Number(0),
    "_arrivals": List(Pair(Number(0), At()), _MAX_ARRIVALS, deque),
}


@dataclass(frozen=True, slots=True)
class LiveTimes:
    """When a frame of a live source is due, monotonic seconds."""

    due: float
    expires: float
    """When the frame is dropped, so that its audio leaves."""


def live_times(ready_at: float, lookahead_s: float, lead_s: float, window_s: float) -> LiveTimes:
    """Return when a frame is due whose audio was captured completely at a time.

    Its first sample was captured `lookahead_s` before. `lead_s` is how much of its audio the source
    sends at once: its pieces are that late when they arrive. `window_s` is the window of the flow
    control: sound waits no longer than that.
    """
    by_limit = ready_at + min(MAX_BEHIND_S - lookahead_s, window_s)
    by_source = ready_at + lead_s + min(_MIN_SLACK_S, window_s)
    return LiveTimes(ready_at + lead_s + _DUE_AFTER_S, max(by_limit, by_source))


class SourceClock:
    """The clock of the source of one turn: which audio was captured when.

    Audio is captured at the latest when it arrives, and later audio was captured after it. So
    audio that arrives late, and is followed by audio that is less late, was captured earlier than
    it arrived. Audio after a pause of the source is not late.
    """

    def __init__(self) -> None:
        self._origin_at = 0.0
        self._first_at = self._last_at = 0.0
        self._end_s = 0.0
        self._lead_s = 0.0
        self._steady_lead_s = 0.0
        self._paced_s = 0.0
        self._forgotten_s = 0.0
        # (end of the audio, arrival minus end), both ascending.
        self._arrivals: deque[tuple[float, float]] = deque()

    @property
    def is_live(self) -> bool:
        """Whether the audio arrives no faster than it is spoken."""
        return self._paced_s >= LIVE_AFTER_S

    @property
    def lead_s(self) -> float:
        """The largest amount of audio that the source was ahead of its own pace."""
        return self._lead_s

    def add(self, end_s: float, now: float) -> None:
        """Record that the audio up to `end_s` has arrived now."""
        if self._end_s == 0.0:
            self._origin_at = self._first_at = self._last_at = now
        seconds, self._end_s = end_s - self._end_s, end_s
        gap_s, self._last_at = now - self._last_at, now
        lead_s = self._end_s - (now - self._first_at)
        self._lead_s = max(self._lead_s, lead_s)
        if lead_s > self._steady_lead_s + _LEAD_STEP_S:
            self._steady_lead_s, self._paced_s = lead_s, 0.0
        elif gap_s <= _MAX_GAP_S:
            self._paced_s += min(seconds, gap_s)
        self._add_arrival(self._end_s, now - self._end_s)

    def restart(self, now: float) -> None:
        """Count the audio so far as if it all arrived now: nobody wanted it spoken before."""
        if self._end_s == 0.0:
            return
        self._first_at = self._last_at = now
        self._lead_s = self._steady_lead_s = self._end_s
        self._paced_s = 0.0
        self._arrivals.clear()
        self._add_arrival(self._end_s, now - self._end_s)

    def keeps_pace(self, position_s: float, now: float) -> bool:
        """Return whether audio at a position, which arrives now, is no faster than speech.

        The position may be after the end of the audio: it counts what the source sends elsewhere,
        such as the silence between two turns. A source that has sent nothing keeps the pace. The
        first audio of a live source may have been read late, as after a stall of the pod: what
        follows is not early then.
        """
        if self.is_live:
            return position_s - (now - self._first_at) <= self._steady_lead_s + _BURST_S
        return self._end_s == 0.0 or position_s - (now - self._origin_at) <= _BURST_S

    def captured_at(self, end_s: float) -> float:
        """Return when the audio before `end_s` was captured, at the latest; 40 ms are one step.

        `forget` has not named a later position. If not all of it has arrived, the answer is for
        the part that has.
        """
        found = (offset for end, offset in self._arrivals if end >= end_s - _ROUNDING_S)
        return min(end_s, self._end_s) + next(found, self._arrivals[-1][1])

    def forget(self, position_s: float) -> None:
        """Forget the audio before a position."""
        while len(self._arrivals) > 1 and self._arrivals[0][0] <= position_s:
            self._forgotten_s = self._arrivals.popleft()[0]

    def export(self, now: float) -> dict[str, object]:
        """Return the state as plain values."""
        return document_fields.export(self, _CLOCK, now)

    def restore(self, fields: StrictFields, now: float) -> None:
        """Continue from what another clock has exported.

        Raises:
            ProtocolError: a field is missing or wrong.
        """
        document_fields.restore(self, fields, _CLOCK, now)
        document_fields.check(
            not self._end_s or len(self._arrivals) > 0, fields, "arrivals", "must not be empty"
        )

    def _add_arrival(self, end_s: float, offset: float) -> None:
        arrivals = self._arrivals
        while arrivals and arrivals[-1][1] >= offset:
            arrivals.pop()
        begin_s = arrivals[-2][0] if len(arrivals) > 1 else self._forgotten_s
        if arrivals and end_s - begin_s < _STEP_S:
            arrivals.pop()
        arrivals.append((end_s, offset))


OVERLOAD_ENDS_AFTER_S: Final = 10.0


class OverloadReport:
    """Decides when an overload is new, so that it is reported once."""

    STATE: Final[Table] = {"_last_at": Maybe(At())}
    """What a session takes along to another pod."""

    def __init__(self) -> None:
        self._last_at: float | None = None

    def is_new(self, now: float) -> bool:
        """Record a late frame; return whether none was late for `OVERLOAD_ENDS_AFTER_S`."""
        last_at, self._last_at = self._last_at, now
        return last_at is None or now - last_at > OVERLOAD_ENDS_AFTER_S
