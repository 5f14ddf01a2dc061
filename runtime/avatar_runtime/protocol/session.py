"""One session of `/v1/realtime` without I/O: messages and pictures in, messages out.

The session knows no socket, no task and no clock. The shell gives it what came in and the
time, asks it which frames are due, hands it the finished pictures, and pulls messages as
fast as the socket takes them. Media is made into messages at the pull, so what a cancel or
a slow client throws away was never numbered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, assert_never

from avatar_runtime.errors import ProtocolError
from avatar_runtime.protocol import client_events, server_events
from avatar_runtime.protocol.outbox import Outbox
from avatar_runtime.protocol.rate_limit import RateWindow
from avatar_runtime.protocol.session_config import Configuration, Overrun, Update
from avatar_runtime.protocol.speech import FrameDue, Speech, needs_silence
from avatar_runtime.protocol.turn import Picture, Utterance, W

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from avatar_runtime.protocol.audio_formats import AudioFormat
    from avatar_runtime.protocol.fields import Fields
    from avatar_runtime.protocol.session_config import Character, ReadOnly

UNREAD_CHARACTERS: Final = 1024 * 1024
EVENTS_PER_S: Final = 1000
ERRORS_PER_10_S: Final = 100


@dataclass(frozen=True, slots=True)
class Terms:
    """What the service grants every session."""

    max_duration_s: float
    idle_timeout_s: float


@dataclass(frozen=True, slots=True)
class Close:
    """How the connection ends once the outbox is empty."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message for the socket, and the picture in it if there is one."""

    text: str
    picture: Picture | None = None
    first_since: float | None = None
    """For the first frame of a response: since when it could be made."""


