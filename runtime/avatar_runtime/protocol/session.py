"""One session of `/v1/realtime` without I/O: messages and frames in, messages out.

The session has no socket, no task and no clock. `Session` states what its caller must do.
"""

from __future__ import annotations

import json
import math
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic

from avatar_contracts import binary_messages
from avatar_runtime.errors import ProtocolError
from avatar_runtime.protocol import client_events, document_fields, server_events, session_config
from avatar_runtime.protocol.binary_input import BinaryInput
from avatar_runtime.protocol.config_update import ConfigUpdate
from avatar_runtime.protocol.conversation import Conversation, response_active
from avatar_runtime.protocol.document_fields import At, Count, Table
from avatar_runtime.protocol.drive import Drive
from avatar_runtime.protocol.media import W
from avatar_runtime.protocol.outbox import Outbox
from avatar_runtime.protocol.rate_limit import RateLimiter
from avatar_runtime.protocol.resume import RECEIVED, Received
from avatar_runtime.protocol.session_config import Overrun, Transport, VideoMode
from avatar_runtime.protocol.session_parts import SessionParts
from avatar_runtime.protocol.speech import not_movable
from avatar_runtime.protocol.strict_fields import StrictFields

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from avatar_runtime.protocol.audio_formats import AudioFormat
    from avatar_runtime.protocol.frame_flow import FrameDue
    from avatar_runtime.protocol.media import Image, Utterance, VideoFrame, VoiceDetector
    from avatar_runtime.protocol.modes import Mode
    from avatar_runtime.protocol.resume import ClientPosition, Resume
    from avatar_runtime.protocol.session_config import Character, ReadOnlyFields, SessionConfig

MAX_UNREAD_CHARACTERS: Final = 1024 * 1024
EXPIRY_NOTICE_S: Final = 60.0
"""How long before its maximum duration a client is warned, if that is at least twice as long."""
MAX_EVENTS_PER_S: Final = 1000
MAX_ERRORS_PER_10_S: Final = 100
_EMPTY_DELTA: Final = '"}'
_STATE: Final[Table] = {"acked_seq": Count(), "_active_at": At(), "_ends_at": At()}


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """The limits of every session of a service."""

    max_duration_s: float
    """The session ends after this time."""
    idle_timeout_s: float
    """The session ends after this time without a message or a frame."""


