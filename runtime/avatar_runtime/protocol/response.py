"""One response: the turn that it speaks, its item, and the events that report them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, Protocol

from avatar_runtime.protocol import server_events
from avatar_runtime.protocol.media import AudioChunk, DroppedFrames, VideoFrame, W
from avatar_runtime.protocol.media_messages import MediaMessages
from avatar_runtime.protocol.turn import Phase

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_runtime.protocol.audio_formats import AudioFormat
    from avatar_runtime.protocol.conversation import Conversation, Item
    from avatar_runtime.protocol.media import Media
    from avatar_runtime.protocol.media_messages import VideoMessage
    from avatar_runtime.protocol.outbox import Outbox
    from avatar_runtime.protocol.turn import Step, Turn


class ActiveResponse(Protocol[W]):
    """The active response of a session. `Speech` decides when it starts and ends."""

    @property
    def id(self) -> str:
        """The id of the response on the wire."""
        ...

    @property
    def ref(self) -> int:
        """Number of the response in its session, from 1; `response_ref` on the wire."""
        ...

    @property
    def turn(self) -> Turn[W]:
        """The audio and the frames of the response."""
        ...

    @property
    def has_video(self) -> bool:
        """Whether the client gets frames. If not, each is skipped and nothing reports that."""
        ...

    @property
    def void(self) -> Step | None:
        """How the response ends as soon as it has started; `None` if it is spoken."""
        ...

    def announce_start(self, conversation: Conversation, epoch: int) -> None:
        """Send the first events of the response."""
        ...

    def release(self, epoch: int) -> None:
        """Send the events that follow the media sent so far."""
        ...

    def send_media(self, media: Media, epoch: int, *, audio_deltas: bool) -> VideoMessage | None:
        """Put media into the outbox, or return the message if it is a frame."""
        ...

    def announce_end(self, conversation: Conversation, epoch: int) -> None:
        """Send the last events of the response, whose turn is in its final phase."""
        ...


@dataclass(frozen=True, slots=True)
class Response(Generic[W]):
    """A response of mode drive, which has one item with one part of audio."""

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
    void: Step | None = None
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
        ids = server_events.content_part_ids(self.id, self.item.id)
        self._send("response.content_part.added", **ids, part=server_events.PART)

    def announce_end(self, conversation: Conversation, epoch: int) -> None:
        """Send the last events of the response, whose turn is in its final phase."""
        self.item.status = "completed" if self.turn.phase is Phase.COMPLETED else "incomplete"
        ids = server_events.content_part_ids(self.id, self.item.id)
        self._send("response.output_audio.done", **ids)
        self._send_video_done(epoch)
        self._send("response.content_part.done", **ids, part=server_events.PART)
        self._send_item("response.output_item.done")
        previous = conversation.previous(self.item)
        described = self.item.describe()
        self._send("conversation.item.done", item=described, previous_item_id=previous)
        ended = self._describe(STATUS[self.turn.phase])
        self._send("response.done", response=ended, response_ref=self.ref, epoch=epoch)

    def release(self, epoch: int) -> None:
        """Do nothing: no event of this response follows its media."""

    def send_media(self, media: Media, epoch: int, *, audio_deltas: bool) -> VideoMessage | None:
        """Put media into the outbox, or return the message if it is a frame."""
        messages = MediaMessages(self.outbox, self.turn, self.id, self.fps)
        match media:
            case AudioChunk():
                self.item.audio_ms = self.turn.samples_sent * 1000 // self.turn.format.rate
                if audio_deltas:
                    ids = server_events.content_part_ids(self.id, self.item.id)
                    messages.send_audio(media, ids, self.ref, epoch)
            case DroppedFrames() if self.has_video:
                fields = server_events.dropped_frames(self.id, media)
                self._send("response.video.dropped", **fields)
            case VideoFrame():
                return messages.video(media, self.item.id, self.ref, epoch)
        return None

    def _send_video_done(self, epoch: int) -> None:
        if not self.has_video:
            return
        status = STATUS[self.turn.phase]
        fields = server_events.video_done(
            self.id, self.item.id, epoch, status, turn=self.turn, fps=self.fps
        )
        self._send("response.video.done", **fields)

    def _describe(self, status: str) -> dict[str, object]:
        return server_events.response(
            self.id,
            self.conversation_id,
            status,
            [self.item.describe()] if self.item.status != "in_progress" else [],
            audio=self.turn.format,
            details=DETAILS.get(self.turn.phase),
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
class EmptyResponse:
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
        self._send(outbox, "response.done", STATUS[self.phase], DETAILS.get(self.phase), epoch)

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


STATUS: Final[Mapping[Phase, str]] = {
    Phase.COMPLETED: "completed",
    Phase.CANCELLED: "cancelled",
    Phase.INTERRUPTED: "cancelled",
    Phase.FAILED: "failed",
    Phase.ABORTED: "failed",
}
DETAILS: Final[Mapping[Phase, Mapping[str, object]]] = {
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
