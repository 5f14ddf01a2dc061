"""What the avatar says in one session: one response at a time, from its start to playback."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, Generic, Protocol

from avatar_runtime.errors import ProtocolError, shown
from avatar_runtime.protocol import document_fields, idle_frames, media_headers, server_events
from avatar_runtime.protocol.document_fields import MAX_COUNT, Count, Table
from avatar_runtime.protocol.frame_flow import FrameFlow
from avatar_runtime.protocol.live_source import OverloadReport
from avatar_runtime.protocol.media import AudioChunk, VideoFrame, W
from avatar_runtime.protocol.media_messages import VideoMessage
from avatar_runtime.protocol.playback import Playback, PlayingResponse
from avatar_runtime.protocol.session_config import Overrun, VideoMode
from avatar_runtime.protocol.turn import Step
from avatar_runtime.protocol.video_stream import VideoStream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from avatar_runtime.protocol import client_events
    from avatar_runtime.protocol.frame_flow import FrameDue
    from avatar_runtime.protocol.media import Image
    from avatar_runtime.protocol.response import ActiveResponse
    from avatar_runtime.protocol.resume import ClientPosition
    from avatar_runtime.protocol.session_config import SessionConfig
    from avatar_runtime.protocol.session_parts import SessionParts
    from avatar_runtime.protocol.strict_fields import StrictFields


_STATE: Final[Table] = {"epoch": Count(1), "_refs": Count(), "_source_frame": Count()}


class Source(Protocol[W]):
    """Where the responses come from: the turns of the client, or answers from outside."""

    @property
    def is_empty(self) -> bool:
        """Whether no response waits or is active."""
        ...

    def start(self, source_frame: int, now: float) -> ActiveResponse[W] | None:
        """Start the next response, or return `None` if none may start.

        `source_frame` is where its frames start. Its number comes from `Speech.next_ref`.
        """
        ...

    def closes(self, response: ActiveResponse[W]) -> None:
        """Prepare for the end of a response, which has not changed yet."""
        ...

    def ended(self, response: ActiveResponse[W], step: Step, now: float) -> None:
        """Forget a response that has ended."""
        ...

    def cut_off(self, response_id: str, played_ms: int) -> None:
        """Take notice that the client has played only the first part of a response."""
        ...


class Speech(Generic[W]):
    """The active response of a session, its frames and its playback."""

    def __init__(self, parts: SessionParts[W], source: Source[W]) -> None:
        self.epoch = 1
        self._config = parts.config
        self.frames_lapsed = 0
        """Frames that were dropped because they were too late for a live source."""
        self.frames_omitted = 0
        """Frames that the client does not see, because it wants no video."""
        self._source = source
        self._fps = parts.fps
        self._outbox = parts.outbox
        self._conversation = parts.conversation
        self._flow: FrameFlow[W] = FrameFlow(parts.fps)
        self._playback = Playback(parts.fps, parts.outbox)
        self._idle = idle_frames.IdleFrames(parts.open_utterance, parts.fps)
        self._active: ActiveResponse[W] | None = None
        self._is_over = False
        self._refs = 0
        self._source_frame = 0
        self._overload = OverloadReport()
        self._video = VideoStream(parts.fps)
        self._spoken_s = 0.0  # without the active response
        self._position: ClientPosition | None = None

    def configure(self, config: SessionConfig, now: float) -> None:
        """Apply a configuration that the client has changed."""
        self.config = config
        if not self._flow.configure(config.flow, now):
            return
        if self._flow.counts_acks:
            self._playback.count_acks(now)
        else:
            self._playback.count_clock(self._flow.plays_until(now))

    @property
    def config(self) -> SessionConfig:
        """The configuration of the session."""
        return self._config

    @config.setter
    def config(self, config: SessionConfig) -> None:
        if config.video is not self._config.video:
            self._video.restart()
        self._config = config

    @property
    def is_active(self) -> bool:
        """Whether a response is active."""
        return self._active is not None

    @property
    def spoken_s(self) -> float:
        """Sound of responses that this pod has given to the client, seconds."""
        return self._spoken_s + (0.0 if self._active is None else _sent_s(self._active))

    @property
    def is_busy(self) -> bool:
        """Whether the avatar speaks, or the client still plays what it said."""
        return self.is_active or self._playback.stops_at is not None

    @property
    def is_quiet(self) -> bool:
        """Whether no response is active or waits."""
        return self._source.is_empty

    @property
    def stops_at(self) -> float | None:
        """When the client will have played the oldest finished response."""
        return self._playback.stops_at

    # Responses

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
        self.end(Step.CANCEL, now)
        self.start_next(now)

    def clear_output(self, now: float) -> None:
        """End the active response and all that the client has not played."""
        if self._active is not None:
            self.end(Step.CANCEL, now)
        else:
            self.epoch += 1
        self._stop_playback(now)
        self.start_next(now)

    def interrupt(self, now: float) -> None:
        """Cancel what is spoken, because the client speaks, and what the client still plays."""
        if self._active is not None:
            was_heard = self._playback.has_started(self._active.id)
            self.end(Step.INTERRUPT, now)
            if not was_heard and self._playback.stops_at is None:
                return
        elif self._playback.stops_at is not None:
            self.epoch += 1
        else:
            return
        self._stop_playback(now)

    def fail(self, response_ref: int, epoch: int, now: float) -> None:
        """End the response whose frames the engine could not generate."""
        if self._idle.lose(response_ref, now) or self._awaited(response_ref, epoch) is None:
            return
        fault = ProtocolError("internal_error", "the engine could not generate the frames")
        self._outbox.add("error", {"error": server_events.error(fault, None, "server_error")})
        self.end(Step.FAIL, now)
        self.start_next(now)

    def abort(self, now: float) -> None:
        """End the active response because the session ends; no other one starts."""
        self._is_over = True
        if self._active is not None:
            self.end(Step.ABORT, now)

    def finish(self, now: float) -> bool:
        """End the active response if all of it was sent, and return whether it was."""
        active = self._active
        if active is None or not active.turn.is_exhausted:
            return False
        self.end(Step.FINISH, now)
        self.start_next(now)
        return True

    def start_next(self, now: float) -> None:
        """Start the next response, if no response is active and one may start."""
        while self._active is None and not self._is_over:
            started = self._source.start(self._source_frame, now)
            if started is None:
                return
            self._active = started
            self._flow.begin(started.id)
            created = {"response": {"id": started.id}}
            is_known = self._outbox.is_known("response.created", created)
            started.announce_start(self._conversation, self.epoch)
            self._catch_up(started, is_known=is_known)
            if started.void is not None:
                self.end(started.void, now)

    def end(self, step: Step, now: float) -> None:
        """End the active response; the caller starts the next one."""
        active = self._active
        assert active is not None
        turn = active.turn
        self._source.closes(active)
        turn.step(step)
        is_discarded = step in (Step.CANCEL, Step.INTERRUPT)
        if is_discarded:
            self.epoch += 1
        turn.end_catching_up()
        active.announce_end(self._conversation, self.epoch)
        if step is Step.FINISH:
            self._video.file.end_response(turn.format)
        else:
            self._video.file.discard_sound()
        if turn.positions:  # idle frames may have moved the timeline since the response started
            self._source_frame = turn.first_source_frame + turn.positions
        if step in _EARLY and turn.frames_sent:
            self._idle.close_mouth(turn.format)
        self._active = None
        self._spoken_s += _sent_s(active)
        played_ms = self._flow.played_ms(active, now)
        self._source.ended(active, step, now)
        if step in _EARLY:
            self._source.cut_off(active.id, played_ms)
        self._flow.end(active, is_discarded=is_discarded)
        if self._playback.has_started(active.id):
            audio_ms = _sent_s(active) * 1000
            acked_ms = played_ms if self._flow.counts_acks else None
            until = self._flow.plays_until(now)
            self._playback.finish(PlayingResponse(active.id, until, audio_ms, acked_ms))
        if is_discarded and self._flow.counts_acks:
            self._playback.release(now)

    def allow_idle_frames(self) -> None:
        """Send idle frames from now on, if the client wants them: it knows the session."""
        self._idle.may_stream = True

    def next_ref(self) -> int:
        """Return the number of a new response in the session, from 1."""
        self._refs += 1
        return self._refs

    def discard_unplayed(self, now: float) -> None:
        """Close the mouth if it is open in what the client plays, which it now discards."""
        if self._flow.is_playing(now):
            self._idle.close_mouth(self.config.format)
        self._flow.stop(now)
        if self._flow.counts_acks:
            self._playback.release(now)

    def _stop_playback(self, now: float) -> None:
        self.discard_unplayed(now)
        for playing in self._playback.clear(self.epoch):
            self._source.cut_off(playing.response_id, playing.played_ms(now))

    # Frames

    def due(self, now: float) -> Iterator[FrameDue[W]]:
        """Yield the frames that the window allows now; each is in flight once it is yielded."""
        self.drop_late(now)
        yield from self._idle.closing_due(self.config, self.epoch, self._source_frame, now)
        idle_at = self._idle_at()
        if idle_at is not None and idle_at <= now:
            yield from self._idle.stream_due(self.config, self.epoch, self._source_frame, now)
            self._source_frame += 1
        active = self._active
        if active is not None and not active.turn.is_requested:
            active.turn.first_source_frame = self._source_frame
        if active is not None and active.has_video:
            yield from self._flow.due(active, self.config, self.epoch, now)
        elif active is not None:
            self.frames_omitted += self._flow.omit(active.turn, self.config, now)

    def next_due(self) -> float | None:
        """Return when the window has room for the next frame, or `None` if time makes none."""
        due_at = None
        if self._active is not None:
            due_at = self._flow.next_due(self._active.turn, self.config)
        return min((at for at in (due_at, self._idle_at()) if at is not None), default=None)

    def _idle_at(self) -> float | None:
        """Return when the next idle frame is due, or `None` if there is none now."""
        active = self._active
        if active is not None and active.turn.settled:
            return None
        return self._idle.next_due(self.config, self.epoch, self._flow)

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
        if response_ref in idle_frames.REFS:
            is_current = epoch == self.epoch
            return is_current and self._idle.deliver(response_ref, epoch, image, is_drawn=is_drawn)
        active = self._awaited(response_ref, epoch)
        return active is not None and self._flow.deliver(
            active.turn, self.config, frame_index, image, now, is_drawn=is_drawn
        )

    def skip(self, response_ref: int, epoch: int, frame_index: int, now: float) -> bool:
        """Drop a frame that is in flight, or return false if it is no longer awaited."""
        if response_ref in idle_frames.REFS:
            return epoch == self.epoch and self._idle.lose(response_ref, now)
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

    def _awaited(self, response_ref: int, epoch: int) -> ActiveResponse[W] | None:
        active = self._active
        if active is None or active.ref != response_ref or epoch != self.epoch:
            return None
        return active

    # Media and playback

    def pull(self, now: float) -> VideoMessage | None:
        """Return the next frame, or put the media that comes before it into the outbox.

        The outbox must be empty, because numbered messages are sent in order.
        """
        frame, active = self._idle.take(self.config), self._active
        # In a file it would take the place and the sound of a frame of the response.
        is_within = active is not None and self._playback.has_started(active.id)
        if frame is not None and not (is_within and self.config.video is VideoMode.FMP4):
            return self._idle_message(frame, now)
        while active is not None:
            active.release(self.epoch)
            media = None if self._outbox.characters else active.turn.pull()
            if media is None:
                return None
            if not self._playback.has_started(active.id):
                self._idle.drop()
                self._playback.start(active.id, self.epoch, has_video=active.has_video)
            if isinstance(media, AudioChunk) and self.config.video is VideoMode.FMP4:
                self._video.file.add_sound(media.data)
            elif isinstance(media, VideoFrame):
                media = self._video.add(media, active.ref, self.epoch, self.config)
            deltas = self.config.audio_deltas
            message = active.send_media(media, self.epoch, audio_deltas=deltas)
            if message is not None or self._outbox.characters:
                return message
        return None

    def _idle_message(self, frame: VideoFrame, now: float) -> VideoMessage:
        frame = self._video.add(frame, None, self.epoch, self.config)
        if frame.part is not None:
            self._flow.add_idle_frame(now)
        is_numbered = frame.part is not None or not frame.is_idle
        message = self._outbox.number_media(
            "response.video.delta",
            lambda: server_events.idle_frame(self.epoch, frame, self._fps),
            media_headers.idle_frame(frame, self.epoch),
            frame.payload,
            is_numbered=is_numbered,
        )
        return VideoMessage(message, frame, None, is_numbered=is_numbered)

    def ack(self, ack: client_events.Ack) -> None:
        """Record how much the client has played.

        Raises:
            ProtocolError: the ack is ahead of the media sent.
        """
        active = self._active
        if active is not None and active.id == ack.response_id:
            self._playback.check_ack(ack, active.turn.frames_heard)
        else:
            self._playback.check_ended(ack)
        if self._flow.ack(ack.response_id, ack.pts_ms):
            self._playback.ack(ack, self.epoch, None if active is None else active.id)

    def request_keyframe(self) -> None:
        """Make the next frame a keyframe: the client could not decode one."""
        self._video.request_keyframe()

    def tick(self, now: float) -> None:
        """Drop late frames, and report the responses that the client has played by now."""
        self.drop_late(now)
        self._playback.tick(now, self.epoch)

    # What the client has from a pod that is lost

    def catch_up(self, position: ClientPosition) -> None:
        """Send nothing of the media that the client has."""
        self._position = position
        if self._active is not None:
            self._catch_up(self._active, is_known=True)

    def give_up(self, epochs: int, now: float) -> float:
        """End what is spoken: how much of it the client has is not known.

        `epochs` is how often the epoch may have risen on the other pod. Return what was not sent of
        the active response, milliseconds.
        """
        self.epoch += epochs
        active, unsent_ms = self._active, 0.0
        if active is not None:
            turn = active.turn
            unsent_ms = (turn.samples - turn.samples_sent) * 1000 / turn.format.rate
            self.end(Step.FAIL, now)
            self.start_next(now)
        return unsent_ms

    def pass_known(self, now: float) -> None:
        """Go on to the end of what the client has, as far as it has sent the sound again."""
        while self._position is not None and self._active is not None:
            self._flow.pass_known(self._active.turn, now)
            if not self.finish(now):
                return

    @property
    def has_caught_up(self) -> bool:
        """Whether the media that follows is unknown to the client."""
        return self._active is None or self._active.turn.has_caught_up

    def _catch_up(self, response: ActiveResponse[W], *, is_known: bool) -> None:
        """Pass what the client has of a response; `is_known` is whether it has its start."""
        position = self._position
        if position is None or not is_known:
            self._position = None
            return
        if position.response_id != response.id:  # it has a later one, and all of this one
            position = replace(position, frames=MAX_COUNT, dropped=0, audio_bytes=MAX_COUNT)
        response.turn.catch_up(
            position.frames,
            position.dropped,
            position.audio_bytes // response.turn.format.bytes_per_sample,
            has_video=response.has_video,
        )
        has_media = position.frames or position.dropped or position.audio_bytes
        if has_media and not self._playback.has_started(response.id):
            self._idle.drop()
            self._playback.start(response.id, self.epoch, has_video=response.has_video)

    # Moving

    def check_movable(self) -> None:
        """Check that another pod can continue the speech.

        Raises:
            ProtocolError: the session is one file, which another encoder cannot continue.
        """
        if not self.has_caught_up:
            raise not_movable("it repeats what its client has from another pod")
        if self.config.video is VideoMode.FMP4:
            raise not_movable("its video is one file (mode fmp4), which only this pod can continue")

    def export(self, now: float) -> dict[str, object]:
        """Return the state as plain values.

        Frames that were not sent are requested again, and an encoder starts with a keyframe.

        Raises:
            ProtocolError: the session is one file, which another encoder cannot continue.
        """
        self.check_movable()
        turn = None if self._active is None else self._active.turn
        return {
            **document_fields.export(self, _STATE, now),
            "overload": document_fields.export(self._overload, OverloadReport.STATE, now),
            "flow": self._flow.export(turn, now),
            "playback": self._playback.export(now),
            "idle": self._idle.export(now),
        }

    def restore(self, fields: StrictFields, active: ActiveResponse[W] | None, now: float) -> None:
        """Continue from what another session has exported; `active` is its active response.

        Raises:
            ProtocolError: a field is missing or wrong.
        """
        self._active = active
        document_fields.restore(self, fields, _STATE, now)
        overload = fields.nested("overload")
        document_fields.restore(self._overload, overload, OverloadReport.STATE, now)
        self._flow.restore(fields.nested("flow"), self.config.flow, now)
        self._playback.restore(fields.nested("playback"), now)
        self._idle.restore(fields.nested("idle"), self.config.format, now)
        # What the active response had sent before belongs to the other pod.
        self._spoken_s = 0.0 if active is None else -_sent_s(active)


def _sent_s(active: ActiveResponse[W]) -> float:
    return active.turn.samples_sent / active.turn.format.rate


def not_movable(reason: str) -> ProtocolError:
    """Return the error of a session that cannot continue on another pod as it is now."""
    return ProtocolError("session_not_movable", f"the session stays on this pod: {reason}")


_OVERLOAD: Final = "the pod cannot keep the avatar within 1 s of the audio; late frames are dropped"
_EARLY: Final = frozenset({Step.CANCEL, Step.INTERRUPT, Step.FAIL})