@dataclass(frozen=True, slots=True)
class Close:
    """How the connection ends once the outbox is empty."""

    code: int
    """WebSocket close code: docs/wire-protocol.md, "Close codes"."""
    reason: str


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message for the socket."""

    seq: int
    """Number of the message in the session; 0 for an idle frame that has none."""
    message: str | bytes
    """The text of an event, or a binary message."""
    frame: VideoFrame | None = None
    """The frame that the message carries, if any."""
    speakable_at: float | None = None
    """When the first frame of a response could be generated; `None` for all other messages."""
    heard_at: float | None = None
    """When the first audio of an answer arrived; with its first frame only."""

    def with_access_unit(self, data: bytes) -> str | bytes:
        """Return the message of a frame that the caller has encoded; `frame.encoding` says how.

        A text ends with an empty `delta`, which takes the data. A binary message is a header.
        """
        if isinstance(self.message, bytes):
            header, _ = binary_messages.unpack(self.message)
            return header.pack(data)
        return f'{self.message.removesuffix(_EMPTY_DELTA)}{b64encode(data).decode("ascii")}"}}'


class Session(Generic[W]):
    """The state of one connection. Its caller owns the socket, the clock and the engine.

    The caller makes all calls from one task or thread at a time. `now` is in monotonic seconds
    and never decreases. The caller must do the following:

    Input: call `receive` for each WebSocket message, in order.
        It returns nothing: answers and errors wait for `pull`. While `can_receive` is false, the
        caller stops reading from the socket; otherwise the unsent answers grow without bound.
        After each message, call `listen` until it returns false: each call searches at most 256 ms
        of audio for speech, and the caller serves other sessions between the calls. What is left
        is searched by the next `receive`, before its message.
    Output: call `pull` after every other call, until it returns `None`.
        It returns one message. The caller sends each message, in order, before the next `pull`:
        it has a sequence number, and a message that is not sent is a gap for the client. A message
        whose `frame.encoding` is set needs the encoded image: `Outgoing.with_access_unit`. The
        caller pulls at the speed of the socket; what it does not pull, a cancel can still discard.
        Without `pull`, no media leaves and no response ends, and the oldest frames are dropped
        or, with `overrun: pause`, no more frames are due.
    Frames: call `due` after every other call and at the time that `next_due` returns.
        It yields the frames to generate now. For each of them the caller later makes one call of
        `deliver`, `skip` or `fail`. Frames leave in order: without that call, the response stops
        at the frame until it is cancelled or the session ends. When `epoch` grows, the caller may
        forget the frames of lower epochs: `deliver` and `skip` return false for them. Without
        `due`, the response does not advance.
    Time: call `tick` at the time that `wakeup` returns.
        It returns nothing: events wait for `pull`. Every call can change the result of `wakeup`
        and `next_due`, so that the caller reads them again before each wait. Without `tick`, the
        session has no time limits, the end of playback is not reported, and the frames of a live
        speaker are not dropped when they are late.
    End: when `closing` is set and `pull` returns `None`, close the connection with its code.
        `end` sets it for a reason of the caller. Afterwards `receive` ignores all messages.
    """

    def __init__(
        self,
        config: SessionConfig,
        characters: Mapping[str, Character],
        read_only: ReadOnlyFields,
        *,
        limits: SessionLimits,
        open_utterance: Callable[[AudioFormat], Utterance[W]],
        open_detector: Callable[[AudioFormat], VoiceDetector],
        now: float,
        open_mode: Callable[[SessionParts[W]], Mode[W]] = Drive,
        resume: Resume | None = None,
        continues: str | None = None,
    ) -> None:
        """`characters` are the avatars that the client can select, by name.

        The caller may change the mapping later; the session keeps the character that it has.
        `resume` is how the client can continue the session on a new connection, if it can.
        `continues` is the `suffix` of a session whose state `restore` takes over next. The client
        knows that session, so that nothing is reported.
        """
        self.id = read_only.id
        self.closing: Close | None = None
        self.received = Received()
        """What the client has sent so far."""
        self.acked_seq = 0
        """The client has all messages up to this number."""
        self._resume = resume
        self._characters = characters
        self._read_only = read_only
        self._limits = limits
        self._active_at = now
        self._ends_at = now + limits.max_duration_s
        self._warns_at: float | None = None
        """When the client is warned of the end; None once it is, and in a short session."""
        if limits.max_duration_s >= 2 * EXPIRY_NOTICE_S:
            self._warns_at = self._ends_at - EXPIRY_NOTICE_S
        self._event_rate = RateLimiter(MAX_EVENTS_PER_S, 1.0)
        self._error_rate = RateLimiter(MAX_ERRORS_PER_10_S, 10.0)
        self.suffix = continues or read_only.id.removeprefix("sess_")
        """Common suffix of the identifiers of what the session has. A move does not change it."""
        self._outbox = Outbox(self.suffix)
        self._awaited = 0  # messages of the client before the next one leaves
        self._binary_input = BinaryInput()
        self._conversation = Conversation(self._outbox)
        parts = SessionParts(
            self.suffix,
            read_only.fps,
            config,
            self._outbox,
            self._conversation,
            open_utterance,
            open_detector,
            self._report,
            self.end,
        )
        self._mode: Mode[W] = open_mode(parts)
        self._speech = self._mode.speech
        if not self._mode.announces_itself and continues is None:
            self._report("session.created")

    # State

    @property
    def mode(self) -> Mode[W]:
        """The mode of the session; its shell reads and writes what the mode exchanges."""
        return self._mode

    @property
    def epoch(self) -> int:
        """The epoch of media: frames of a lower epoch are obsolete."""
        return self._speech.epoch

    @property
    def is_speaking(self) -> bool:
        """Whether a response is active."""
        return self._speech.is_active

    @property
    def spoken_s(self) -> float:
        """Sound of responses that this pod has given to the client, seconds."""
        return self._speech.spoken_s

    @property
    def avatar(self) -> str:
        """The avatar of the next frames, as frame requests name it."""
        return self._speech.config.character.engine_name

    @property
    def allows_dropping(self) -> bool:
        """Whether frames may be dropped under overload, instead of being delivered late."""
        return self._speech.config.overrun is Overrun.DROP

    @property
    def frames_lapsed(self) -> int:
        """Frames that were dropped so far because they were too late for a live speaker.

        The caller still calls `deliver` or `skip` for those in flight; both return false.
        """
        return self._speech.frames_lapsed

    @property
    def frames_omitted(self) -> int:
        """Frames that were skipped so far because the client wants no video.

        When it grows, there may be audio to `pull`.
        """
        return self._speech.frames_omitted

    @property
    def official_only(self) -> bool:
        """Whether the client gets no events that OpenAI's interface lacks."""
        return self._speech.config.official_only

    # Input

    @property
    def can_receive(self) -> bool:
        """Whether the caller may read the next message from the socket."""
        return self._outbox.characters < MAX_UNREAD_CHARACTERS and self._mode.can_receive

    def receive(self, message: str | bytes, now: float) -> None:
        """Handle one message of the client; a fault in it becomes an `error` event."""
        while self.listen(now):
            pass
        if self.closing is not None:
            return
        self.received.messages += 1
        event_id = None
        try:
            if isinstance(message, bytes):
                self._receive_binary(message, now)
                self._active_at = now
                self._speech.pass_known(now)
                return
            self._check_rate(now)
            fields = client_events.load(message)
            event_id = client_events.event_id(fields)
            self._handle(fields, event_id, now)
        except ProtocolError as error:
            self._reject(error, event_id, now)
        else:
            self._active_at = now
        self._speech.pass_known(now)

    def listen(self, now: float) -> bool:
        """Search the next part of the audio for speech, and return whether more waits."""
        if self.closing is not None:
            return False
        try:
            return self._mode.listen(now)
        except ProtocolError as error:
            self._reject(error, None, now)
            return True

    # Output

    def recover(self, last_seq: int, position: ClientPosition | None, now: float) -> float:
        """Go on from a snapshot, for a client that has messages up to a later `last_seq`.

        What the client has of them is not sent again: its messages lead to the same events again,
        and the media follows its `position`. Without it, what is spoken ends. Return what is lost
        of it, milliseconds.

        Raises:
            ProtocolError: what this mode says depends on more than the messages of the client.
        """
        outbox = self._outbox
        unknown = last_seq - outbox.last_seq
        if not self._mode.can_repeat:
            message = f"last_seq is {last_seq}; the messages after {outbox.last_seq} are lost"
            raise ProtocolError("resume_gap", message, param="last_seq", value=last_seq)
        events = 0 if position is None else position.events - outbox.events
        if position is not None and 0 <= events <= min(unknown, len(position.last_events)):
            keys = position.last_events
            outbox.skip_to(last_seq, keys[len(keys) - events :])
            self._awaited = position.messages
            self._speech.catch_up(position)
            self._speech.pass_known(now)
            return 0.0
        outbox.skip_to(last_seq)
        return self._speech.give_up(unknown, now)

    @property
    def has_caught_up(self) -> bool:
        """Whether all that follows is unknown to the client."""
        return not self._awaits_client and self._speech.has_caught_up

    @property
    def _awaits_client(self) -> bool:
        """Whether the client sends again what leads to what it has."""
        is_full = self._outbox.characters >= MAX_UNREAD_CHARACTERS // 2
        return self._awaited > self.received.messages and not is_full

    @property
    def progress(self) -> tuple[int, int, int]:
        """Numbers of which at least one grows with each change: events, and messages both ways."""
        return self._outbox.events, self._outbox.last_seq, self.received.messages

    def resumed(self, resume: Resume, replay_from_seq: int, lost_ms: float | None = None) -> str:
        """Return `session.resumed`, the first message of another connection of the session.

        `lost_ms` is what is lost of the speech, if the session goes on from a snapshot. The message
        has no number: the numbered messages from `replay_from_seq` on follow it.
        """
        if self._speech.config.streams_idle_frames:  # the client may lack one that has no number
            self._speech.request_keyframe()
        event = {
            "type": "session.resumed",
            "event_id": f"event_{self.suffix}_resumed",
            "session": self._describe(),
            "resume": resume.describe(),
            "replay_from_seq": replay_from_seq,
            "input_samples": self.received.samples,
            "input_messages": self.received.messages,
            "epoch": self.epoch,
        }
        if lost_ms is not None:
            event |= {"recovered": True, "lost_ms": round(lost_ms)}
        return json.dumps(event, separators=(",", ":"))

    def pull(self, now: float) -> Outgoing | None:
        """Return the message to send next, or `None` if there is nothing to send."""
        while not self._awaits_client:
            queued = self._outbox.pop()
            if queued is not None:
                return Outgoing(*queued)
            media = self._speech.pull(now)
            if media is not None:
                if not media.frame.is_idle:
                    self._active_at = now
                seq = self._outbox.last_seq if media.is_numbered else 0
                times = media.speakable_at, media.heard_at
                return Outgoing(seq, media.message, media.frame, *times)
            if self._outbox.characters == 0 and not self._speech.finish(now):
                if self._outbox.repeats and self._speech.has_caught_up:
                    self._outbox.end_repetition()
                return None
        return None

    # Frames

    def due(self, now: float) -> Iterator[FrameDue[W]]:
        """Yield the frames to generate now; each is in flight once it is yielded."""
        return self._speech.due(now)

    def next_due(self) -> float | None:
        """Return when `due` yields the next frame, or `None` if it does not by time alone."""
        return self._speech.next_due()

    def deliver(
        self,
        response_ref: int,
        epoch: int,
        frame_index: int,
        image: Image,
        now: float,
        *,
        is_drawn: bool = True,
    ) -> bool:
        """Accept a generated frame, or return false if it is no longer awaited."""
        return self._speech.deliver(response_ref, epoch, frame_index, image, now, is_drawn=is_drawn)

    def skip(self, response_ref: int, epoch: int, frame_index: int, now: float) -> bool:
        """Drop a frame that is in flight, or return false if it is no longer awaited.

        The client keeps showing the frame before it, and its audio is sent as usual.
        """
        return self._speech.skip(response_ref, epoch, frame_index, now)

    def fail(self, response_ref: int, epoch: int, now: float) -> None:
        """End the response whose frames the engine could not generate."""
        self._speech.fail(response_ref, epoch, now)

    # Time

    def tick(self, now: float) -> None:
        """Apply the time limits of the session, drop late frames, report the end of playback."""
        self._speech.tick(now)
        if now >= self._ends_at:
            self.end(4410, "the session reached its maximum duration", now)
        elif self._warns_at is not None and now >= self._warns_at:
            self._warns_at = None
            left_s = math.ceil(self._ends_at - now)
            message = f"the session reaches its maximum duration in {left_s} s, and ends then"
            self._outbox.warn("session_expiring", message)
        elif now >= self._active_at + self._limits.idle_timeout_s:
            self.end(4408, "the session was idle for too long", now)

    def wakeup(self) -> float:
        """Return when `tick` must be called next, monotonic seconds."""
        times = (
            self._ends_at,
            self._warns_at,
            self._active_at + self._limits.idle_timeout_s,
            self._speech.stops_at,
            self._speech.next_drop(),
        )
        return min(time for time in times if time is not None)

    # End

    def end(self, code: int, reason: str, now: float) -> None:
        """Set `closing` and end the active response; only the first call has an effect."""
        if self.closing is None:
            self.closing = Close(code, reason)
            self._speech.abort(now)

    # Moving

    @property
    def config(self) -> SessionConfig:
        """The configuration of the session."""
        return self._speech.config

    @property
    def read_only(self) -> ReadOnlyFields:
        """What the client cannot change."""
        return self._read_only

    def check_movable(self) -> None:
        """Check that the session can move to another pod: without `export`, which takes longer.

        Raises:
            ProtocolError: it cannot as it is now.
        """
        if not self.has_caught_up:
            raise not_movable("its client sends again what another pod had")
        self._mode.check_movable()

    def export(self, now: float) -> dict[str, object]:
        """Return the state as plain values, for another pod; nothing changes.

        Raises:
            ProtocolError: the session cannot move as it is now.
        """
        return {
            **document_fields.export(self, _STATE, now),
            "received": document_fields.export(self.received, RECEIVED),
            "binary_input": document_fields.export(self._binary_input, BinaryInput.STATE),
            "outbox": self._outbox.export(),
            "conversation": self._conversation.export(),
            "mode": self._mode.export(now),
        }

    def restore(self, fields: StrictFields, now: float) -> None:
        """Continue from what another session has exported. Only a new session can.

        Raises:
            ProtocolError: a field is missing or wrong; the session is of no use then.
        """
        document_fields.restore(self, fields, _STATE, now)
        warns_at = self._ends_at - EXPIRY_NOTICE_S
        # A session that moves after that has warned its client before.
        self._warns_at = warns_at if now < warns_at else None
        document_fields.restore(self.received, fields.nested("received"), RECEIVED)
        binary = fields.nested("binary_input")
        document_fields.restore(self._binary_input, binary, BinaryInput.STATE)
        self._outbox.restore(fields.nested("outbox"))
        self._conversation.restore(fields, "conversation")
        self._mode.restore(fields.nested("mode"), now)

    def _handle(self, fields: StrictFields, event_id: str | None, now: float) -> None:
        event = client_events.parse(fields)
        match event:
            case client_events.SessionUpdate():
                self._update(event.session, event_id, now)
            case client_events.Ack():
                self._ack(event)
            case client_events.RequestKeyframe():
                self._speech.request_keyframe()
            case _:
                if isinstance(event, client_events.AppendAudio):
                    width = self._speech.config.format.bytes_per_sample
                    self.received.add_audio(len(event.audio), width)
                self._mode.handle(event, fields, event_id, now)

    def _ack(self, ack: client_events.Ack) -> None:
        last_seq = self._outbox.last_seq
        if ack.seq > last_seq:
            message = f"seq is {ack.seq}; the last message has {last_seq}"
            raise ProtocolError("ack_ahead", message, param="seq", value=ack.seq, limit=last_seq)
        self._speech.ack(ack)
        self.acked_seq = max(self.acked_seq, ack.seq)

    def _receive_binary(self, message: bytes, now: float) -> None:
        config = self._speech.config
        if config.transport is not Transport.BINARY:
            raise client_events.binary_not_enabled(len(message))
        audio = self._binary_input.read(message, self.received.samples)
        # What is refused from here on was sent: it has its number and its samples.
        self.received.add_audio(len(audio), config.format.bytes_per_sample)
        self._check_rate(now)
        client_events.check_audio_size(len(audio))
        event = client_events.AppendAudio(audio)
        self._mode.handle(event, StrictFields({"type": "input_audio_buffer.append"}), None, now)

    def _update(self, session: StrictFields, event_id: str | None, now: float) -> None:
        before = self._speech.config
        update = ConfigUpdate(
            before, self._characters, self._read_only, forwards=self._mode.forwards
        )
        after = update.apply(session)
        if not self._speech.is_quiet or self._mode.has_open_audio:
            if after.character != before.character:
                raise response_active("session.avatar.character", after.character.name)
            if after.format != before.format:
                raise response_active("session.audio.input.format", after.format.kind)
            if after.video is not before.video and VideoMode.FMP4 in (after.video, before.video):
                raise response_active("session.avatar.video.mode", after.video.value)
            if (field := session_config.field_that_needs_silence(before, after)) is not None:
                raise response_active(*field)
        self._mode.configure(after, now)
        if not self._mode.forward(session.document, event_id):
            self._report("session.updated")
        for warning in update.warnings:
            self._outbox.warn("no_effect", warning.message, param=warning.param, event_id=event_id)
        self._speech.start_next(now)

    def _describe(self) -> dict[str, object]:
        return self._mode.describe(self._speech.config.describe(self._read_only))

    def _report(self, kind: str) -> None:
        if kind == "session.updated":
            self._outbox.add(kind, {"session": self._describe()})
            self._outbox.is_binary = self._speech.config.transport is Transport.BINARY
            return
        self._speech.allow_idle_frames()
        resume = None if self._resume is None else self._resume.describe()
        self._outbox.add(kind, {"session": self._describe(), "resume": resume})
        conversation = {"id": f"conv_{self.suffix}", "object": "realtime.conversation"}
        self._outbox.add("conversation.created", {"conversation": conversation})

    def _check_rate(self, now: float) -> None:
        if not self._event_rate.admits(now):
            message = f"more than {MAX_EVENTS_PER_S} events per second; this event was dropped"
            raise ProtocolError("rate_limit_exceeded", message, limit=MAX_EVENTS_PER_S)

    def _reject(self, error: ProtocolError, event_id: str | None, now: float) -> None:
        self._outbox.add("error", {"error": server_events.error(error, event_id)})
        if error.close is not None:
            self.end(error.close, error.code, now)
        if not self._error_rate.admits(now):
            message = f"more than {MAX_ERRORS_PER_10_S} errors in 10 s"
            last = ProtocolError("too_many_errors", message, limit=MAX_ERRORS_PER_10_S)
            self._outbox.add("error", {"error": server_events.error(last, None)})
            self.end(1008, "too_many_errors", now)
