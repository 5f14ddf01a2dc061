"""What the avatar says in one session: utterances in, one response at a time, media out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic

from avatar_runtime.errors import ProtocolError, shown
from avatar_runtime.protocol import events
from avatar_runtime.protocol.configuration import Configuration, Overrun, Start
from avatar_runtime.protocol.items import Item, Items
from avatar_runtime.protocol.playout import Playout
from avatar_runtime.protocol.turn import (
    AudioPiece,
    Gap,
    Media,
    Phase,
    Picture,
    Step,
    Turn,
    Utterance,
    W,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from avatar_runtime.protocol import messages
    from avatar_runtime.protocol.formats import AudioFormat
    from avatar_runtime.protocol.outbox import Outbox

UNSPOKEN_S: Final = 600
WAITING_TURNS: Final = 64
IN_FLIGHT_FRAMES: Final = 32
UNSENT_BYTES: Final = 4 * 1024 * 1024


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
class SentPicture:
    """A picture as the message that carries it."""

    text: str
    picture: Picture
    first_since: float | None
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


class Speech(Generic[W]):
    """Utterances, responses and their media. The session is its owner."""

    def __init__(
        self,
        suffix: str,
        fps: int,
        outbox: Outbox,
        *,
        configuration: Configuration,
        open_utterance: Callable[[AudioFormat], Utterance[W]],
    ) -> None:
        self.epoch = 1
        self.configuration = configuration
        self._suffix = suffix
        self._fps = fps
        self._outbox = outbox
        self._open_utterance = open_utterance
        self._items = Items()
        self._playout = Playout(fps)
        self._turns: list[Turn[W]] = []
        self._active: Active[W] | None = None
        self._playing: list[Playing] = []
        self._speaking_id: str | None = None
        self._last_media_id: str | None = None
        self._responses = 0
        self._commits = 0
        self._source_frame = 0
        self._has_new_audio = False

    @property
    def is_active(self) -> bool:
        """Whether a response is active."""
        return self._active is not None

    @property
    def is_silent(self) -> bool:
        """Whether no response is active and no audio waits for one."""
        return not self._turns

    @property
    def stops_at(self) -> float | None:
        """When the client will have played the oldest finished response."""
        return self._playing[0].until if self._playing else None

    # Input

    def append(self, audio: bytes, now: float) -> None:
        """Take sound; the first of it opens an utterance."""
        width = self.configuration.format.bytes_per_sample
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
        self.start_next(now)

    def commit(self, now: float) -> None:
        """End the open utterance."""
        if not (self._turns and self._turns[-1].takes_audio):
            message = "input_audio_buffer.commit found no audio to commit"
            raise ProtocolError("input_audio_buffer_commit_empty", message, param="type")
        self._turns[-1].commit(now)
        self._commits += 1
        item = Item(f"item_{self._suffix}_u{self._commits}", "user", "completed")
        previous = self._items.add(item)
        self._send("input_audio_buffer.committed", item_id=item.id, previous_item_id=previous)
        for kind in ("added", "done"):
            described = item.describe()
            self._send(f"conversation.item.{kind}", item=described, previous_item_id=previous)

    def clear_input(self) -> None:
        """Throw away the utterances whose response has not started."""
        for turn in self._turns:
            if not turn.is_started:
                turn.step(Step.CLEAR)
                self._has_new_audio = False
        self._turns = [turn for turn in self._turns if turn.is_started]
        self._send("input_audio_buffer.cleared")

    def _check_room(self, samples: int) -> None:
        rate = self.configuration.format.rate
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
        audio = self.configuration.format
        self._turns.append(Turn(self._open_utterance(audio), audio, self._fps))

    # Conversation

    def retrieve(self, item_id: str) -> None:
        """Answer with an item."""
        item = self._items.get(item_id)
        self._send("conversation.item.retrieved", item=item.describe())

    def delete(self, item_id: str) -> None:
        """Forget an item that is not being spoken."""
        item = self._items.get(item_id)
        if item.status == "in_progress":
            raise needs_silence("item_id", item_id)
        self._items.remove(item_id)
        self._send("conversation.item.deleted", item_id=item_id)

    def truncate(self, item_id: str, audio_end_ms: int, now: float) -> None:
        """End the sound of an item; if it is being spoken, its response is cancelled first."""
        item = self._items.get(item_id)
        self._items.check_truncation(item, audio_end_ms)
        if self._active is not None and self._active.item is item:
            self._end(self._active, Step.CANCEL, now)
        if item.id == f"item_{self._suffix}_a{self._responses}":
            self._playout.stop(now)  # the client has stopped playing it
        item.audio_ms = audio_end_ms
        self._send(
            "conversation.item.truncated",
            item_id=item.id,
            content_index=0,
            audio_end_ms=audio_end_ms,
        )
        self.start_next(now)

    # Responses

    def create_response(self, now: float) -> None:
        """Start the oldest committed utterance that nobody asked for, where that is needed."""
        waiting = [turn for turn in self._turns if turn.phase is Phase.WAITING]
        unasked = [turn for turn in waiting if not turn.requested]
        if self.configuration.start is Start.RESPONSE_CREATE and unasked:
            unasked[0].requested = True
            self.start_next(now)
        elif self.configuration.start is Start.APPEND and self._has_new_audio:
            self._has_new_audio = False
        else:
            message = "response.create found no new audio to speak"
            raise ProtocolError("no_input_audio", message, param="type")

    def cancel(self, response_id: str | None, now: float) -> None:
        """End the active response."""
        active = self._active
        if active is None or response_id not in (None, active.id):
            raise ProtocolError(
                "response_cancel_not_active",
                "no such response is active",
                param="response_id",
                value=shown(response_id),
            )
        self._end(active, Step.CANCEL, now)
        self.start_next(now)

    def clear_output(self, now: float) -> None:
        """End the active response, and what the client has and did not play."""
        if self._active is not None:
            self._end(self._active, Step.CANCEL, now)
        else:
            self.epoch += 1
        self._playout.stop(now)
        self._playing.clear()
        self._send("output_audio_buffer.cleared", response_id=self._last_media_id, epoch=self.epoch)
        self._become_idle()
        self.start_next(now)

    def fail(self, response_ref: int, epoch: int, now: float) -> None:
        """End the response whose frames the engine could not make."""
        active = self._awaiting(response_ref, epoch)
        if active is None:
            return
        fault = ProtocolError("internal_error", "the frames of this response could not be made")
        self._send("error", error=events.error(fault, None, "server_error"))
        self._end(active, Step.FAIL, now)
        self.start_next(now)

    def abort(self, now: float) -> None:
        """End the active response because the session ends."""
        if self._active is not None:
            self._end(self._active, Step.ABORT, now)

    def finish(self, now: float) -> bool:
        """End the active response if all of it was sent, and return whether that was so."""
        active = self._active
        if active is None or not active.turn.is_exhausted:
            return False
        self._end(active, Step.FINISH, now)
        self.start_next(now)
        return True

    def start_next(self, now: float) -> None:
        """Start the response of the oldest utterance, if it may start."""
        if self._active is not None or not self._turns:
            return
        turn = self._turns[0]
        if self.configuration.start is Start.RESPONSE_CREATE and not turn.requested:
            return
        turn.start(self._source_frame, now)
        self._responses += 1
        ref = self._responses
        item = Item(f"item_{self._suffix}_a{ref}", "assistant", "in_progress")
        active = self._active = Active(turn, ref, f"resp_{self._suffix}_{ref}", item)
        started = self._response(active, "in_progress")
        self._send("response.created", response=started, response_ref=ref, epoch=self.epoch)
        self._send_item("response.output_item.added", active)
        previous = self._items.add(item)
        self._send("conversation.item.added", item=item.describe(), previous_item_id=previous)
        place = events.place(active.id, item)
        self._send("response.content_part.added", **place, part=events.PART)

    def _end(self, active: Active[W], step: Step, now: float) -> None:
        turn, item = active.turn, active.item
        turn.step(step)
        if step is Step.CANCEL:
            self.epoch += 1
        item.status = "completed" if step is Step.FINISH else "incomplete"
        place = events.place(active.id, item)
        self._send("response.output_audio.done", **place)
        self._send_video_done(active)
        self._send("response.content_part.done", **place, part=events.PART)
        self._send_item("response.output_item.done", active)
        previous = self._items.previous(item)
        self._send("conversation.item.done", item=item.describe(), previous_item_id=previous)
        ended = self._response(active, _STATUS[turn.phase])
        self._send("response.done", response=ended, response_ref=active.ref, epoch=self.epoch)
        self._source_frame += turn.positions
        self._turns.remove(turn)
        self._active = None
        self._playout.take_back(turn.unsent_frames)
        if self._last_media_id == active.id:
            audio_ms = turn.samples_sent * 1000 / turn.format.rate
            self._playing.append(Playing(active.id, max(self._playout.end, now), audio_ms))

    def _send_video_done(self, active: Active[W]) -> None:
        turn = active.turn
        self._send(
            "response.video.done",
            response_id=active.id,
            item_id=active.item.id,
            output_index=0,
            epoch=self.epoch,
            status=_STATUS[turn.phase],
            frames=turn.frames_sent,
            dropped=turn.frames_dropped,
            audio_samples=turn.samples_sent,
            audio_ms=events.milliseconds(turn.samples_sent, turn.format.rate),
            video_ms=events.whole(turn.positions * 1000 / self._fps),
        )

    def _response(self, active: Active[W], status: str) -> dict[str, object]:
        return events.response(
            active.id,
            f"conv_{self._suffix}",
            status,
            [active.item.describe()] if active.item.status != "in_progress" else [],
            audio=active.turn.format,
            details=_DETAILS.get(active.turn.phase),
        )

    # Frames

    def due(self, now: float) -> Iterator[FrameDue[W]]:
        """Yield the frames that the window allows now; each is in flight once it is yielded."""
        active = self._active
        if active is None:
            return
        turn, settings = active.turn, self.configuration
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
        """Return when the window opens for the next frame, or `None` if time alone opens none."""
        if self._active is None or self._active.turn.next_window is None:
            return None
        in_flight = self._active.turn.in_flight
        if in_flight >= IN_FLIGHT_FRAMES:
            return None
        return self._playout.opens_at(self.configuration.window_ms, in_flight)

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
        active = self._awaiting(response_ref, epoch)
        if active is None:
            return False
        settled = active.turn.settled
        if not active.turn.deliver(frame_index, jpeg, is_drawn=is_drawn):
            return False
        self._playout.add_frames(active.turn.settled - settled, now)
        if self.configuration.overrun is Overrun.DROP:
            while self._is_overrun(active.turn):
                active.turn.drop_oldest()
        return True

    def skip(self, response_ref: int, epoch: int, frame_index: int, now: float) -> bool:
        """Hold the previous picture in place of a frame, or return that nobody waits for it."""
        active = self._awaiting(response_ref, epoch)
        if active is None:
            return False
        settled = active.turn.settled
        if not active.turn.skip(frame_index):
            return False
        # Its sound is played all the same.
        self._playout.add_frames(active.turn.settled - settled, now)
        return True

    def _awaiting(self, response_ref: int, epoch: int) -> Active[W] | None:
        active = self._active
        if active is None or active.ref != response_ref or epoch != self.epoch:
            return None
        return active

    def _may_ask(self, turn: Turn[W], now: float) -> bool:
        window_ms = self.configuration.window_ms
        if turn.in_flight >= IN_FLIGHT_FRAMES:
            return False
        if self.configuration.overrun is Overrun.PAUSE:
            unsent = turn.unsent_frames + turn.in_flight + 1
            if unsent * 1000 > window_ms * self._fps or turn.unsent_bytes >= UNSENT_BYTES:
                return False
        return self._playout.fits(window_ms, turn.in_flight, now)

    def _is_overrun(self, turn: Turn[W]) -> bool:
        unsent_ms = turn.unsent_frames * 1000 / self._fps
        return turn.unsent_bytes > UNSENT_BYTES or unsent_ms > self.configuration.window_ms

    # Media

    def pull(self) -> SentPicture | None:
        """Return the next picture, or put what leaves before it into the outbox.

        The outbox has to be empty: what is numbered here leaves at once.
        """
        active = self._active
        while active is not None and (media := active.turn.pull()) is not None:
            self._announce(active)
            sent = self._send_media(active, media)
            if sent is not None or self._outbox.characters:
                return sent
        return None

    def _announce(self, active: Active[W]) -> None:
        if self._last_media_id != active.id:
            self._last_media_id = self._speaking_id = active.id
            self._send("output_audio_buffer.started", response_id=active.id, epoch=self.epoch)
            self._send("session.avatar.switch_to_speaking", turn_id=active.id)

    def _send_media(self, active: Active[W], media: Media) -> SentPicture | None:
        turn, item = active.turn, active.item
        audio = turn.format
        match media:
            case AudioPiece():
                item.audio_ms = turn.samples_sent * 1000 // audio.rate
                if self.configuration.audio_deltas:
                    delta = events.audio_delta(active.id, item, self.epoch, audio, media)
                    self._send("response.output_audio.delta", **delta)
            case Gap():
                self._send(
                    "response.video.dropped",
                    response_id=active.id,
                    first_frame_index=media.first,
                    last_frame_index=media.last,
                    reason=media.reason.value,
                )
            case Picture():
                first_since = turn.speakable_at if media.frame_index == 0 else None
                offset = media.frame_index * audio.samples_per_frame(self._fps)
                delta = events.video_delta(
                    active.id, item, self.epoch, media, offset_samples=offset, rate=audio.rate
                )
                text = self._outbox.number("response.video.delta", delta)
                return SentPicture(text, media, first_since)
        return None

    # Playout

    def ack(self, ack: messages.Ack) -> None:
        """Take note of what the client has played."""
        active = self._active
        if active is not None and active.id == ack.response_id:
            self._check_ack(ack, active.turn.positions)
        for playing in self._playing:
            if playing.response_id == ack.response_id:
                self._check_ack(ack, -(-playing.audio_ms * self._fps // 1000))
                if ack.pts_ms >= playing.audio_ms:
                    self._playing.remove(playing)
                    self._stop(playing)
                return

    def tick(self, now: float) -> None:
        """Tell of the responses that the client has played by now."""
        while self._playing and self._playing[0].until <= now:
            self._stop(self._playing.pop(0))

    def _check_ack(self, ack: messages.Ack, frames: float) -> None:
        sent_ms = frames * 1000 / self._fps
        if ack.pts_ms > sent_ms:
            raise ProtocolError(
                "ack_ahead",
                f"pts_ms is {ack.pts_ms:g}; {sent_ms:g} ms were sent",
                param="pts_ms",
                value=ack.pts_ms,
                limit=sent_ms,
            )

    def _stop(self, playing: Playing) -> None:
        self._send("output_audio_buffer.stopped", response_id=playing.response_id, epoch=self.epoch)
        if self._speaking_id == playing.response_id:
            self._become_idle()

    def _become_idle(self) -> None:
        if self._speaking_id is not None:
            self._send("session.avatar.switch_to_idle", turn_id=self._speaking_id)
            self._speaking_id = None

    def _send_item(self, kind: str, active: Active[W]) -> None:
        described = active.item.describe()
        self._send(kind, response_id=active.id, output_index=0, item=described)

    def _send(self, kind: str, **fields: object) -> None:
        self._outbox.add(kind, fields)


def needs_silence(param: str, value: str) -> ProtocolError:
    """Return the error for a change that has to wait for the end of the response."""
    message = f"{param} cannot change while a response is active or audio waits"
    return ProtocolError("response_active", message, param=param, value=shown(value))


_STATUS: Final[Mapping[Phase, str]] = {
    Phase.COMPLETED: "completed",
    Phase.CANCELLED: "cancelled",
    Phase.FAILED: "failed",
    Phase.ABORTED: "failed",
}
_DETAILS: Final[Mapping[Phase, Mapping[str, object]]] = {
    Phase.CANCELLED: {"type": "cancelled", "reason": "client_cancelled", "error": None},
    Phase.FAILED: {
        "type": "failed",
        "reason": None,
        "error": {"type": "server_error", "code": "internal_error"},
    },
    Phase.ABORTED: {
        "type": "failed",
        "reason": None,
        "error": {"type": "server_error", "code": "session_ended"},
    },
}
