"""The order, the numbers and the media of responses."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from localcluster.fuzz.fakes import FPS
from localcluster.fuzz.violation import Violation, require

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from localcluster.fuzz.orders import Order
    from localcluster.fuzz.video import VideoModes

    Event = Mapping[str, Any]

_FRAME_MS: Final = 1000 // FPS
STATUSES: Final = frozenset({"completed", "cancelled", "failed"})
_RATES: Final[Mapping[str, int]] = {"audio/pcmu": 8000, "audio/pcma": 8000}


@dataclass(slots=True)
class Active:
    """The response whose `response.done` has not come."""

    id: str
    item_id: str
    rate: int
    width: int
    sound: bytearray
    has_all_sound: bool
    """Whether every delta of the sound is sent."""
    has_video: bool
    samples: int = 0
    frames: int = 0
    dropped: int = 0
    position: int = 0
    """Frames that were sent or reported as dropped."""
    video_status: str = ""

    @property
    def samples_per_frame(self) -> int:
        """Samples of one frame."""
        return self.rate // FPS


class ResponseCheck:
    """Checks that responses start and end completely, and that their media is in order."""

    def __init__(self, on_sound: Callable[[bytes], None], order: Order, modes: VideoModes) -> None:
        """`on_sound` gets the sound of each response that has ended."""
        self.active: Active | None = None
        self._order = order
        self._modes = modes
        self._on_sound = on_sound
        self._epoch = 1
        self._refs = 0
        self._audio_deltas = True
        self._is_idle_due = False  # the client may show an open mouth
        self._file_ms = -_FRAME_MS  # the time of the last frame in the file
        self._last_frame: tuple[str, str | None, int, int] | None = None

    def read(self, event: Event) -> None:
        """Take notice of an event of the session.

        Raises:
            Violation: it is not allowed here.
        """
        kind: str = event["type"]
        self._order.read(event)
        if kind in ("session.created", "session.updated"):
            if self._modes.mode != "fmp4":
                self._file_ms = -_FRAME_MS
            self._audio_deltas = event["session"]["avatar"]["audio_deltas"]
            if self.active is not None and not self._audio_deltas:
                self.active.has_all_sound = False
        self._check_epoch(kind, event)
        handler = _HANDLERS.get(kind)
        if handler is not None:
            handler(self, event)

    def read_idle_frame(self, event: Event) -> None:
        """Take notice of a message without a number, which no other message depends on.

        Raises:
            Violation: it is not an idle frame, or not allowed here.
        """
        is_idle = event["type"] == "response.video.delta" and event["idle"]
        require(is_idle, f"{event['type']} has no seq")
        self._check_epoch(event["type"], event)
        self._check_keyframe(event)
        self._check_streamed(event)

    def check_quiet(self) -> None:
        """Check that no sequence of events is incomplete.

        Raises:
            Violation: one is.
        """
        self._order.check_quiet()

    def check_end(self) -> None:
        """Check that no response is active.

        Raises:
            Violation: one is.
        """
        self.check_quiet()
        require(self.active is None, f"{self.active} never ended")

    def _check_epoch(self, kind: str, event: Event) -> None:
        epoch = event.get("epoch")
        if epoch is None:
            return
        require(epoch >= self._epoch, f"{kind} of epoch {epoch} after {self._epoch}")
        if kind in _MEDIA:
            require(epoch == self._epoch, f"{kind} of epoch {epoch} before its announcement")
        self._epoch = epoch

    def _current(self, event: Event) -> Active:
        active = self.active
        if active is None or event["response_id"] != active.id:
            raise Violation(f"{event['type']} of {event['response_id']}, which is not active")
        return active

    def _created(self, event: Event) -> None:
        require(self.active is None, f"a response starts while {self.active} is active")
        self._refs += 1
        require(event["response_ref"] == self._refs, f"response_ref {event['response_ref']}")
        response = event["response"]
        require(response["status"] == "in_progress", f"status {response['status']}")
        audio = response["audio"]["output"]["format"]
        kind = audio["type"]
        self.active = Active(
            id=response["id"],
            item_id="",
            rate=audio.get("rate") or _RATES[kind],
            width=2 if kind == "audio/pcm" else 1,
            sound=bytearray(),
            has_all_sound=self._audio_deltas,
            has_video=self._modes.has_video(response["id"]),
        )

    def _item_added(self, event: Event) -> None:
        self._current(event).item_id = event["item"]["id"]

    def _audio(self, event: Event) -> None:
        active = self._current(event)
        data = base64.b64decode(event["delta"], validate=True)
        require(event["item_id"] == active.item_id, f"a delta of {event['item_id']}")
        require(data and len(data) % active.width == 0, f"a delta of {len(data)} bytes")
        offset = event["offset_samples"]
        if active.has_all_sound:
            require(offset == active.samples, f"offset {offset} after {active.samples}")
        require(offset >= active.samples, f"offset {offset} after {active.samples}")
        self._check_time(event, offset, active)
        active.samples = offset + len(data) // active.width
        active.sound += data

    def _video(self, event: Event) -> None:
        self._check_keyframe(event)
        self._check_file(event)
        if event["idle"] and event["mode"] == "fmp4":
            self._check_streamed(event)
            return
        if event["idle"]:
            require(event["response_id"] is None, "an idle frame of a response")
            require(self._is_idle_due, "an idle frame while the client shows what it should")
            self._is_idle_due = False
            return
        active, index = self._current(event), event["frame_index"]
        require(active.has_video, f"a frame of {active.id}, which has sound only")
        require(index == active.position, f"frame {index} at {active.position}")
        offset = event["offset_samples"]
        require(offset == index * active.samples_per_frame, f"frame {index} at {offset}")
        self._check_time(event, offset, active)
        is_heard = not active.has_all_sound or active.samples > offset
        require(is_heard, f"frame {index} before its audio, of which {active.samples} came")
        active.frames += 1
        active.position += 1

    def _check_streamed(self, event: Event) -> None:
        """Check a frame of an idle stream."""
        require(event["response_id"] is None, "an idle frame of a response")
        require(self._modes.streams_idle_frames, "an idle frame that was not asked for")
        is_between = self.active is None or not self.active.position
        require(is_between, f"an idle frame within {self.active}")

    def _check_file(self, event: Event) -> None:
        """Check that the timeline of the file goes on."""
        if event["mode"] != "fmp4":
            require("file_ms" not in event, f"file_ms in {event['mode']}")
            return
        if "file_ms" not in event:  # a binary message has no room for it
            self._file_ms += _FRAME_MS
            return
        step = event["file_ms"] - self._file_ms
        require(step >= _FRAME_MS and step % _FRAME_MS == 0, f"file_ms rises by {step}")
        self._file_ms = event["file_ms"]

    def _check_keyframe(self, event: Event) -> None:
        """Check that a decoder has what the frame depends on."""
        self._modes.check_patch(event)
        this = event["codec"], event["response_id"], event["epoch"], event["frame_index"]
        index = 0 if event["idle"] else this[3] - 1
        follows = this[0] == "h264" and self._last_frame == (*this[:3], index)
        require(event["keyframe"] or follows, f"a frame that depends on none: {this}")
        self._last_frame = this

    def _check_time(self, event: Event, offset: int, active: Active) -> None:
        exact = offset * 1000 / active.rate
        require(abs(event["pts_ms"] - exact) <= 0.001, f"pts_ms {event['pts_ms']} at {offset}")

    def _stopped(self, _: Event) -> None:
        self._is_idle_due = True

    def _dropped(self, event: Event) -> None:
        active = self._current(event)
        require(active.has_video, f"dropped frames of {active.id}, which has sound only")
        first, last = event["first_frame_index"], event["last_frame_index"]
        is_next = first == active.position and last >= first
        require(is_next, f"frames {first} to {last} dropped at {active.position}")
        active.dropped += last - first + 1
        active.position = last + 1

    def _video_done(self, event: Event) -> None:
        active = self._current(event)
        require(active.has_video, f"the video of {active.id}, which has sound only, is done")
        counted = (event["frames"], event["dropped"])
        require(counted == (active.frames, active.dropped), f"{counted} instead of {active}")
        samples = event["audio_samples"]
        if active.has_all_sound:
            require(samples == active.samples, f"{samples} samples, {active.samples} came")
        status = active.video_status = event["status"]
        require(status in STATUSES, f"status {status}")
        if status == "completed":
            frames = -(-samples // active.samples_per_frame)
            require(active.position == frames, f"{active.position} frames of {frames}")

    def _done(self, event: Event) -> None:
        active, response = self.active, event["response"]
        if active is None or response["id"] != active.id:
            raise Violation(f"the end of {response['id']}, which is not active")
        status = response["status"]
        require(status in STATUSES, f"status {status}")
        if self._order.is_empty(event):
            require(not active.samples, f"{active.id} has sound and no output")
            self.active = None
            return
        if active.has_video:
            require(status == active.video_status, f"{status} after {active.video_status}")
        item = response["output"][0]
        expected = "completed" if status == "completed" else "incomplete"
        require(item["status"] == expected, f"an item that is {item['status']} of a {status}")
        require((response["status_details"] is None) == (status == "completed"), "status_details")
        self._is_idle_due |= status != "completed" and active.frames > 0
        if active.has_all_sound:
            self._on_sound(bytes(active.sound))
        self.active = None


_MEDIA: Final = frozenset({"response.output_audio.delta", "response.video.delta"})
_HANDLERS: Final[Mapping[str, Callable[[ResponseCheck, Event], None]]] = {
    "response.created": ResponseCheck._created,
    "response.output_item.added": ResponseCheck._item_added,
    "response.output_audio.delta": ResponseCheck._audio,
    "response.video.delta": ResponseCheck._video,
    "output_audio_buffer.cleared": ResponseCheck._stopped,
    "conversation.item.truncated": ResponseCheck._stopped,
    "response.video.dropped": ResponseCheck._dropped,
    "response.video.done": ResponseCheck._video_done,
    "response.done": ResponseCheck._done,
}
