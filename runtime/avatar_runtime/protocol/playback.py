"""What the client plays: the events that report when audio and avatar start and stop."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Final

from avatar_runtime.errors import ProtocolError
from avatar_runtime.protocol import document_fields
from avatar_runtime.protocol.document_fields import At, List, Maybe, Number, Pair, Table, Text

if TYPE_CHECKING:
    from avatar_runtime.protocol import client_events
    from avatar_runtime.protocol.outbox import Outbox
    from avatar_runtime.protocol.strict_fields import StrictFields

_MAX_ENDED: Final = 64
"""Ended responses whose acknowledgements are checked; those of older ones are ignored."""

_MAX_PLAYING: Final = 4096
"""Finished responses that the client plays, in a document: a window of 10 s has 250 frames, but
a client that never acknowledges counts none of them as played."""
_PLAYING: Final[Table] = {
    "response_id": Text(),
    "until": At(),
    "audio_ms": Number(0),
    "acked_ms": Maybe(Number(0)),
}
_STATE: Final[Table] = {"_speaking_id": Maybe(Text()), "_last_media_id": Maybe(Text())}
_ENDED: Final = List(Pair(Text(), Number(0)), _MAX_ENDED, dict)


@dataclass(frozen=True, slots=True)
class PlayingResponse:
    """A finished response whose audio the client still plays."""

    response_id: str
    until: float
    """When the client will have played it, monotonic seconds."""
    audio_ms: float
    acked_ms: float | None = None
    """How much of it the client has acknowledged; `None` if the clock counts."""

    def played_ms(self, now: float) -> int:
        """Return how much of it the client has played."""
        if self.acked_ms is not None:
            return int(min(self.acked_ms, self.audio_ms))
        unplayed_ms = max(0.0, self.until - now) * 1000
        return int(max(0.0, self.audio_ms - unplayed_ms))


class Playback:
    """Reports what the client plays, by the server's clock or by the client's acks."""

    def __init__(self, fps: int, outbox: Outbox) -> None:
        self._fps = fps
        self._outbox = outbox
        self._playing: list[PlayingResponse] = []
        self._ended_ms: dict[str, float] = {}  # audio of the last responses that have ended
        self._speaking_id: str | None = None
        self._last_media_id: str | None = None

    @property
    def stops_at(self) -> float | None:
        """When the client will have played the oldest finished response."""
        return self._playing[0].until if self._playing else None

    def has_started(self, response_id: str) -> bool:
        """Return whether the media sent last belongs to this response."""
        return self._last_media_id == response_id

    def start(self, response_id: str, epoch: int, *, has_video: bool = True) -> None:
        """Report the first media of a response; without video there is no avatar to report."""
        self._last_media_id = response_id
        self._send("output_audio_buffer.started", response_id=response_id, epoch=epoch)
        if has_video:
            self._speaking_id = response_id
            self._send("session.avatar.switch_to_speaking", turn_id=response_id)

    def finish(self, playing: PlayingResponse) -> None:
        """Add a response that has ended on the server and not yet at the client."""
        self._playing.append(playing)
        self._ended_ms[playing.response_id] = playing.audio_ms
        if len(self._ended_ms) > _MAX_ENDED:
            del self._ended_ms[next(iter(self._ended_ms))]

    def clear(self, epoch: int) -> list[PlayingResponse]:
        """Report that the client stops playing, and return what it has not played to the end."""
        cut, self._playing = self._playing, []
        # The official clients require text, also before the first response.
        response_id = self._last_media_id or ""
        self._send("output_audio_buffer.cleared", response_id=response_id, epoch=epoch)
        self._switch_to_idle()
        return cut

    def release(self, now: float) -> None:
        """Let the finished responses end now: the client has discarded what it has not played."""
        self._playing = [replace(each, until=min(each.until, now)) for each in self._playing]

    def count_acks(self, now: float) -> None:
        """Let the acknowledgements say from now on when the finished responses end."""
        self._playing = [
            replace(each, until=inf, acked_ms=each.played_ms(now)) for each in self._playing
        ]

    def count_clock(self, until: float) -> None:
        """Let the clock say when the finished responses end: the last of them at `until`."""
        counted = []
        for each in reversed(self._playing):
            counted.append(replace(each, until=until, acked_ms=None))
            until -= each.audio_ms / 1000
        self._playing = counted[::-1]

    def ack(self, ack: client_events.Ack, epoch: int, active_id: str | None) -> None:
        """Record how far the client has played: all responses before this one, and part of it."""
        is_playing = any(each.response_id == ack.response_id for each in self._playing)
        if not is_playing and ack.response_id != active_id:
            return
        while self._playing and self._playing[0].response_id != ack.response_id:
            self._stop(self._playing.pop(0), epoch)
        if not self._playing:
            return
        playing = self._playing[0]
        if ack.pts_ms >= playing.audio_ms:
            self._stop(self._playing.pop(0), epoch)
        elif playing.acked_ms is not None:
            acked_ms = max(playing.acked_ms, ack.pts_ms)
            self._playing[0] = replace(playing, acked_ms=acked_ms)

    def check_ended(self, ack: client_events.Ack) -> None:
        """Check an ack of a response that has ended; those of older ones are not checked.

        Raises:
            ProtocolError: the ack is ahead of the media sent.
        """
        ended_ms = self._ended_ms.get(ack.response_id)
        if ended_ms is not None:
            self.check_ack(ack, -(-ended_ms * self._fps // 1000))

    def check_ack(self, ack: client_events.Ack, frames: float) -> None:
        """Check that the client has not played more than the `frames` that were sent.

        Raises:
            ProtocolError: the ack is ahead of the media sent.
        """
        sent_ms = frames * 1000 / self._fps
        if ack.pts_ms > sent_ms:
            raise ProtocolError(
                "ack_ahead",
                f"pts_ms is {ack.pts_ms:g}; {sent_ms:g} ms were sent",
                param="pts_ms",
                value=ack.pts_ms,
                limit=sent_ms,
            )

    def tick(self, now: float, epoch: int) -> None:
        """Report the responses that the client has played by now."""
        while self._playing and self._playing[0].until <= now:
            self._stop(self._playing.pop(0), epoch)

    def export(self, now: float) -> dict[str, object]:
        """Return the state as plain values."""
        return {
            **document_fields.export(self, _STATE),
            "playing": [document_fields.export(each, _PLAYING, now) for each in self._playing],
            "ended_ms": _ENDED.export(list(self._ended_ms.items()), now),
        }

    def restore(self, fields: StrictFields, now: float) -> None:
        """Continue from what another session has exported.

        Raises:
            ProtocolError: a field is missing or wrong.
        """
        document_fields.restore(self, fields, _STATE)
        self._playing = [
            PlayingResponse(**document_fields.read(each, _PLAYING, now))
            for each in fields.objects("playing", _MAX_PLAYING)
        ]
        self._ended_ms = _ENDED.read(fields, "ended_ms", now)

    def _stop(self, playing: PlayingResponse, epoch: int) -> None:
        self._send("output_audio_buffer.stopped", response_id=playing.response_id, epoch=epoch)
        if self._speaking_id == playing.response_id:
            self._switch_to_idle()

    def _switch_to_idle(self) -> None:
        if self._speaking_id is not None:
            self._send("session.avatar.switch_to_idle", turn_id=self._speaking_id)
            self._speaking_id = None

    def _send(self, kind: str, **fields: object) -> None:
        self._outbox.add(kind, fields)
