"""One response: the turn that it speaks, its item, and the events that report them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic

from avatar_runtime.protocol import server_events
from avatar_runtime.protocol.media import AudioChunk, DroppedFrames, VideoFrame, W
from avatar_runtime.protocol.turn import Phase

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_runtime.protocol.audio_formats import AudioFormat
    from avatar_runtime.protocol.conversation import Conversation, Item
    from avatar_runtime.protocol.media import Media
    from avatar_runtime.protocol.outbox import Outbox
    from avatar_runtime.protocol.turn import Turn


@dataclass(frozen=True, slots=True)
class VideoMessage:
    """A frame and the message that carries it."""

    text: str
    frame: VideoFrame
    speakable_at: float | None
    """When the first frame of a response could be generated; `None` for the other frames."""


@dataclass(frozen=True, slots=True)
class Response(Generic[W]):
    """The active response. `Speech` decides when it starts and ends."""

    turn: Turn[W]
    ref: int
    """Number of the response in its session, from 1; `response_ref` on the wire."""
    id: str
    conversation_id: str
    item: Item
    fps: int
    outbox: Outbox
    metadata: Mapping[str, str] | None
    """That of the `response.create` that came before the response started."""
    has_video: bool = True
    """Whether the client gets frames. If not, each frame is skipped and nothing reports that."""

    def announce_start(self, conversation: Conversation, epoch: int) -> None:
        """Send the first events of the response and add its item to the conversation."""
        started = self._describe("in_progress")
        self._send("response.created", response=started, response_ref=self.ref, epoch=epoch)
        self._send_item("response.output_item.added")
        previous = conversation.add(self.item)
        described = self.item.describe()
        self._send("conversation.item.added", item=described, previous_item_id=previous)
        ids = server_events.content_part_ids(self.id, self.item)
        self._send("response.content_part.added", **ids, part=server_events.PART)

    def announce_end(self, conversation: Conversation, epoch: int) -> None:
        """Send the last events of the response; turn and item are in their final state."""
        ids = server_events.content_part_ids(self.id, self.item)
        self._send("response.output_audio.done", **ids)
        self._send_video_done(epoch)
        self._send("response.content_part.done", **ids, part=server_events.PART)
        self._send_item("response.output_item.done")
        previous = conversation.previous(self.item)
        described = self.item.describe()
        self._send("conversation.item.done", item=described, previous_item_id=previous)
        ended = self._describe(_STATUS[self.turn.phase])
        self._send("response.done", response=ended, response_ref=self.ref, epoch=epoch)

    def send_media(self, media: Media, epoch: int, *, audio_deltas: bool) -> VideoMessage | None:
        """Put media into the outbox, or return the message if it is a frame."""
        turn, audio = self.turn, self.turn.format
        match media:
            case AudioChunk():
                self.item.audio_ms = turn.samples_sent * 1000 // audio.rate
                if audio_deltas:
                    delta = server_events.audio_delta(self.id, self.item, epoch, audio, media)
                    self._send("response.output_audio.delta", **delta)
            case DroppedFrames() if self.has_video:
                self._send(
                    "response.video.dropped",
                    response_id=self.id,
                    first_frame_index=media.first,
                    last_frame_index=media.last,
                    reason=media.reason.value,
                )
            case VideoFrame():
                speakable_at = turn.speakable_at if media.frame_index == 0 else None
                offset = media.frame_index * audio.samples_per_frame(self.fps)
                delta = server_events.video_delta(
                    self.id, self.item, epoch, media, offset_samples=offset, rate=audio.rate
                )
                text = self.outbox.number("response.video.delta", delta)
                return VideoMessage(text, media, speakable_at)
        return None

    def _send_video_done(self, epoch: int) -> None:
        if not self.has_video:
            return
        turn = self.turn
        self._send(
            "response.video.done",
            response_id=self.id,
            item_id=self.item.id,
            output_index=0,
            epoch=epoch,
            status=_STATUS[turn.phase],
            frames=turn.frames_sent,
            dropped=turn.frames_dropped,
            audio_samples=turn.samples_sent,
            audio_ms=server_events.milliseconds(turn.samples_sent, turn.format.rate),
            video_ms=server_events.compact_number(turn.positions * 1000 / self.fps),
        )

    def _describe(self, status: str) -> dict[str, object]:
        return server_events.response(
            self.id,
            self.conversation_id,
            status,
            [self.item.describe()] if self.item.status != "in_progress" else [],
            audio=self.turn.format,
            details=_DETAILS.get(self.turn.phase),
            metadata=self.metadata,
        )

    @property
    def late_metadata(self) -> Mapping[str, str] | None:
        """The metadata of a `response.create` that came after the response had started."""
        request = self.turn.request
        return request.metadata if request is not None and self.metadata is None else None

    def _send_item(self, kind: str) -> None:
        described = self.item.describe()
        self._send(kind, response_id=self.id, output_index=0, item=described)

    def _send(self, kind: str, **fields: object) -> None:
        self.outbox.add(kind, fields)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response without output, to a `response.create` whose audio another response has spoken.

    A client that gives metadata recognises the response to its request by them, and by them only.
    """

    id: str
    ref: int
    conversation_id: str
    audio: AudioFormat
    metadata: Mapping[str, str]
    phase: Phase
    """The phase in which the turn ended that was spoken."""

    def announce(self, outbox: Outbox, epoch: int) -> None:
        """Send the first and the last event."""
        self._send(outbox, "response.created", "in_progress", None, epoch)
        self._send(outbox, "response.done", _STATUS[self.phase], _DETAILS.get(self.phase), epoch)

    def _send(
        self,
        outbox: Outbox,
        kind: str,
        status: str,
        details: Mapping[str, object] | None,
        epoch: int,
    ) -> None:
        described = server_events.response(
            self.id,
            self.conversation_id,
            status,
            [],
            audio=self.audio,
            details=details,
            metadata=self.metadata,
        )
        outbox.add(kind, {"response": described, "response_ref": self.ref, "epoch": epoch})


_STATUS: Final[Mapping[Phase, str]] = {
    Phase.COMPLETED: "completed",
    Phase.CANCELLED: "cancelled",
    Phase.INTERRUPTED: "cancelled",
    Phase.FAILED: "failed",
    Phase.ABORTED: "failed",
}
_DETAILS: Final[Mapping[Phase, Mapping[str, object]]] = {
    Phase.CANCELLED: {"type": "cancelled", "reason": "client_cancelled", "error": None},
    Phase.INTERRUPTED: {"type": "cancelled", "reason": "turn_detected", "error": None},
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
