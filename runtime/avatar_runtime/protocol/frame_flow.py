"""Which frames of the active response the engine generates now, and which frames are dropped.

Flow control follows docs/wire-protocol.md, "Flow control".
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Final, Generic

from avatar_runtime.protocol import document_fields
from avatar_runtime.protocol.credits import Credits
from avatar_runtime.protocol.live_source import LiveTimes, live_times
from avatar_runtime.protocol.media import W
from avatar_runtime.protocol.pacing import Pacer
from avatar_runtime.protocol.session_config import FlowMode, Overrun, Region, source_position

if TYPE_CHECKING:
    from collections.abc import Iterator

    from avatar_runtime.protocol.media import Image
    from avatar_runtime.protocol.response import ActiveResponse
    from avatar_runtime.protocol.session_config import Crop, SessionConfig, VideoMode
    from avatar_runtime.protocol.strict_fields import StrictFields
    from avatar_runtime.protocol.turn import Turn

MAX_IN_FLIGHT_FRAMES: Final = 32
MAX_UNSENT_BYTES: Final = 4 * 1024 * 1024
_MAX_UNACKED_S: Final = 0.5
"""Media of a response that the client has not acknowledged while the file goes on with idle frames:
acknowledgements come every 200 ms."""
MAX_UNSENT_RAW_BYTES: Final = 32 * 1024 * 1024
"""Of images that are not encoded yet: 0.9 s at 1280 x 720."""


@dataclass(frozen=True, slots=True)
class FrameDue(Generic[W]):
    """A frame to generate now; the fields are those of the engine's request."""

    response_ref: int
    epoch: int
    frame_index: int
    """Index of the frame in its response."""
    deadline: float
    """When the frame is due, monotonic seconds."""
    expires: float | None
    """When the session drops the frame; `None` if it waits for it."""
    avatar: str
    """`Character.engine_name` of the avatar."""
    source_frame: int
    """Position in the avatar's source video, in frames of that video."""
    window: W
    quality: int
    """JPEG quality, 1 to 100."""
    width: int
    """Width of the frame in pixels."""
    height: int
    """Height of the frame in pixels."""
    video: VideoMode
    """The form in which the client gets the frame."""
    crop: Crop | None = None
    """The part of the avatar's picture that the frame shows; `None` for all of it."""
    is_patch: bool = False
    """Whether only what differs from the avatar in silence is generated."""
    background: tuple[int, int, int] | None = None
    """Blue, green and red behind the avatar; `None` for what its pictures have."""
    has_alpha: bool = False
    """Whether the alpha is below the picture, in an image of twice the height."""

    @classmethod
    def of(
        cls,
        config: SessionConfig,
        window: W,
        *,
        response_ref: int,
        epoch: int,
        deadline: float,
        expires: float | None = None,
        position: int,
        fps: int,
    ) -> FrameDue[W]:
        """Return the frame of a window, as the session shows it now.

        `position` is that of the session's timeline, in frames of `fps` per second.
        """
        width, height = config.size
        return cls(
            response_ref=response_ref,
            epoch=epoch,
            frame_index=window.frame_index,
            deadline=deadline,
            expires=expires,
            avatar=config.character.engine_name,
            source_frame=source_position(position, fps, config.character.fps),
            window=window,
            quality=config.quality,
            width=width,
            height=height,
            video=config.video,
            crop=config.crop,
            is_patch=config.region is Region.PATCH,
            background=config.colour_behind,
            has_alpha=config.has_alpha,
        )