class Session(Generic[W]):
    """The state of one connection."""

    def __init__(
        self,
        configuration: Configuration,
        characters: Mapping[str, Character],
        read_only: ReadOnly,
        *,
        terms: Terms,
        open_utterance: Callable[[AudioFormat], Utterance[W]],
        now: float,
    ) -> None:
        self.id = read_only.id
        self.closing: Close | None = None
        self._characters = characters
        self._read_only = read_only
        self._terms = terms
        self._active_at = now
        self._ends_at = now + terms.max_duration_s
        self._events = RateWindow(EVENTS_PER_S, 1.0)
        self._errors = RateWindow(ERRORS_PER_10_S, 10.0)
        suffix = read_only.id.removeprefix("sess_")
        self._outbox = Outbox(suffix)
        self._speech = Speech(
            suffix,
            read_only.fps,
            self._outbox,
            configuration=configuration,
            open_utterance=open_utterance,
        )
        self._outbox.add("session.created", {"session": self._describe(), "resume": None})
        conversation = {"id": f"conv_{suffix}", "object": "realtime.conversation"}
        self._outbox.add("conversation.created", {"conversation": conversation})

    @property
    def epoch(self) -> int:
        """The age of media: whatever carries a lower one is thrown away."""
        return self._speech.epoch

    @property
    def is_speaking(self) -> bool:
        """Whether a response is active."""
        return self._speech.is_active

    @property
    def may_skip(self) -> bool:
        """Whether the client would rather miss a frame than have it late."""
        return self._speech.configuration.overrun is Overrun.DROP

    @property
    def has_room(self) -> bool:
        """Whether the client reads its answers; if not, it is not read either."""
        return self._outbox.characters < UNREAD_CHARACTERS

    def receive(self, message: str | bytes, now: float) -> None:
        """Take one message of the client; every fault of it becomes an `error` event."""
        if self.closing is not None:
            return
        event_id = None
        try:
            self._check_rate(now)
            if isinstance(message, bytes):
                raise client_events.binary_refused(len(message))
            fields = client_events.load(message)
            event_id = client_events.event_id(fields)
            self._handle(client_events.parse(fields), event_id, now)
        except ProtocolError as error:
            self._refuse(error, event_id, now)
        else:
            self._active_at = now

    def deliver(
        self,
        response_ref: int,
        epoch: int,
        frame_index: int,
        jpeg: bytes,
        now: float,
        *,
        is_drawn: bool = True,
    ) -> bool:
        """Take a finished picture, or return that nobody waits for it any more."""
        return self._speech.deliver(response_ref, epoch, frame_index, jpeg, now, is_drawn=is_drawn)

    def skip(self, response_ref: int, epoch: int, frame_index: int, now: float) -> bool:
        """Hold the previous picture in place of a frame, or return that nobody waits for it."""
        return self._speech.skip(response_ref, epoch, frame_index, now)

    def fail(self, response_ref: int, epoch: int, now: float) -> None:
        """End the response whose frames the engine could not make."""
        self._speech.fail(response_ref, epoch, now)

    def end(self, code: int, reason: str, now: float) -> None:
        """Close the connection after what waits; the first reason counts."""
        if self.closing is None:
            self.closing = Close(code, reason)
            self._speech.abort(now)

    def tick(self, now: float) -> None:
        """Do what is due by time alone."""
        self._speech.tick(now)
        if now >= self._ends_at:
            self.end(4410, "the session reached its maximum duration", now)
        elif now >= self._active_at + self._terms.idle_timeout_s:
            self.end(4408, "the session was idle for too long", now)

    def wakeup(self) -> float:
        """Return when `tick` has something to do."""
        until = min(self._ends_at, self._active_at + self._terms.idle_timeout_s)
        stops_at = self._speech.stops_at
        return until if stops_at is None else min(until, stops_at)

    def due(self, now: float) -> Iterator[FrameDue[W]]:
        """Yield the frames that the window allows now; each is in flight once it is yielded."""
        return self._speech.due(now)

    def next_due(self) -> float | None:
        """Return when the window opens for the next frame, or `None` if time alone opens none."""
        return self._speech.next_due()

    def pull(self, now: float) -> Outgoing | None:
        """Return the next message, or `None` while there is nothing to send."""
        while True:
            text = self._outbox.pop()
            if text is not None:
                return Outgoing(text)
            sent = self._speech.pull()
            if sent is not None:
                self._active_at = now
                return Outgoing(sent.text, sent.picture, sent.first_since)
            if self._outbox.characters == 0 and not self._speech.finish(now):
                return None

    def _handle(self, event: client_events.ClientEvent, event_id: str | None, now: float) -> None:
        speech = self._speech
        match event:
            case client_events.SessionUpdate():
                self._update(event.session, event_id, now)
            case client_events.Append():
                speech.append(event.audio, now)
            case client_events.Commit():
                speech.commit(now)
            case client_events.ClearInput():
                speech.clear_input()
            case client_events.ClearOutput():
                speech.clear_output(now)
            case client_events.CreateItem():
                message = "conversation.item.create is not possible in mode drive"
                raise ProtocolError("unsupported_in_mode", message, param="type", value="drive")
            case client_events.RetrieveItem():
                speech.retrieve(event.item_id)
            case client_events.DeleteItem():
                speech.delete(event.item_id)
            case client_events.TruncateItem():
                speech.truncate(event.item_id, event.audio_end_ms, now)
            case client_events.CreateResponse():
                speech.create_response(now)
            case client_events.CancelResponse():
                speech.cancel(event.response_id, now)
            case client_events.Ack():
                speech.ack(event)
            case client_events.RequestKeyframe():
                pass  # every JPEG is one
            case _:
                assert_never(event)

    def _update(self, wanted: Fields, event_id: str | None, now: float) -> None:
        before = self._speech.configuration
        update = Update(before, self._characters, self._read_only)
        after = update.apply(wanted)
        if not self._speech.is_silent:
            if after.character != before.character:
                raise needs_silence("session.avatar.character", after.character.name)
            if after.format != before.format:
                raise needs_silence("session.audio.input.format", after.format.kind)
        self._speech.configuration = after
        self._outbox.add("session.updated", {"session": self._describe()})
        for warned in update.warnings:
            warning = {"code": "no_effect", "message": warned.message, "param": warned.param}
            self._outbox.add("warning", {"warning": {**warning, "event_id": event_id}})
        self._speech.start_next(now)

    def _describe(self) -> dict[str, object]:
        return self._speech.configuration.describe(self._read_only)

    def _check_rate(self, now: float) -> None:
        if not self._events.admits(now):
            message = f"more than {EVENTS_PER_S} events in a second; this one was dropped"
            raise ProtocolError("rate_limit_exceeded", message, limit=EVENTS_PER_S)

    def _refuse(self, error: ProtocolError, event_id: str | None, now: float) -> None:
        self._outbox.add("error", {"error": server_events.error(error, event_id)})
        if error.close is not None:
            self.end(error.close, error.code, now)
        if not self._errors.admits(now):
            message = f"more than {ERRORS_PER_10_S} errors in 10 s"
            last = ProtocolError("too_many_errors", message, limit=ERRORS_PER_10_S)
            self._outbox.add("error", {"error": server_events.error(last, None)})
            self.end(1008, "too_many_errors", now)
