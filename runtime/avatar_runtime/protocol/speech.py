"""What the avatar says in one session: one response at a time, from utterance to playback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic

from avatar_runtime.errors import ProtocolError, shown
from avatar_runtime.protocol import closing_frame, server_events
from avatar_runtime.protocol.audio_intake import AudioIntake
from avatar_runtime.protocol.conversation import Item
from avatar_runtime.protocol.frame_flow import FrameFlow
from avatar_runtime.protocol.input_buffer import InputBuffer
from avatar_runtime.protocol.live_source import OverloadReport
from avatar_runtime.protocol.media import W
from avatar_runtime.protocol.playback import Playback, PlayingResponse
from avatar_runtime.protocol.response import Answer, Response, VideoMessage
from avatar_runtime.protocol.session_config import Overrun, StartTrigger
from avatar_runtime.protocol.turn import Phase, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from avatar_runtime.protocol import client_events
    from avatar_runtime.protocol.audio_formats import AudioFormat
    from avatar_runtime.protocol.conversation import Conversation
    from avatar_runtime.protocol.frame_flow import FrameDue
    from avatar_runtime.protocol.media import Utterance, VoiceDetector
    from avatar_runtime.protocol.outbox import Outbox
    from avatar_runtime.protocol.session_config import SessionConfig
    from avatar_runtime.protocol.turn import ResponseRequest


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
        open_detector: Callable[[AudioFormat], VoiceDetector],
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
        self._closing = closing_frame.ClosingFrame(open_utterance, fps)
        self._input = InputBuffer(suffix, fps, outbox, conversation, open_utterance)
        self.intake = AudioIntake(self._input, outbox, self, open_detector)
        """Takes the audio of the client."""
        self._active: Response[W] | None = None
        self._unclaimed_id: str | None = None  # a finished response that no create has asked for
        self._responses = 0
        self._last_item: Item | None = None  # of the assistant
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

    def configure(self, config: SessionConfig) -> None:
        """Apply a new configuration; audio of an open turn stays in it."""
        before, self.config = self.config, config
        self.intake.reconfigure(before)

    def listen(self, now: float) -> bool:
        """Handle the next part of the audio that was appended, and return whether there was any.

        Raises:
            ProtocolError: too many turns wait.
        """
        is_busy = self.is_active or self._playback.stops_at is not None
        return self.intake.listen(now, is_busy=is_busy)

    def clear_input(self) -> None:
        """Discard the turns whose response has not started."""
        is_spoken = self._active is not None and self._active.turn.accepts_audio
        self.intake.clear(keeps_speech=is_spoken)

    def on_audio(self) -> None:
        """Forget the finished response that answered the audio before."""
        self._unclaimed_id = None

    def interrupt(self, now: float) -> None:
        """Cancel what is spoken, if the configuration lets new speech of the client do that."""
        detection = self.config.turn_detection
        if detection is None or not detection.interrupt_response:
            return
        if self._active is not None:
            was_heard = self._playback.has_started(self._active.id)
            self._end(self._active, Step.INTERRUPT, now)
            if not was_heard and self._playback.stops_at is None:
                return
        elif self._playback.stops_at is not None:
            self.epoch += 1
        else:
            return
        self._stop_playback(now)

    def _stop_playback(self, now: float) -> None:
        self._stop_frames(now)
        self._playback.clear(self.epoch)

    def _stop_frames(self, now: float) -> None:
        """Close the mouth if it is open in what the client plays, which it now discards."""
        if self._flow.is_playing(now):
            self._closing.open(self.config.format)
        self._flow.stop(now)

    # Responses

    def create_response(self, request: ResponseRequest, now: float) -> None:
        """Start the response of the oldest turn that is not requested, or answer for it.

        Raises:
            ProtocolError: there is no new audio to speak.
        """
        needs_commit = self.config.start is StartTrigger.RESPONSE_CREATE
        turn = self._input.unrequested(committed=needs_commit)
        if turn is not None:
            turn.request = request
            if self.config.waits_for_request and not turn.is_started:
                turn.clock.restart(now)  # its frames are late from now on, and not before
            self.start_next(now)
        elif self._unclaimed_id is not None and request.metadata is not None:
            self._unclaimed_id = None
            self._answer(request.metadata, self.config.format, Phase.COMPLETED)
        elif self._unclaimed_id is not None:
            message = f"{self._unclaimed_id} has spoken this audio; there is no other response"
            self._unclaimed_id = None
            self._outbox.warn("already_answered", message, param="type", event_id=request.event_id)
        else:
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
        self._stop_playback(now)
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
        if item is self._last_item:
            self._stop_frames(now)  # the client has stopped playing it
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
        if self.config.waits_for_request and turn.request is None:
            return
        if turn.accepts_audio:
            self._input.announce()
        turn.start(self._source_frame, now)
        ref, suffix = self._next_ref(), self._suffix
        self._last_item = Item(f"item_{suffix}_a{ref}", "assistant", "in_progress")
        self._active = Response(
            turn,
            ref,
            f"resp_{suffix}_{ref}",
            f"conv_{suffix}",
            self._last_item,
            self._fps,
            self._outbox,
            turn.request.metadata if turn.request else None,
        )
        self._active.announce_start(self._conversation, self.epoch)

    def _answer(self, metadata: Mapping[str, str], audio: AudioFormat, phase: Phase) -> None:
        """Answer a `response.create` whose audio another response has spoken."""
        ref, suffix = self._next_ref(), self._suffix
        answer = Answer(f"resp_{suffix}_{ref}", ref, f"conv_{suffix}", audio, metadata, phase)
        answer.announce(self._outbox, self.epoch)

    def _next_ref(self) -> int:
        self._responses += 1
        return self._responses

    def _end(self, active: Response[W], step: Step, now: float) -> None:
        turn = active.turn
        was_open = turn.accepts_audio
        turn.step(step)
        if step in (Step.CANCEL, Step.INTERRUPT):
            self.epoch += 1
        if was_open and not self.intake.is_speech:
            self._input.abandon()
        active.item.status = "completed" if step is Step.FINISH else "incomplete"
        active.announce_end(self._conversation, self.epoch)
        self._source_frame += turn.positions
        if step in _EARLY and turn.frames_sent:
            self._closing.open(turn.format)
        self._input.remove(turn)
        self._active = None
        self.intake.arm()
        is_finished = step is Step.FINISH and turn.request is None
        is_unclaimed = is_finished and self._input.is_newest(turn)
        self._unclaimed_id = active.id if is_unclaimed else None
        self._flow.end(turn)
        if self._playback.has_started(active.id):
            audio_ms = turn.samples_sent * 1000 / turn.format.rate
            until = max(self._flow.plays_until, now)
            self._playback.finish(PlayingResponse(active.id, until, audio_ms))
        if active.late_metadata is not None:
            self._answer(active.late_metadata, turn.format, turn.phase)

    # Frames

    def due(self, now: float) -> Iterator[FrameDue[W]]:
        """Yield the frames that the window allows now; each is in flight once it is yielded."""
        self.drop_late(now)
        yield from self._closing.due(self.config, self.epoch, self._source_frame, now)
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
        if response_ref == closing_frame.REF:
            return epoch == self.epoch and self._closing.deliver(jpeg, is_drawn=is_drawn)
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
            self._outbox.warn("overload", _OVERLOAD)

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
        frame = self._closing.take()
        if frame is not None:
            fields = server_events.idle_frame(self.epoch, frame.jpeg)
            return VideoMessage(self._outbox.number("response.video.delta", fields), frame, None)
        active = self._active
        while active is not None and (media := active.turn.pull()) is not None:
            if not self._playback.has_started(active.id):
                self._closing.drop()
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


_OVERLOAD: Final = "the pod cannot keep the avatar within 1 s of the audio; late frames are dropped"
_EARLY: Final = frozenset({Step.CANCEL, Step.INTERRUPT, Step.FAIL})