class FrameFlow(Generic[W]):
    """The window of frames that may be ahead of what the client plays."""

    def __init__(self, fps: int) -> None:
        self._fps = fps
        self._pacer = Pacer(fps)
        self._credits = Credits(fps)
        self._mode = FlowMode.CLOCK

    @property
    def counts_acks(self) -> bool:
        """Whether the acknowledgements of the client say what it has played."""
        return self._mode is FlowMode.ACK

    def configure(self, mode: FlowMode, now: float) -> bool:
        """Let the clock or the acknowledgements count, and return whether that is a change.

        What is not played stays the same.
        """
        if mode is self._mode:
            return False
        self._mode = mode
        if self.counts_acks:
            self._credits.set_unplayed(self._pacer.ahead_s(now))
        else:
            self._pacer.set_ahead(self._credits.unplayed_s, now)
        return True

    def begin(self, response_id: str) -> None:
        """Start a response, which the client plays after all before it."""
        self._credits.begin(response_id)

    def ack(self, response_id: str, pts_ms: float) -> bool:
        """Record an acknowledgement, or return false if it says nothing about this epoch."""
        return self._credits.ack(response_id, pts_ms)

    def plays_until(self, now: float) -> float:
        """Return when the client will have played all delivered frames, monotonic seconds.

        The result is infinite while only an acknowledgement can say so.
        """
        if self.counts_acks:
            return inf if self.is_playing(now) else now
        return max(self._pacer.end, now)

    def played_ms(self, response: ActiveResponse[W], now: float) -> int:
        """Return how much of the active response the client has played."""
        turn = response.turn
        sent_s = turn.samples_sent / turn.format.rate
        if self.counts_acks:
            return int(min(self._credits.played_ms(response.id), sent_s * 1000))
        delivered_s = turn.settled / self._fps - self._pacer.ahead_s(now)
        return int(max(0.0, min(delivered_s, sent_s)) * 1000)

    def due(
        self, response: ActiveResponse[W], config: SessionConfig, epoch: int, now: float
    ) -> Iterator[FrameDue[W]]:
        """Yield the frames that the window allows now; each is in flight once it is yielded."""
        turn = response.turn
        self.pass_known(turn, now)
        while turn.next_window is not None and self._can_request(turn, config, now):
            index = turn.next_window.frame_index
            live = self._live_times(turn, config, index)
            deadline = live.due if live is not None else self._deadline(turn, index, now)
            yield FrameDue.of(
                config,
                turn.request_next(now),
                response_ref=response.ref,
                epoch=epoch,
                deadline=deadline,
                expires=live.expires
                if live is not None and config.overrun is Overrun.DROP
                else None,
                position=turn.first_source_frame + index,
                fps=self._fps,
            )

    def pass_known(self, turn: Turn[W], now: float) -> None:
        """Pass the next frames that the client has from another pod, without generating them."""
        if turn.has_caught_up:
            return
        settled = turn.settled
        turn.pass_known()
        while turn.next_window is not None and turn.next_window.frame_index < turn.known_frames:
            turn.skip(turn.request_next(now).frame_index)
            turn.pass_known()
        self._pacer.add_known(turn.settled - settled)
        self._credits.add_frames(turn.settled - settled)

    def omit(self, turn: Turn[W], config: SessionConfig, now: float) -> int:
        """Skip the frames that the window allows now, and return their number.

        The client sees none of them; its audio keeps the pace of a session with video.
        """
        omitted = 0
        self.pass_known(turn, now)
        while turn.next_window is not None and self._can_request(turn, config, now):
            self.skip(turn, config, turn.request_next(now).frame_index, now)
            omitted += 1
        return omitted

    def next_due(self, turn: Turn[W], config: SessionConfig) -> float | None:
        """Return when the window has room for the next frame, or `None` if time makes none."""
        if turn.next_window is None or turn.in_flight >= MAX_IN_FLIGHT_FRAMES or self.counts_acks:
            return None
        return self._pacer.opens_at(config.window_ms, turn.in_flight)

    def deliver(
        self,
        turn: Turn[W],
        config: SessionConfig,
        frame_index: int,
        image: Image,
        now: float,
        *,
        is_drawn: bool,
    ) -> bool:
        """Accept a generated frame, or return false if it is not in flight."""
        settled = turn.settled
        if not turn.deliver(frame_index, image, is_drawn=is_drawn):
            return False
        self._add_settled(turn, config, settled, now)
        if config.overrun is Overrun.DROP:
            while self._is_overrun(turn, config):
                turn.drop_oldest()
        return True

    def skip(self, turn: Turn[W], config: SessionConfig, frame_index: int, now: float) -> bool:
        """Drop a frame that is in flight, or return false if it is not."""
        settled = turn.settled
        if not turn.skip(frame_index):
            return False
        # The client still plays the audio of the dropped frame.
        self._add_settled(turn, config, settled, now)
        return True

    def expires_at(self, turn: Turn[W], config: SessionConfig) -> float | None:
        """Return when the oldest frame that is not settled is too late for a live source."""
        index = turn.unsettled
        if self.counts_acks and self._credits.is_full and turn.in_flight == 0:
            return None  # the client makes it wait
        live = None if index is None else self._live_times(turn, config, index)
        return None if live is None else live.expires

    def drop_late(self, turn: Turn[W], config: SessionConfig, now: float) -> int:
        """Drop the frames that are too late for a live source, and return their number."""
        dropped = 0
        while (expires_at := self.expires_at(turn, config)) is not None and expires_at <= now:
            settled = turn.settled
            if not turn.lapse(now):
                break
            self._add_settled(turn, config, settled, now)
            dropped += 1
        return dropped

    def add_idle_frame(self, now: float) -> None:
        """Add a frame between responses that the client plays in turn."""
        self._pacer.add_frames(1, now)

    def idle_from(self, lead_s: float) -> float | None:
        """Return from when on the client needs idle frames, monotonic seconds; it may be past.

        With a lead, seconds, this is so long before it has played all. The result is `None` while
        only an acknowledgement can say it.
        """
        if self.counts_acks and self._credits.unplayed_s > (_MAX_UNACKED_S if lead_s else 0):
            return None
        return 0.0 if self.counts_acks and not lead_s else self._pacer.end - lead_s

    def end(self, response: ActiveResponse[W], *, is_discarded: bool) -> None:
        """Remove the frames of an ended response that were not sent.

        `is_discarded` is whether the client discards what it has not played, of this response and
        of those before it, because the epoch has risen.
        """
        turn = response.turn
        self._pacer.remove_frames(turn.unsent_frames)
        self._credits.finish(response.id, turn.samples_sent * 1000 / turn.format.rate)
        if is_discarded:
            self._credits.discard()

    def is_playing(self, now: float) -> bool:
        """Return whether the client still plays delivered frames."""
        if self.counts_acks:
            return self._credits.unplayed_s > 0
        return self._pacer.is_playing(now)

    def stop(self, now: float) -> None:
        """Remove all that is not played: the client has discarded it."""
        self._pacer.stop(now)
        self._credits.discard()

    def export(self, turn: Turn[W] | None, now: float) -> dict[str, object]:
        """Return the state as plain values; `turn` is that of the active response.

        Frames that were not sent are generated again, so that they are not settled.
        """
        unsettled = 0 if turn is None else turn.settled - turn.positions
        credit = self._credits.export(unsettled, now)
        pacer = copy(self._pacer)
        pacer.remove_frames(unsettled)
        return {"pacer": document_fields.export(pacer, Pacer.STATE, now), "credits": credit}

    def restore(self, fields: StrictFields, mode: FlowMode, now: float) -> None:
        """Continue from what another session has exported; `mode` is what counts.

        Raises:
            ProtocolError: a field is missing or wrong.
        """
        self._mode = mode
        document_fields.restore(self._pacer, fields.nested("pacer"), Pacer.STATE, now)
        self._credits.restore(fields.nested("credits"), now)

    def _live_times(self, turn: Turn[W], config: SessionConfig, index: int) -> LiveTimes | None:
        clock, window_s = turn.clock, config.window_ms / 1000
        if not clock.is_live:
            return None
        ready_at = turn.ready_at(index)
        if self.counts_acks:
            # A frame that has waited for the client is not late because of that.
            ready_at = max(ready_at, self._credits.opened_at)
        return live_times(ready_at, turn.lookahead_s, clock.lead_s, window_s)

    def _add_settled(self, turn: Turn[W], config: SessionConfig, before: int, now: float) -> None:
        frames = turn.settled - before
        if frames:
            live = self._live_times(turn, config, turn.settled - 1)
            latest = inf if live is None else live.due + 1 / self._fps
            self._pacer.add_frames(frames, now, latest)
            self._credits.add_frames(frames)

    def _deadline(self, turn: Turn[W], index: int, now: float) -> float:
        counter = self._credits if self.counts_acks else self._pacer
        return counter.deadline(index, turn.in_flight, now)

    def _can_request(self, turn: Turn[W], config: SessionConfig, now: float) -> bool:
        if turn.in_flight >= MAX_IN_FLIGHT_FRAMES:
            return False
        if config.overrun is Overrun.PAUSE:
            unsent = turn.unsent_frames + turn.in_flight + 1
            is_full = turn.unsent_bytes >= _max_unsent_bytes(config)
            if is_full or unsent * 1000 > config.window_ms * self._fps:
                return False
        if self.counts_acks:
            return self._credits.fits(config.window_ms, turn.in_flight, now)
        return self._pacer.fits(config.window_ms, turn.in_flight, now)

    def _is_overrun(self, turn: Turn[W], config: SessionConfig) -> bool:
        unsent_ms = turn.unsent_frames * 1000 / self._fps
        return turn.unsent_bytes > _max_unsent_bytes(config) or unsent_ms > config.window_ms


def _max_unsent_bytes(config: SessionConfig) -> int:
    return MAX_UNSENT_RAW_BYTES if config.video.is_encoded_when_sent else MAX_UNSENT_BYTES
