"""One session of `/v1/realtime` without I/O: messages and pictures in, messages out.

The session knows no socket, no task and no clock. The shell gives it what came in and the
time, asks it which frames are due, hands it the finished pictures, and pulls messages as
fast as the socket takes them. Media is made into messages at the pull, so what a cancel or
a slow client throws away was never numbered.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, Literal, assert_never

from avatar_runtime.errors import ProtocolError, shown
from avatar_runtime.protocol import messages
from avatar_runtime.protocol.configuration import Configuration, Overrun, Start, Update
from avatar_runtime.protocol.items import Item, Items
from avatar_runtime.protocol.outbox import Outbox
from avatar_runtime.protocol.playout import Playout
from avatar_runtime.protocol.rates import RateWindow
from avatar_runtime.protocol.turn import (
    AudioPiece,
    Gap,
    Phase,
    Picture,
    Step,
    Turn,
    Utterance,
    W,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from avatar_runtime.protocol.configuration import Character, ReadOnly
    from avatar_runtime.protocol.fields import Fields
    from avatar_runtime.protocol.formats import AudioFormat

UNSPOKEN_S: Final = 600
WAITING_TURNS: Final = 64
IN_FLIGHT_FRAMES: Final = 32
UNSENT_BYTES: Final = 4 * 1024 * 1024
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
class FrameDue(Generic[W]):
    """A frame to be made now; the fields are those of the engine's request."""

    response_ref: int
    epoch: int
    frame_index: int
    deadline: float
    avatar: str
    source_frame: int
    window: W
    quality: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message for the socket, and the picture in it if there is one."""

    text: str
    picture: Picture | None = None
    first_since: float | None = None
    """For the first frame of a response: since when it could be made."""


@dataclass(frozen=True, slots=True)
class Active(Generic[W]):
    """The response that is being spoken."""

    turn: Turn[W]
    ref: int
    id: str
    item: Item


@dataclass(frozen=True, slots=True)
class Playing:
    """A finished response whose sound the client still plays."""

    response_id: str
    until: float
    audio_ms: float


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
        self.epoch = 1
        self.closing: Close | None = None
        self._configuration = configuration
        self._characters = characters
        self._read_only = read_only
        self._open_utterance = open_utterance
        self._suffix = read_only.id.removeprefix("sess_")
        self._outbox = Outbox(self._suffix)
        self._items = Items()
        self._playout = Playout(read_only.fps)
        self._events = RateWindow(EVENTS_PER_S, 1.0)
        self._errors = RateWindow(ERRORS_PER_10_S, 10.0)
        self._turns: list[Turn[W]] = []
        self._active: Active[W] | None = None
        self._playing: list[Playing] = []
        self._speaking_id: str | None = None
        self._last_media_id: str | None = None
        self._responses = 0
        self._commits = 0
        self._source_frame = 0
        self._has_new_audio = False
        self._terms = terms
        self._active_at = now
        self._ends_at = now + terms.max_duration_s
        self._send("session.created", session=self._describe(), resume=None)
        conversation = {"id": f"conv_{self._suffix}", "object": "realtime.conversation"}
        self._send("conversation.created", conversation=conversation)

    @property
    def is_speaking(self) -> bool:
        """Whether a response is active."""
        return self._active is not None

    @property
    def has_room(self) -> bool:
        """Whether the client reads its answers; if not, it is not read either."""
        return self._outbox.characters < UNREAD_CHARACTERS

    # What comes in

    def receive(self, message: str | bytes, now: float) -> None:
        """Take one message of the client; every fault of it becomes an `error` event."""
        if self.closing is not None:
            return
        if not self._events.admits(now):
            text = f"more than {EVENTS_PER_S} events in a second; this one was dropped"
            self._refuse(ProtocolError("rate_limit_exceeded", text, limit=EVENTS_PER_S), None, now)
            return
        event_id = None
        try:
            if isinstance(message, bytes):
                raise messages.binary_refused(len(message))
            fields = messages.load(message)
            event_id = messages.event_id(fields)
            self._handle(messages.parse(fields), event_id, now)
        except ProtocolError as error:
            self._refuse(error, event_id, now)
        else:
            self._active_at = now

    def deliver(
        self, response_ref: int, epoch: int, frame_index: int, jpeg: bytes, now: float
    ) -> bool:
        """Take a finished picture, or return that nobody waits for it any more."""
        active = self._active
        if active is None or active.ref != response_ref or epoch != self.epoch:
            return False
        if not active.turn.deliver(frame_index, jpeg):
            return False
        self._playout.add_frame(now)
        if self._configuration.overrun is Overrun.DROP:
            while self._is_overrun(active.turn):
                active.turn.drop_oldest()
        return True

    def fail(self, response_ref: int, epoch: int, now: float) -> None:
        """End the response whose frames the engine could not make."""
        active = self._active
        if active is None or active.ref != response_ref or epoch != self.epoch:
            return
        self._send_error(
            ProtocolError("internal_error", "the frames of this response could not be made"),
            None,
            kind="server_error",
        )
        self._end_response(active, Step.FAIL, now)

    def tick(self, now: float) -> None:
        """Do what is due by time alone."""
        while self._playing and self._playing[0].until <= now:
            self._stop(self._playing.pop(0))
        if now >= self._ends_at:
            self.end(4410, "the session reached its maximum duration", now)
        elif now >= self._active_at + self._terms.idle_timeout_s:
            self.end(4408, "the session was idle for too long", now)

    def end(self, code: int, reason: str, now: float) -> None:
        """Close the connection after what waits; the first reason counts."""
        if self.closing is None:
            self.closing = Close(code, reason)
            if self._active is not None:
                self._end_response(self._active, Step.ABORT, now)

    # What goes out

    def pull(self, now: float) -> Outgoing | None:
        """Return the next message, or `None` while there is nothing to send."""
        while True:
            text = self._outbox.pop()
            if text is not None:
                return Outgoing(text)
            active = self._active
            if active is None or self.closing is not None:
                return None
            media = active.turn.pull()
            if media is not None:
                outgoing = self._send_media(active, media, now)
                if outgoing is not None:
                    return outgoing
            elif active.turn.is_exhausted:
                self._end_response(active, Step.FINISH, now)
            else:
                return None

    def due(self, now: float) -> Iterator[FrameDue[W]]:
        """Yield the frames that the window allows now; each is in flight once it is yielded."""
        active, settings = self._active, self._configuration
        if active is None or self.closing is not None:
            return
        turn = active.turn
        width, height = settings.size
        while turn.next_window is not None and self._may_ask(turn, now):
            index = turn.next_window.frame_index
            deadline = self._playout.deadline(index, turn.in_flight, now)
            yield FrameDue(
                response_ref=active.ref,
                epoch=self.epoch,
                frame_index=index,
                deadline=deadline,
                avatar=settings.character.name,
                source_frame=turn.first_source_frame + index,
                window=turn.ask(now),
                quality=settings.quality,
                width=width,
                height=height,
            )

    def next_due(self) -> float | None:
        """Return when the window opens for the next frame, or `None` if no time is set."""
        if self._active is None or self._active.turn.next_window is None:
            return None
        turn = self._active.turn
        if turn.in_flight >= IN_FLIGHT_FRAMES:
            return None
        return self._playout.opens_at(self._configuration.window_ms, turn.in_flight)

    def wakeup(self) -> float:
        """Return when `tick` has something to do."""
        idle_at = self._active_at + self._terms.idle_timeout_s
        stops_at = self._playing[0].until if self._playing else idle_at
        return min(idle_at, stops_at, self._ends_at)

    # Events of the client

    def _handle(self, event: messages.ClientEvent, event_id: str | None, now: float) -> None:
        match event:
            case messages.SessionUpdate():
                self._update(event.session, event_id, now)
            case messages.Append():
                self._append(event.audio, now)
            case messages.Commit():
                self._commit(now)
            case messages.ClearInput():
                self._clear_input()
            case messages.ClearOutput():
                self._clear_output(now)
            case messages.CreateItem():
                message = "conversation.item.create is not possible in mode drive"
                raise ProtocolError("unsupported_in_mode", message, param="type", value="drive")
            case messages.RetrieveItem():
                item = self._items.get(event.item_id)
                self._send("conversation.item.retrieved", item=item.describe())
            case messages.DeleteItem():
                self._delete(event.item_id)
            case messages.TruncateItem():
                self._truncate(event, now)
            case messages.CreateResponse():
                self._create_response(now)
            case messages.CancelResponse():
                self._cancel(event.response_id, now)
            case messages.Ack():
                self._ack(event, now)
            case messages.RequestKeyframe():
                pass
            case _:
                assert_never(event)

    def _update(self, wanted: Fields, event_id: str | None, now: float) -> None:
        before = self._configuration
        update = Update(before, self._characters, self._read_only)
        after = update.apply(wanted)
        if self._turns and after.character != before.character:
            raise _needs_silence("session.avatar.character", after.character.name)
        if self._turns and after.format != before.format:
            raise _needs_silence("session.audio.input.format", after.format.kind)
        self._configuration = after
        self._send("session.updated", session=self._describe())
        for warned in update.warnings:
            warning = {"code": "no_effect", "message": warned.message, "param": warned.param}
            self._send("warning", warning={**warning, "event_id": event_id})
        self._start_next(now)

    def _append(self, audio: bytes, now: float) -> None:
        settings = self._configuration
        width = settings.format.bytes_per_sample
        if len(audio) % width:
            raise ProtocolError(
                "invalid_audio_length",
                f"audio has {len(audio)} bytes, must be a multiple of {width}",
                param="audio",
                value=len(audio),
                limit=width,
            )
        self._check_room(len(audio) // width)
        if not audio:
            return
        if not (self._turns and self._turns[-1].takes_audio):
            self._open_turn()
        self._turns[-1].append(audio, now)
        self._has_new_audio = True
        self._start_next(now)

    def _check_room(self, samples: int) -> None:
        rate = self._configuration.format.rate
        unspoken = sum(turn.samples - turn.samples_sent for turn in self._turns) + samples
        if unspoken > UNSPOKEN_S * rate:
            raise ProtocolError(
                "input_audio_buffer_full",
                f"{unspoken / rate:.1f} s of audio would wait, at most {UNSPOKEN_S} s are kept",
                param="audio",
                value=round(unspoken / rate, 1),
                limit=UNSPOKEN_S,
            )

    def _open_turn(self) -> None:
        if len(self._turns) >= WAITING_TURNS:
            raise ProtocolError(
                "input_audio_buffer_full",
                f"{len(self._turns)} utterances wait, at most {WAITING_TURNS} are kept",
                param="audio",
                value=len(self._turns),
                limit=WAITING_TURNS,
            )
        audio = self._configuration.format
        self._turns.append(Turn(self._open_utterance(audio), audio, self._read_only.fps))

    def _commit(self, now: float) -> None:
        if not (self._turns and self._turns[-1].takes_audio):
            message = "input_audio_buffer.commit found no audio to commit"
            raise ProtocolError("input_audio_buffer_commit_empty", message, param="type")
        self._turns[-1].commit(now)
        self._commits += 1
        item = Item(f"item_{self._suffix}_u{self._commits}", "user", "completed")
        previous = self._items.add(item)
        self._send("input_audio_buffer.committed", item_id=item.id, previous_item_id=previous)
        for kind in ("added", "done"):
            self._send(f"conversation.item.{kind}", item=item.describe(), previous_item_id=previous)

    def _clear_input(self) -> None:
        started = [turn for turn in self._turns if turn.is_started]
        for turn in self._turns:
            if not turn.is_started:
                turn.step(Step.CLEAR)
                self._has_new_audio = False
        self._turns = started
        self._send("input_audio_buffer.cleared")

    def _clear_output(self, now: float) -> None:
        if self._active is not None:
            self._end_response(self._active, Step.CANCEL, now)
        else:
            self.epoch += 1
        self._playout.stop(now)
        self._playing.clear()
        self._send("output_audio_buffer.cleared", response_id=self._last_media_id, epoch=self.epoch)
        self._become_idle()
        self._start_next(now)

    def _delete(self, item_id: str) -> None:
        item = self._items.get(item_id)
        if item.status == "in_progress":
            raise _needs_silence("item_id", item_id)
        self._items.remove(item_id)
        self._send("conversation.item.deleted", item_id=item_id)

    def _truncate(self, event: messages.TruncateItem, now: float) -> None:
        item = self._items.get(event.item_id)
        self._items.check_truncation(item, event.audio_end_ms)
        if self._active is not None and self._active.item is item:
            self._end_response(self._active, Step.CANCEL, now)
        item.audio_ms = event.audio_end_ms
        self._send(
            "conversation.item.truncated",
            item_id=item.id,
            content_index=0,
            audio_end_ms=event.audio_end_ms,
        )
        self._start_next(now)

    def _create_response(self, now: float) -> None:
        waiting = [turn for turn in self._turns if turn.phase is Phase.WAITING]
        unasked = [turn for turn in waiting if not turn.requested]
        if self._configuration.start is Start.RESPONSE_CREATE and unasked:
            unasked[0].requested = True
            self._start_next(now)
        elif self._configuration.start is Start.APPEND and self._has_new_audio:
            self._has_new_audio = False
        else:
            message = "response.create found no new audio to speak"
            raise ProtocolError("no_input_audio", message, param="type")

    def _cancel(self, response_id: str | None, now: float) -> None:
        active = self._active
        if active is None or response_id not in (None, active.id):
            raise ProtocolError(
                "response_cancel_not_active",
                "no such response is active",
                param="response_id",
                value=shown(response_id),
            )
        self._end_response(active, Step.CANCEL, now)
        self._start_next(now)

    def _ack(self, ack: messages.Ack, now: float) -> None:
        active = self._active
        if active is not None and active.id == ack.response_id:
            self._check_ack(ack, active.turn.positions * 1000 / self._read_only.fps)
        for playing in self._playing:
            if playing.response_id == ack.response_id:
                frame_ms = 1000 / self._read_only.fps
                self._check_ack(ack, -(-playing.audio_ms // frame_ms) * frame_ms)
                if ack.pts_ms >= playing.audio_ms:
                    self._playing.remove(playing)
                    self._stop(playing)
                return

    def _check_ack(self, ack: messages.Ack, sent_ms: float) -> None:
        if ack.pts_ms > sent_ms:
            raise ProtocolError(
                "ack_ahead",
                f"pts_ms is {ack.pts_ms:g}; {sent_ms:g} ms were sent",
                param="pts_ms",
                value=ack.pts_ms,
                limit=sent_ms,
            )

    # Responses

    def _start_next(self, now: float) -> None:
        if self._active is not None or not self._turns or self.closing is not None:
            return
        turn = self._turns[0]
        if self._configuration.start is Start.RESPONSE_CREATE and not turn.requested:
            return
        turn.start(self._source_frame, now)
        self._responses += 1
        ref = self._responses
        item = Item(f"item_{self._suffix}_a{ref}", "assistant", "in_progress")
        active = Active(turn, ref, f"resp_{self._suffix}_{ref}", item)
        self._active = active
        response = self._response(active, "in_progress")
        self._send("response.created", response=response, response_ref=ref, epoch=self.epoch)
        described = item.describe()
        self._send(
            "response.output_item.added", response_id=active.id, output_index=0, item=described
        )
        previous = self._items.add(item)
        self._send("conversation.item.added", item=described, previous_item_id=previous)
        self._send("response.content_part.added", **_place(active), part=_PART)

    def _end_response(self, active: Active[W], step: Step, now: float) -> None:
        turn, item = active.turn, active.item
        turn.step(step)
        status = _STATUS[turn.phase]
        if step is Step.CANCEL:
            self.epoch += 1
        item.status = "completed" if step is Step.FINISH else "incomplete"
        self._send("response.output_audio.done", **_place(active))
        frame_ms = 1000 / self._read_only.fps
        self._send(
            "response.video.done",
            response_id=active.id,
            item_id=item.id,
            output_index=0,
            epoch=self.epoch,
            status=status,
            frames=turn.frames_sent,
            dropped=turn.frames_dropped,
            audio_samples=turn.samples_sent,
            audio_ms=_ms(turn.samples_sent, turn.format.rate),
            video_ms=_whole(turn.positions * frame_ms),
        )
        self._send("response.content_part.done", **_place(active), part=_PART)
        described = item.describe()
        self._send(
            "response.output_item.done", response_id=active.id, output_index=0, item=described
        )
        previous = self._items.previous(item)
        self._send("conversation.item.done", item=described, previous_item_id=previous)
        self._send(
            "response.done",
            response=self._response(active, status),
            response_ref=active.ref,
            epoch=self.epoch,
        )
        self._source_frame += turn.positions
        self._turns.remove(turn)
        self._active = None
        self._playout.take_back(turn.unsent_frames)
        if self._last_media_id == active.id:
            until = max(self._playout.end, now)
            self._playing.append(
                Playing(active.id, until, turn.samples_sent * 1000 / turn.format.rate)
            )
        if step is not Step.CANCEL:
            self._start_next(now)

    def _response(
        self, active: Active[W], status: Literal["in_progress", "completed", "cancelled", "failed"]
    ) -> dict[str, object]:
        details: dict[str, object] | None = None
        if status == "cancelled":
            details = {"type": status, "reason": "client_cancelled", "error": None}
        elif status == "failed":
            code = "session_ended" if active.turn.phase is Phase.ABORTED else "internal_error"
            error = {"type": "server_error", "code": code}
            details = {"type": status, "reason": None, "error": error}
        return {
            "id": active.id,
            "object": "realtime.response",
            "status": status,
            "status_details": details,
            "output": [] if status == "in_progress" else [active.item.describe()],
            "conversation_id": f"conv_{self._suffix}",
            "output_modalities": ["audio"],
            "audio": {"output": {"format": active.turn.format.describe()}},
            "metadata": None,
            "usage": None,
        }

    # Media

    def _may_ask(self, turn: Turn[W], now: float) -> bool:
        settings = self._configuration
        if turn.in_flight >= IN_FLIGHT_FRAMES:
            return False
        waiting = turn.in_flight
        if settings.overrun is Overrun.PAUSE:
            if turn.unsent_bytes >= UNSENT_BYTES:
                return False
            if (turn.unsent_frames + waiting + 1) * 1000 > settings.window_ms * self._read_only.fps:
                return False
        return self._playout.fits(settings.window_ms, waiting, now)

    def _is_overrun(self, turn: Turn[W]) -> bool:
        unsent_ms = turn.unsent_frames * 1000 / self._read_only.fps
        return turn.unsent_bytes > UNSENT_BYTES or unsent_ms > self._configuration.window_ms

    def _send_media(
        self, active: Active[W], media: AudioPiece | Picture | Gap, now: float
    ) -> Outgoing | None:
        """Number the media, or put it behind the events that announce the first of it."""
        self._active_at = now
        if self._last_media_id != active.id:
            self._last_media_id = self._speaking_id = active.id
            self._send("output_audio_buffer.started", response_id=active.id, epoch=self.epoch)
            self._send("session.avatar.switch_to_speaking", turn_id=active.id)
        match media:
            case AudioPiece():
                active.item.audio_ms = int(
                    (media.offset_samples + len(media.data) // active.turn.format.bytes_per_sample)
                    * 1000
                    // active.turn.format.rate
                )
                if self._configuration.audio_deltas:
                    self._send("response.output_audio.delta", **self._audio(active, media))
                return None
            case Gap():
                self._send(
                    "response.video.dropped",
                    response_id=active.id,
                    first_frame_index=media.first,
                    last_frame_index=media.last,
                    reason="slow_client",
                )
                return None
            case Picture():
                first = active.turn.speakable_at if media.frame_index == 0 else None
                text = self._outbox.number("response.video.delta", self._video(active, media))
                return Outgoing(text, media, first)

    def _audio(self, active: Active[W], piece: AudioPiece) -> dict[str, object]:
        return {
            **_place(active),
            "epoch": self.epoch,
            "pts_ms": _ms(piece.offset_samples, active.turn.format.rate),
            "offset_samples": piece.offset_samples,
            "delta": b64encode(piece.data).decode("ascii"),
        }

    def _video(self, active: Active[W], picture: Picture) -> dict[str, object]:
        audio = active.turn.format
        offset = picture.frame_index * audio.samples_per_frame(self._read_only.fps)
        return {
            "response_id": active.id,
            "item_id": active.item.id,
            "output_index": 0,
            "codec": "jpeg",
            "mode": "jpeg",
            "epoch": self.epoch,
            "frame_index": picture.frame_index,
            "offset_samples": offset,
            "pts_ms": _ms(offset, audio.rate),
            "keyframe": True,
            "idle": False,
            "delta": b64encode(picture.jpeg).decode("ascii"),
        }

    def _stop(self, playing: Playing) -> None:
        self._send("output_audio_buffer.stopped", response_id=playing.response_id, epoch=self.epoch)
        if self._speaking_id == playing.response_id:
            self._become_idle()

    def _become_idle(self) -> None:
        if self._speaking_id is not None:
            self._send("session.avatar.switch_to_idle", turn_id=self._speaking_id)
            self._speaking_id = None

    # Answers

    def _describe(self) -> dict[str, object]:
        return self._configuration.describe(self._read_only)

    def _send(self, kind: str, **fields: object) -> None:
        self._outbox.add(kind, fields)

    def _refuse(self, error: ProtocolError, event_id: str | None, now: float) -> None:
        self._send_error(error, event_id)
        if error.close is not None:
            self.end(error.close, error.code, now)
        if not self._errors.admits(now):
            text = f"more than {ERRORS_PER_10_S} errors in 10 s"
            self._send_error(ProtocolError("too_many_errors", text, limit=ERRORS_PER_10_S), None)
            self.end(1008, "too_many_errors", now)

    def _send_error(
        self, error: ProtocolError, event_id: str | None, kind: str = "invalid_request_error"
    ) -> None:
        self._send("error", error=describe_error(error, event_id, kind))


def describe_error(
    error: ProtocolError, event_id: str | None, kind: str = "invalid_request_error"
) -> dict[str, object]:
    """Return the error object of wire protocol §13."""
    return {
        "type": kind,
        "code": error.code,
        "message": error.message,
        "param": error.param,
        "event_id": event_id,
        "value": error.value,
        "limit": error.limit,
    }


def _needs_silence(param: str, value: str) -> ProtocolError:
    message = f"{param} cannot change while a response is active or audio waits"
    return ProtocolError("response_active", message, param=param, value=shown(value))


def _place(active: Active[W]) -> dict[str, object]:
    return {
        "response_id": active.id,
        "item_id": active.item.id,
        "output_index": 0,
        "content_index": 0,
    }


def _ms(samples: int, rate: int) -> int | float:
    return _whole(samples * 1000 / rate)


def _whole(number: float) -> int | float:
    return int(number) if number == int(number) else round(number, 3)


_PART: Final[Mapping[str, object]] = {"type": "output_audio", "transcript": ""}
_STATUS: Final[Mapping[Phase, Literal["completed", "cancelled", "failed"]]] = {
    Phase.COMPLETED: "completed",
    Phase.CANCELLED: "cancelled",
    Phase.FAILED: "failed",
    Phase.ABORTED: "failed",
}
