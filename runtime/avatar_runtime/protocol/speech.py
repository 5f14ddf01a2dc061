"""What the avatar says in one session: one response at a time, from utterance to playback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic

from avatar_runtime.errors import ProtocolError, shown
from avatar_runtime.protocol import closing_frame, server_events, wav_header
from avatar_runtime.protocol.conversation import Item
from avatar_runtime.protocol.frame_flow import FrameFlow
from avatar_runtime.protocol.input_buffer import InputBuffer
from avatar_runtime.protocol.listening import (
    Pace,
    SessionTurnDetector,
    SpeechAudio,
    SpeechStarted,
    SpeechStopped,
    TimedOut,
)
from avatar_runtime.protocol.live_source import OverloadReport
from avatar_runtime.protocol.media import W
from avatar_runtime.protocol.playback import Playback, PlayingResponse
from avatar_runtime.protocol.response import Response, VideoMessage
from avatar_runtime.protocol.session_config import Overrun, StartTrigger
from avatar_runtime.protocol.turn import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from avatar_runtime.protocol import client_events
    from avatar_runtime.protocol.audio_formats import AudioFormat
    from avatar_runtime.protocol.conversation import Conversation
    from avatar_runtime.protocol.frame_flow import FrameDue
    from avatar_runtime.protocol.listening import Action
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
        self._turn_detector = SessionTurnDetector(open_detector)
        self._pace = Pace()
        self._active: Response[W] | None = None
        self._unclaimed_id: str | None = None  # a finished response that no create has asked for
        self._responses = 0
        self._source_frame = 0
        self._split_sample = b""  # the first byte of a sample whose rest is in the next append
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
        audio, detection = self.config.format, self.config.turn_detection
        self.config = config
        if config.format != audio:
            self._split_sample = b""
        if config.format != audio or (config.turn_detection is None) != (detection is None):
            self._turn_detector.close()
            if not self._input.is_open:
                self._input.abandon()

    def append(self, audio: bytes, now: float, event_id: str | None = None) -> None:
        """Add audio; without turn detection, the first of it opens a turn.

        With turn detection, `listen` handles it. A sample may be split between two calls.

        Raises:
            ProtocolError: the buffer is full; nothing is added.
        """
        self._check_header(audio, event_id)
        audio = self._whole_samples(audio)
        if not audio:
            return
        if self._turn_detector.listens(self.config, is_open=self._input.is_open):
            self._turn_detector.append(audio, self.config.format)
            return
        if not self._input.is_open:
            self._input.open(self.config.format)
        self._turn_detector.skip(len(audio), self.config.format)
        self._input.append(audio, now)
        self._unclaimed_id = None
        self.start_next(now)

    def listen(self, now: float) -> bool:
        """Handle the next part of the audio that was appended, and return whether there was any.

        Raises:
            ProtocolError: too many turns wait.
        """
        is_busy = self.is_active or self._playback.stops_at is not None
        actions = self._turn_detector.step(self.config, is_busy=is_busy)
        if actions is None:
            return False
        for action in actions:
            self._act(action, now)
        return True

    def commit(self, now: float) -> None:
        """End the open turn's audio. With turn detection, all audio that no turn has is the turn.

        Raises:
            ProtocolError: there is no audio to commit.
        """
        if self._split_sample:
            self._split_sample = b""
            message = "the audio ended with half a sample, which was discarded"
            self._warn("invalid_audio_length", message, "audio", None)
        if self._turn_detector.has_audio and self._input.open_item_id is None:
            self._open_turn()
        rest = self._turn_detector.take()
        if rest and self._input.is_open:
            self._append_speech(rest, now)
        self._input.commit(now)

    def clear_input(self) -> None:
        """Discard the turns whose response has not started."""
        self._split_sample = b""
        is_spoken = self._active is not None and self._active.turn.accepts_audio
        if not is_spoken:
            self._turn_detector.discard()
        self._input.clear()

    def _whole_samples(self, audio: bytes) -> bytes:
        """Return the samples that are complete, and keep the rest for the next append.

        Raises:
            ProtocolError: the buffer is full; nothing is kept.
        """
        audio_format = self.config.format
        audio = self._split_sample + audio
        size = len(audio) - len(audio) % audio_format.bytes_per_sample
        self._input.check(size, self._turn_detector.pending_samples, audio_format)
        self._split_sample = audio[size:]
        return audio[:size]

    def _check_header(self, audio: bytes, event_id: str | None) -> None:
        header = wav_header.describe(audio)
        if header is not None:
            expected = self.config.format
            message = (
                f"audio starts with the header of a WAV file ({header}), which is played as sound;"
                f" send samples alone, {expected.kind} at {expected.rate} Hz"
            )
            self._warn("wav_header", message, "audio", event_id)

    def _act(self, action: Action, now: float) -> None:
        match action:
            case SpeechStarted():
                self._open_turn()
                self._send(
                    "input_audio_buffer.speech_started",
                    audio_start_ms=action.start_ms,
                    item_id=self._input.open_item_id,
                )
                self._interrupt(action.start_ms, now)
            case SpeechAudio():
                # Audio after a cancel belongs to an utterance that is not spoken any more.
                if self._input.is_open:
                    self._append_speech(action.audio, now)
            case SpeechStopped() if self._input.open_item_id is not None:
                self._send(
                    "input_audio_buffer.speech_stopped",
                    audio_end_ms=action.end_ms,
                    item_id=self._input.open_item_id,
                )
                self._input.commit(now)
            case SpeechStopped():
                pass  # too many turns waited when this speech started
            case TimedOut():
                item = self._input.open_item()
                self._send(
                    "input_audio_buffer.timeout_triggered",
                    audio_start_ms=action.start_ms,
                    audio_end_ms=action.end_ms,
                    item_id=item.id,
                )
                self._input.commit(now)

    def _open_turn(self) -> None:
        self._input.open(self.config.format)
        self._unclaimed_id = None

    def _append_speech(self, audio: bytes, now: float) -> None:
        self._input.append(audio, now)
        self.start_next(now)

    def _interrupt(self, start_ms: int, now: float) -> None:
        """Cancel what is spoken, if new speech of the client interrupts it.

        Audio that arrives faster than it is spoken is no interruption: its turns wait.
        """
        is_live = self._pace.is_live(start_ms, now)
        self._pace = Pace(start_ms, now)
        detection = self.config.turn_detection
        if detection is None or not detection.interrupt_response or not is_live:
            return
        if self._active is not None:
            was_heard = self._playback.has_started(self._active.id)
            self._end(self._active, Step.INTERRUPT, now)
            if not was_heard:
                return
        elif self._playback.stops_at is not None:
            self.epoch += 1
        else:
            return
        self._stop_playback(now)

    def _stop_playback(self, now: float) -> None:
        self._flow.stop(now)
        self._playback.clear(self.epoch)

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
            if turn.is_started and request.metadata is not None:
                message = "the response has started: its metadata comes in response.done only"
                self._warn("metadata_late", message, "response.metadata", request.event_id)
            self.start_next(now)
        elif self._unclaimed_id is not None:
            message = f"{self._unclaimed_id} has spoken this audio; there is no other response"
            self._unclaimed_id = None
            self._warn("already_answered", message, "type", request.event_id)
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
        if self.config.waits_for_request and turn.request is None:
            return
        if turn.accepts_audio:
            self._input.announce()
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
        was_open = turn.accepts_audio
        turn.step(step)
        if step in (Step.CANCEL, Step.INTERRUPT):
            self.epoch += 1
        if was_open and not self._turn_detector.is_speech:
            self._input.abandon()
        active.item.status = "completed" if step is Step.FINISH else "incomplete"
        active.announce_end(self._conversation, self.epoch)
        self._source_frame += turn.positions
        if step in _EARLY and turn.frames_sent:
            self._closing.open(turn.format)
        self._input.remove(turn)
        self._active = None
        self._turn_detector.arm()
        is_finished = step is Step.FINISH and turn.request is None
        is_unclaimed = is_finished and self._input.is_newest(turn)
        self._unclaimed_id = active.id if is_unclaimed else None
        self._flow.end(turn)
        if self._playback.has_started(active.id):
            audio_ms = turn.samples_sent * 1000 / turn.format.rate
            until = max(self._flow.plays_until, now)
            self._playback.finish(PlayingResponse(active.id, until, audio_ms))

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
            self._outbox.add("warning", {"warning": server_events.OVERLOAD})

    def _awaited(self, response_ref: int, epoch: int) -> Response[W] | None:
        active = self._active
        if active is None or active.ref != response_ref or epoch != self.epoch:
            return None
        return active

    def _warn(self, code: str, message: str, param: str, event_id: str | None) -> None:
        fields = server_events.warning(code, message, param=param, event_id=event_id)
        self._outbox.add("warning", fields)

    def _send(self, kind: str, **fields: object) -> None:
        self._outbox.add(kind, fields)

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


_EARLY: Final = frozenset({Step.CANCEL, Step.INTERRUPT, Step.FAIL})
