"""What the avatar says in one session: one response at a time, from utterance to playback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic

from avatar_runtime.errors import ProtocolError, shown
from avatar_runtime.protocol import server_events
from avatar_runtime.protocol.conversation import Item
from avatar_runtime.protocol.frame_flow import FrameFlow
from avatar_runtime.protocol.input_buffer import InputBuffer
from avatar_runtime.protocol.live_source import OverloadReport
from avatar_runtime.protocol.media import W
from avatar_runtime.protocol.playback import Playback, PlayingResponse
from avatar_runtime.protocol.response import Response
from avatar_runtime.protocol.session_config import Overrun, StartTrigger
from avatar_runtime.protocol.turn import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from avatar_runtime.protocol import client_events
    from avatar_runtime.protocol.audio_formats import AudioFormat
    from avatar_runtime.protocol.conversation import Conversation
    from avatar_runtime.protocol.frame_flow import FrameDue
    from avatar_runtime.protocol.media import Utterance
    from avatar_runtime.protocol.outbox import Outbox
    from avatar_runtime.protocol.response import VideoMessage
    from avatar_runtime.protocol.session_config import SessionConfig


class Speech(Generic[W]):
    """The utterances and responses of a session."""

    def __init__(
        self,
        suffix: str,
        fps: int,
        outbox: Outbox,
        conversation: Conversation,
        *,
        config: SessionConfig,
        open_utterance: Callable[[AudioFormat], Utterance[W]],
    ) -> None:
        """`suffix` is the common suffix of the session's identifiers."""
        self.epoch = 1
        self.config = config
        self._suffix = suffix
        self._fps = fps
        self._outbox = outbox
        self._conversation = conversation
        self._flow: FrameFlow[W] = FrameFlow(fps)
        self._playback = Playback(fps, outbox)
        self._input = InputBuffer(suffix, fps, outbox, conversation, open_utterance)
        self._active: Response[W] | None = None
        self._responses = 0
        self._source_frame = 0
        self._overload = OverloadReport()
        self.frames_lapsed = 0
        """Frames that were dropped because they were too late for a live source."""

    @property
    def is_active(self) -> bool:
        """Whether a response is active."""
        return self._active is not None

    @property
    def is_quiet(self) -> bool:
        """Whether no response is active and no audio waits for one."""
        return self._input.oldest is None

    @property
    def stops_at(self) -> float | None:
        """When the client will have played the oldest finished response."""
        return self._playback.stops_at

    # Input

    def append(self, audio: bytes, now: float) -> None:
        """Add audio; the first of it opens a turn.

        Raises:
            ProtocolError: the audio is not a whole number of samples, or the buffer is full.
        """
        if self._input.append(audio, self.config.format, now):
            self.start_next(now)

    def commit(self, now: float) -> None:
        """End the open turn's audio.

        Raises:
            ProtocolError: no turn is open.
        """
        self._input.commit(now)

    def clear_input(self) -> None:
        """Discard the turns whose response has not started."""
        self._input.clear()

    # Responses

    def create_response(self, now: float) -> None:
        """Start the response of the oldest committed turn, if the start trigger requires it.

        Raises:
            ProtocolError: there is no new audio to speak.
        """
        unrequested, trigger = self._input.oldest_unrequested, self.config.start
        if trigger is StartTrigger.RESPONSE_CREATE and unrequested is not None:
            unrequested.requested = True
            self.start_next(now)
        elif trigger is not StartTrigger.APPEND or not self._input.consume_new_audio():
            message = "response.create found no new audio to speak"
            raise ProtocolError("no_input_audio", message, param="type")

    def cancel(self, response_id: str | None, now: float) -> None:
        """End the active response; `None` names whichever response is active.

        Raises:
            ProtocolError: the response is not active.
        """
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
        """End the active response and all that the client has not played."""
        if self._active is not None:
            self._end(self._active, Step.CANCEL, now)
        else:
            self.epoch += 1
        self._flow.stop(now)
        self._playback.clear(self.epoch)
        self.start_next(now)

    def truncate(self, item_id: str, audio_end_ms: int, now: float) -> None:
        """End the audio of an item; cancel its response first if it is active.

        Raises:
            ProtocolError: the item does not exist, is the user's, or has less audio.
        """
        item = self._conversation.get(item_id)
        self._conversation.check_truncation(item, audio_end_ms)
        if self._active is not None and self._active.item is item:
            self._end(self._active, Step.CANCEL, now)
        if item.id == f"item_{self._suffix}_a{self._responses}":
            self._flow.stop(now)  # the client has stopped playing it
        self._conversation.truncate(item, audio_end_ms)
        self.start_next(now)

    def fail(self, response_ref: int, epoch: int, now: float) -> None:
        """End the response whose frames the engine could not generate."""
        active = self._awaited(response_ref, epoch)
        if active is None:
            return
        fault = ProtocolError("internal_error", "the engine could not generate the frames")
        self._outbox.add("error", {"error": server_events.error(fault, None, "server_error")})
        self._end(active, Step.FAIL, now)
        self.start_next(now)

    def abort(self, now: float) -> None:
        """End the active response because the session ends."""
        if self._active is not None:
            self._end(self._active, Step.ABORT, now)

    def finish(self, now: float) -> bool:
        """End the active response if all of it was sent, and return whether it was."""
        active = self._active
        if active is None or not active.turn.is_exhausted:
            return False
        self._end(active, Step.FINISH, now)
        self.start_next(now)
        return True

    def start_next(self, now: float) -> None:
        """Start the response of the oldest turn, if no response is active and it may start."""
        turn = self._input.oldest
        if self._active is not None or turn is None:
            return
        if self.config.start is StartTrigger.RESPONSE_CREATE and not turn.requested:
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
        self._active.announce_start(self._conversation, self.epoch)

    def _end(self, active: Response[W], step: Step, now: float) -> None:
        turn = active.turn
        turn.step(step)
        if step is Step.CANCEL:
            self.epoch += 1
        active.item.status = "completed" if step is Step.FINISH else "incomplete"
        active.announce_end(self._conversation, self.epoch)
        self._source_frame += turn.positions
        self._input.remove(turn)
        self._active = None
        self._flow.end(turn)
        if self._playback.has_started(active.id):
            audio_ms = turn.samples_sent * 1000 / turn.format.rate
            until = max(self._flow.plays_until, now)
            self._playback.finish(PlayingResponse(active.id, until, audio_ms))

    # Frames

    def due(self, now: float) -> Iterator[FrameDue[W]]:
        """Yield the frames that the window allows now; each is in flight once it is yielded."""
        self.drop_late(now)
        if self._active is not None:
            yield from self._flow.due(self._active, self.config, self.epoch, now)

    def next_due(self) -> float | None:
        """Return when the window has room for the next frame, or `None` if time makes none."""
        if self._active is None:
            return None
        return self._flow.next_due(self._active.turn, self.config)

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
        """Accept a generated frame, or return false if it is no longer awaited."""
        active = self._awaited(response_ref, epoch)
        return active is not None and self._flow.deliver(
            active.turn, self.config, frame_index, jpeg, now, is_drawn=is_drawn
        )

    def skip(self, response_ref: int, epoch: int, frame_index: int, now: float) -> bool:
        """Drop a frame that is in flight, or return false if it is no longer awaited."""
        active = self._awaited(response_ref, epoch)
        if active is None or not self._flow.skip(active.turn, self.config, frame_index, now):
            return False
        self._report_overload(now)
        return True

    def drop_late(self, now: float) -> None:
        """Drop the frames that are too late for a live speaker, unless frames may be late."""
        expires_at = self._expires_at()
        if self._active is None or expires_at is None or expires_at > now:
            return
        self._report_overload(now)
        if self.config.overrun is Overrun.DROP:
            self.frames_lapsed += self._flow.drop_late(self._active.turn, self.config, now)

    def next_drop(self) -> float | None:
        """Return when `drop_late` drops the next frame, or `None` if it does not by time alone."""
        return self._expires_at() if self.config.overrun is Overrun.DROP else None

    def _expires_at(self) -> float | None:
        active = self._active
        return None if active is None else self._flow.expires_at(active.turn, self.config)

    def _report_overload(self, now: float) -> None:
        if self._overload.is_new(now):
            self._outbox.add("warning", {"warning": server_events.OVERLOAD})

    def _awaited(self, response_ref: int, epoch: int) -> Response[W] | None:
        active = self._active
        if active is None or active.ref != response_ref or epoch != self.epoch:
            return None
        return active

    # Media and playback

    def pull(self) -> VideoMessage | None:
        """Return the next frame, or put the media that comes before it into the outbox.

        The outbox must be empty, because numbered messages are sent in order.
        """
        active = self._active
        while active is not None and (media := active.turn.pull()) is not None:
            if not self._playback.has_started(active.id):
                self._playback.start(active.id, self.epoch)
            deltas = self.config.audio_deltas
            message = active.send_media(media, self.epoch, audio_deltas=deltas)
            if message is not None or self._outbox.characters:
                return message
        return None

    def ack(self, ack: client_events.Ack) -> None:
        """Record how much the client has played.

        Raises:
            ProtocolError: the ack is ahead of the media sent.
        """
        active = self._active
        if active is not None and active.id == ack.response_id:
            self._playback.check_ack(ack, active.turn.positions)
        self._playback.ack(ack, self.epoch)

    def tick(self, now: float) -> None:
        """Drop late frames, and report the responses that the client has played by now."""
        self.drop_late(now)
        self._playback.tick(now, self.epoch)
