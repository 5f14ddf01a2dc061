"""One answer: audio from outside that the avatar speaks, and the events in step with it."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic

from avatar_runtime.errors import ProtocolError
from avatar_runtime.protocol import response as responses
from avatar_runtime.protocol import server_events
from avatar_runtime.protocol.answer_audio import AudioMap
from avatar_runtime.protocol.answer_outline import Outline
from avatar_runtime.protocol.media import AudioChunk, DroppedFrames, VideoFrame, W
from avatar_runtime.protocol.media_messages import MediaMessages
from avatar_runtime.protocol.turn import Phase, Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from avatar_runtime.protocol.answer_audio import Part
    from avatar_runtime.protocol.conversation import Conversation
    from avatar_runtime.protocol.media import Media
    from avatar_runtime.protocol.media_messages import VideoMessage
    from avatar_runtime.protocol.outbox import Outbox
    from avatar_runtime.protocol.turn import Step

    Fields = Mapping[str, object] | Callable[[], Mapping[str, object]]

MAX_WAITING_CHARACTERS: Final = 1024 * 1024
"""Size of the events of an answer that wait for its audio, at most."""
_COMPUTED_SIZE: Final = 512  # of fields that are computed when they leave


@dataclass(frozen=True, slots=True)
class Report:
    """An event that leaves when the audio before it has left."""

    at: int
    """Samples of the answer before the event."""
    kind: str
    fields: Fields
    size: int
    item_id: str | None
    """The item that is reported also if the answer is cut short, once it is complete."""


class Answer(Generic[W]):
    """The response that speaks an answer. `Answers` owns it; `Speech` starts and ends it."""

    def __init__(
        self, response: Mapping[str, object], turn: Turn[W], outbox: Outbox, fps: int
    ) -> None:
        """`response` is the response object of `response.created`, with the id of the answer."""
        self.id = str(response["id"])
        self.turn = turn
        self.ref = 0
        self.void: Step | None = None
        self.has_video = True
        """Whether the client gets frames; set when the answer starts."""
        self.done: Mapping[str, object] | None = None
        """The response object of `response.done`, once the answer is complete."""
        self.failure: Mapping[str, object] | None = None
        """`type` and `code` of the error that ends the answer."""
        self.audio = AudioMap(turn.format, fps)
        self.heard_at: float | None = None
        """When its first audio arrived, monotonic seconds."""
        self._response = response
        self._outbox = outbox
        self._media = MediaMessages(outbox, turn, self.id, fps)
        self._fps = fps
        self._reports: deque[Report] = deque()
        self._waiting = 0  # characters of the reports
        self._outline = Outline(self.id)
        self._is_video_done = False

    @property
    def is_open(self) -> bool:
        """Whether audio and events can be added."""
        return self.turn.accepts_audio and self.void is None

    # What comes in

    def say(self, audio: bytes, part: Part, now: float) -> None:
        """Add whole samples in the format of the turn.

        Raises:
            ProtocolError: the audio changes too often from part to part.
        """
        if self.heard_at is None:
            self.heard_at = now
        self.audio.add(part, len(audio) // self.turn.format.bytes_per_sample)
        self.turn.append(audio, now)

    def report(self, kind: str, fields: Fields, item_id: str | None = None) -> None:
        """Add an event, which leaves after the audio that was added before it.

        Raises:
            ProtocolError: too many events wait.
        """
        size = _COMPUTED_SIZE if callable(fields) else len(json.dumps(fields))
        if self._waiting + size > MAX_WAITING_CHARACTERS:
            message = "the events of the answer that wait for its audio are too large"
            raise ProtocolError("invalid_value", message, limit=MAX_WAITING_CHARACTERS)
        self._waiting += size
        self._reports.append(Report(self.turn.samples, kind, fields, size, item_id))

    # What goes out

    def announce_start(self, conversation: Conversation, epoch: int) -> None:
        """Send `response.created`; the items and parts are events of the answer itself."""
        self._send("response.created", self._ended(self._response, epoch))

    def release(self, epoch: int) -> None:
        """Send the events whose audio has left; those at the end leave after the last frame."""
        turn = self.turn
        while self._reports and self._reports[0].at <= turn.samples_sent:
            is_last = turn.phase is Phase.ENDING and self._reports[0].at == turn.samples
            if is_last and not turn.is_exhausted:
                return
            kind = self._send_report(self._reports.popleft())
            is_audio_done = kind == "response.output_audio.done"
            if is_audio_done and is_last and not any(kind == r.kind for r in self._reports):
                self._send_video_done(epoch)

    def send_media(self, media: Media, epoch: int, *, audio_deltas: bool) -> VideoMessage | None:
        """Put media into the outbox, or return the message if it is a frame."""
        match media:
            case AudioChunk():
                if audio_deltas:
                    self._send_audio(media, epoch)
            case DroppedFrames() if self.has_video:
                fields = server_events.dropped_frames(self.id, media)
                self._send("response.video.dropped", fields)
            case VideoFrame():
                return self._video(media, epoch)
        return None

    def announce_end(self, conversation: Conversation, epoch: int) -> None:
        """Send the last events of the response, whose turn is in its final phase."""
        if self.turn.phase is Phase.COMPLETED and self.done is not None:
            while self._reports:
                self._send_report(self._reports.popleft())
            self._send_video_done(epoch)
            self._send("response.done", self._ended(self.done, epoch))
            return
        self._close(conversation, epoch)
        self._send("response.done", self._ended(self._cut_short(), epoch))

    # Details

    def _close(self, conversation: Conversation, epoch: int) -> None:
        """End what is announced, and report the items that are complete without their audio."""
        for kind, fields in self._outline.close_audio():
            self._send(kind, fields)
        self._send_video_done(epoch)
        for kind, fields in self._outline.close(conversation):
            self._send(kind, fields)
        complete = {r.item_id for r in self._reports if r.kind == "response.output_item.done"}
        for report in self._reports:
            if report.item_id is not None and report.item_id in complete:
                self._send_report(report)
        self._reports.clear()
        for kind, fields in self._outline.close(conversation):
            self._send(kind, fields)

    def _cut_short(self) -> Mapping[str, object]:
        phase = self.turn.phase
        details = responses.DETAILS.get(phase)
        if phase is Phase.FAILED and self.failure is not None:
            details = {"type": "failed", "reason": None, "error": self.failure}
        return {
            **self._response,
            "status": responses.STATUS[phase],
            "status_details": details,
            "output": self._outline.output(),
            "usage": None if self.done is None else self.done.get("usage"),
        }

    def _ended(self, response: Mapping[str, object], epoch: int) -> dict[str, object]:
        return {"response": response, "response_ref": self.ref, "epoch": epoch}

    def _send_report(self, report: Report) -> str:
        fields = report.fields() if callable(report.fields) else report.fields
        self._waiting -= report.size
        self._outline.observe(report.kind, fields)
        self._send(report.kind, fields)
        return report.kind

    def _send_audio(self, chunk: AudioChunk, epoch: int) -> None:
        width, start = self.turn.format.bytes_per_sample, chunk.offset_samples
        end = start + len(chunk.data) // width
        for low, high, part in self.audio.split(start, end):
            data = chunk.data[(low - start) * width : (high - start) * width]
            self._media.send_audio(AudioChunk(low, data), part.ids(self.id), self.ref, epoch)

    def _video(self, frame: VideoFrame, epoch: int) -> VideoMessage:
        offset = self._media.offset_samples(frame)
        part = next((part for _, _, part in self.audio.split(offset, offset + 1)), None)
        item_id = "" if part is None else part.item_id
        return self._media.video(frame, item_id, self.ref, epoch, self.heard_at)

    def _send_video_done(self, epoch: int) -> None:
        if self._is_video_done or not self.has_video:
            return
        self._is_video_done = True
        last = next(
            (part for *_, part in reversed([*self.audio.split(0, self.audio.samples)])), None
        )
        status = "completed"
        if self.turn.phase in responses.STATUS:
            status = responses.STATUS[self.turn.phase]
        if status == "completed" and self.done is not None:
            ended = self.done.get("status")
            status = str(ended) if ended in ("failed", "cancelled") else status
        fields = server_events.video_done(
            self.id,
            None if last is None else last.item_id,
            epoch,
            status,
            turn=self.turn,
            fps=self._fps,
        )
        self._send("response.video.done", fields)

    def _send(self, kind: str, fields: Mapping[str, object]) -> None:
        self._outbox.add(kind, dict(fields))
