"""What the avatar says in one session: one response at a time, its frames in and its media out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic

from avatar_runtime.errors import ProtocolError, shown
from avatar_runtime.protocol import server_events
from avatar_runtime.protocol.conversation import Item, Items
from avatar_runtime.protocol.input_buffer import InputBuffer
from avatar_runtime.protocol.pacing import Playout
from avatar_runtime.protocol.playback import Playback, Playing
from avatar_runtime.protocol.response import Response, SentPicture
from avatar_runtime.protocol.session_config import Configuration, Overrun, Start
from avatar_runtime.protocol.turn import Step, Turn, Utterance, W

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from avatar_runtime.protocol import client_events
    from avatar_runtime.protocol.audio_formats import AudioFormat
    from avatar_runtime.protocol.outbox import Outbox

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
        self._items = Items()
        self._playout = Playout(fps)
        self._playback = Playback(fps, outbox)
        self._input = InputBuffer(suffix, fps, outbox, self._items, open_utterance)
        self._active: Response[W] | None = None
        self._responses = 0
        self._source_frame = 0

    @property
    def is_active(self) -> bool:
        """Whether a response is active."""
        return self._active is not None

    @property
    def is_silent(self) -> bool:
        """Whether no response is active and no audio waits for one."""
        return self._input.oldest is None

    @property
    def stops_at(self) -> float | None:
        """When the client will have played the oldest finished response."""
        return self._playback.stops_at

    # Input

    def append(self, audio: bytes, now: float) -> None:
        """Take sound; the first of it opens an utterance."""
        if self._input.append(audio, self.configuration.format, now):
            self.start_next(now)

    def commit(self, now: float) -> None:
        """End the open utterance."""
        self._input.commit(now)

    def clear_input(self) -> None:
        """Throw away the utterances whose response has not started."""
        self._input.clear()

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
        unasked, start = self._input.oldest_unasked, self.configuration.start
        if start is Start.RESPONSE_CREATE and unasked is not None:
            unasked.requested = True
            self.start_next(now)
        elif start is not Start.APPEND or not self._input.take_new_audio():
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
        self._playback.clear(self.epoch)
        self.start_next(now)

    def fail(self, response_ref: int, epoch: int, now: float) -> None:
        """End the response whose frames the engine could not make."""
        active = self._awaiting(response_ref, epoch)
        if active is None:
            return
        fault = ProtocolError("internal_error", "the frames of this response could not be made")
        self._send("error", error=server_events.error(fault, None, "server_error"))
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
        turn = self._input.oldest
        if self._active is not None or turn is None:
            return
        if self.configuration.start is Start.RESPONSE_CREATE and not turn.requested:
            return
        turn.start(self._source_frame, now)
        self._responses += 1
        ref, suffix = self._responses, self._suffix
        self._active = Response(
            turn,
            ref,
            f"resp_{suffix}_{ref}",
            f"conv_{suffix}",
            Item(f"item_{suffix}_a{ref}", "assistant", "in_progress"),
            self._fps,
            self._outbox,
        )
        self._active.tell_start(self._items, self.epoch)

    def _end(self, active: Response[W], step: Step, now: float) -> None:
        turn = active.turn
        turn.step(step)
        if step is Step.CANCEL:
            self.epoch += 1
        active.item.status = "completed" if step is Step.FINISH else "incomplete"
        active.tell_end(self._items, self.epoch)
        self._source_frame += turn.positions
        self._input.remove(turn)
        self._active = None
        self._playout.take_back(turn.unsent_frames)
        if self._playback.has_begun(active.id):
            audio_ms = turn.samples_sent * 1000 / turn.format.rate
            self._playback.finish(Playing(active.id, max(self._playout.end, now), audio_ms))

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

    def _awaiting(self, response_ref: int, epoch: int) -> Response[W] | None:
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
            if not self._playback.has_begun(active.id):
                self._playback.begin(active.id, self.epoch)
            deltas = self.configuration.audio_deltas
            sent = active.send_media(media, self.epoch, audio_deltas=deltas)
            if sent is not None or self._outbox.characters:
                return sent
        return None

    # Playout

    def ack(self, ack: client_events.Ack) -> None:
        """Take note of what the client has played."""
        active = self._active
        if active is not None and active.id == ack.response_id:
            self._playback.check(ack, active.turn.positions)
        self._playback.ack(ack, self.epoch)

    def tick(self, now: float) -> None:
        """Tell of the responses that the client has played by now."""
        self._playback.tick(now, self.epoch)

    def _send(self, kind: str, **fields: object) -> None:
        self._outbox.add(kind, fields)


def needs_silence(param: str, value: str) -> ProtocolError:
    """Return the error for a change that has to wait for the end of the response."""
    message = f"{param} cannot change while a response is active or audio waits"
    return ProtocolError("response_active", message, param=param, value=shown(value))
