"""Records and checks the messages of a server, without a socket or a clock.

The checks are the guarantees of the protocol that one client can see: message numbers without
gaps, times that follow the sample counter, audio before its frame, an account of every frame, and
one end of every response.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

from avatar_contracts import video_label

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_VIOLATIONS: Final = 100
"""A fault often repeats with every message; more of them give no information."""

_UNNUMBERED: Final = frozenset({"session.queued", "session.resumed", "session.migrate"})
_MEDIA: Final = frozenset({"response.output_audio.delta", "response.video.delta"})


@dataclass(frozen=True, slots=True)
class Patch:
    """Where the image of a frame belongs that is a part of it."""

    rect: tuple[int, int, int, int]
    """Left, top, width and height in pixels; zeros if nothing differs from the picture below."""
    picture: str
    """Path of the picture below on the server of the session, with its query."""


@dataclass(frozen=True, slots=True)
class VideoFrame:
    """One received video frame."""

    frame_index: int
    pts_ms: float
    at: float
    """When it arrived, seconds of the clock of the caller."""
    data: bytes
    """The image or access unit; empty if the trace keeps no media, and for a part of a file."""
    codec: str = "jpeg"
    """`jpeg` or `h264`."""
    keyframe: bool = True
    """Whether it can be decoded without the frames before it."""
    wire_bytes: int = 0
    """Size of the media as it was sent: in base64 with the json transport."""
    file_ms: float | None = None
    """Where the frame starts in the file of the session; `None` if it is not in a file."""
    patch: Patch | None = None
    """Where the image belongs; `None` for a whole frame."""
    has_alpha: bool = False
    """Whether the lower half of the image says how opaque the upper half is."""


@dataclass(slots=True)
class Response:
    """One response of the avatar: its audio, its frames and its end."""

    response_id: str
    epoch: int
    created_at: float
    rate: int
    samples_per_frame: int
    frames: list[VideoFrame] = field(default_factory=list)
    pcm: bytearray = field(default_factory=bytearray)
    audio_samples: int = 0
    dropped: set[int] = field(default_factory=set)
    drop_reasons: dict[str, int] = field(default_factory=dict)
    """Dropped frames by reason: `slow_client` or `overload`."""
    video_done: bool = False
    has_video: bool = True
    """Whether frames are sent; a response keeps the mode in which it started."""
    status: str | None = None
    """`completed`, `cancelled`, `incomplete` or `failed`; `None` while it is active."""
    done_at: float | None = None

    @property
    def audio_ms(self) -> float:
        """Return the duration of the audio received."""
        return self.audio_samples * 1000 / self.rate

    @property
    def frame_ms(self) -> Fraction:
        """Return the exact duration of one frame."""
        return Fraction(self.samples_per_frame * 1000, self.rate)

    @property
    def frames_due(self) -> int:
        """Return the number of frames that the audio received requires."""
        return -(-self.audio_samples // self.samples_per_frame)

    @property
    def video_ms(self) -> float:
        """Return the duration of the video, to the end of the last frame."""
        if not self.frames:
            return 0.0
        return float((self.frames[-1].frame_index + 1) * self.frame_ms)

    @property
    def max_pts_error_ms(self) -> float:
        """Return the largest difference between the time of a frame and the sample counter."""
        return max(
            (abs(float(p.pts_ms - p.frame_index * self.frame_ms)) for p in self.frames),
            default=0.0,
        )


class Trace:
    """The record of one session."""

    def __init__(self, *, keep_media: bool) -> None:
        self.keep_media = keep_media
        self.session: Mapping[str, Any] = {}
        self.responses: dict[str, Response] = {}
        self.errors: list[Mapping[str, Any]] = []
        self.warnings: list[Mapping[str, Any]] = []
        self.violations: list[str] = []
        self.messages = 0
        self.file = bytearray()
        """The file of the session in mode fmp4; empty if the trace keeps no media."""
        self._file_ms = -1.0
        self._seq = 0
        self._epoch = 0

    @property
    def has_video(self) -> bool:
        """Return whether the session has frames, and not sound only."""
        avatar = self.session.get("avatar")
        video = avatar.get("video") if isinstance(avatar, dict) else None
        return not isinstance(video, dict) or video.get("mode") != "none"

    @property
    def seq(self) -> int:
        """Return the number of the last message; 0 before the first."""
        return self._seq

    @property
    def session_id(self) -> str:
        """Return the session's id; empty before `session.created`."""
        return str(self.session.get("id", ""))

    @property
    def disclosure(self) -> str:
        """Return the text that says that the video is generated; empty if there is none."""
        avatar = self.session.get("avatar")
        return video_label.printable(avatar.get("disclosure") if isinstance(avatar, dict) else "")

    @property
    def has_audio_deltas(self) -> bool:
        """Return whether the sound comes beside the video."""
        avatar = self.session.get("avatar")
        return not isinstance(avatar, dict) or avatar.get("audio_deltas") is not False

    def receive(self, event: Mapping[str, Any], now: float) -> None:
        """Record and check one server event that arrived at `now`."""
        self.messages += 1
        kind = str(event.get("type", ""))
        self._check_seq(kind, event)
        match kind:
            case "session.created" | "session.updated":
                self._configure(kind, event)
            case "response.created":
                self._open(event, now)
            case "response.output_audio.delta":
                self._audio(event)
            case "response.video.delta":
                self._picture(event, now)
            case "response.video.dropped":
                self._drop(event)
            case "response.video.done":
                self._video_done(event)
            case "response.done":
                self._done(event, now)
            case "output_audio_buffer.cleared":
                self._epoch = max(self._epoch, int(event.get("epoch", 0)))
            case "error":
                self.errors.append(event["error"])
            case "warning":
                self.warnings.append(event["warning"])
            case "":
                self._violation("a message without a type")

    def _check_seq(self, kind: str, event: Mapping[str, Any]) -> None:
        seq = event.get("seq")
        if seq is None:
            before_session = kind == "error" and not self.session
            if kind not in _UNNUMBERED and not event.get("idle") and not before_session:
                self._violation(f"{kind} has no seq")
            return
        if seq != self._seq + 1:
            self._violation(f"{kind} has seq {seq} after {self._seq}")
        self._seq = int(seq)

    def _configure(self, kind: str, event: Mapping[str, Any]) -> None:
        if (kind == "session.created") == bool(self.session):
            self._violation(f"{kind} out of order")
        self.session = event["session"]

    def _open(self, event: Mapping[str, Any], now: float) -> None:
        body = event["response"]
        if body["id"] in self.responses:
            self._violation(f"{body['id']} was created twice")
        if any(response.status is None for response in self.responses.values()):
            self._violation(f"{body['id']} was created while another response is active")
        epoch = int(event.get("epoch", 0))
        if epoch < self._epoch:
            self._violation(f"{body['id']} has epoch {epoch} after {self._epoch}")
        self._epoch = max(self._epoch, epoch)
        self.responses[body["id"]] = Response(
            body["id"],
            epoch,
            now,
            output_rate(self.session),
            int(self.session["avatar"]["samples_per_frame"]),
            has_video=self.has_video,
        )

    def _live(self, event: Mapping[str, Any]) -> Response | None:
        """Return the response of an event; a response that is not active is a violation."""
        response = self.responses.get(str(event.get("response_id")))
        if response is None:
            self._violation(f"{event['type']} for unknown response {event.get('response_id')}")
        elif response.status is not None:
            self._violation(f"{event['type']} after response.done of {response.response_id}")
        elif event["type"] in _MEDIA and response.video_done:
            self._violation(f"{event['type']} after response.video.done")
        elif event["type"] in _MEDIA and event.get("epoch", 0) < self._epoch:
            self._violation(f"{event['type']} of epoch {event.get('epoch')} in {self._epoch}")
        return response

    def _audio(self, event: Mapping[str, Any]) -> None:
        response = self._live(event)
        if response is None:
            return
        offset = event.get("offset_samples")
        if offset != response.audio_samples:
            self._violation(f"audio at sample {offset}, expected {response.audio_samples}")
        if response.audio_samples % response.samples_per_frame:
            self._violation("audio after a chunk that was not a whole number of frames")
        if event.get("pts_ms") != Fraction(response.audio_samples * 1000, response.rate):
            self._violation(f"audio at sample {offset} has pts_ms {event.get('pts_ms')}")
        # PCM16 has two bytes per sample, the 8 kHz formats have one.
        width = 2 if response.rate != 8000 else 1
        response.audio_samples += decoded_length(event) // width
        if self.keep_media:
            response.pcm += _decoded(event)

    def _picture(self, event: Mapping[str, Any], now: float) -> None:
        if event.get("mode") == "fmp4":
            self._add_to_file(event)
        if event.get("idle"):
            return
        response = self._live(event)
        if response is None:
            return
        index = int(event["frame_index"])
        last = response.frames[-1].frame_index if response.frames else -1
        if index <= last:
            self._violation(f"frame {index} after frame {last}")
        if index in response.dropped:
            self._violation(f"frame {index} was reported as dropped")
        if event.get("offset_samples") != index * response.samples_per_frame:
            self._violation(f"frame {index} has offset_samples {event.get('offset_samples')}")
        if event["pts_ms"] != index * response.frame_ms:
            self._violation(f"frame {index} has pts_ms {event['pts_ms']}")
        if self.has_audio_deltas and not self._is_covered(response, index):
            self._violation(f"frame {index} came before its audio ({response.audio_samples})")
        is_kept = self.keep_media and event.get("mode") != "fmp4"
        data = _decoded(event) if is_kept else b""
        codec, keyframe = str(event.get("codec", "jpeg")), bool(event.get("keyframe", True))
        if not keyframe and (not response.frames or index != last + 1):
            self._violation(f"frame {index} depends on one that was not sent")
        response.frames.append(
            VideoFrame(
                index,
                event["pts_ms"],
                now,
                data,
                codec,
                keyframe,
                _wire_length(event),
                event.get("file_ms"),
                self._patch(event) if "rect" in event else None,
                self.session["avatar"].get("background") == "alpha",
            )
        )

    def _patch(self, event: Mapping[str, Any]) -> Patch:
        """Return where the image of a frame belongs, and check that it is inside the picture."""
        left, top, width, height = (int(number) for number in event["rect"])
        avatar, source_frame = self.session["avatar"], int(event["source_frame"])
        size = avatar["video"]["resolution"]
        is_inside = left + width <= size["width"] and top + height <= size["height"]
        if not is_inside or min(left, top, width, height) < 0:
            self._violation(f"a patch at {event['rect']} of {size['width']} x {size['height']}")
        if not 0 <= source_frame < avatar.get("idle_frames", 0):
            self._violation(f"a patch over frame {source_frame} of {avatar.get('idle_frames')}")
        address = str(avatar.get("idle_url", ""))
        if not address.startswith("/") or address.startswith("//"):
            self._violation(f"idle_url is {address[:80]!r}, not a path")
        return Patch((left, top, width, height), address.replace("{frame}", str(source_frame)))

    def _add_to_file(self, event: Mapping[str, Any]) -> None:
        """Add a part of the file of the session; `ftyp` starts another file."""
        data = _decoded(event)
        if data[4:8] == b"ftyp":
            self.file.clear()
            self._file_ms = -1.0
        if "file_ms" in event:  # a binary message has no room for it
            if event["file_ms"] <= self._file_ms:
                self._violation(f"the file goes back from {self._file_ms} to {event['file_ms']} ms")
            self._file_ms = float(event["file_ms"])
        if self.keep_media:
            self.file += data

    @staticmethod
    def _is_covered(response: Response, index: int) -> bool:
        """Return whether the audio of a frame arrived before it; the last one may be shorter."""
        whole, rest = divmod(response.audio_samples, response.samples_per_frame)
        return index < whole + (rest > 0)

    def _drop(self, event: Mapping[str, Any]) -> None:
        response = self._live(event)
        if response is not None:
            first, last = int(event["first_frame_index"]), int(event["last_frame_index"])
            response.dropped.update(range(first, last + 1))
            reason = str(event.get("reason"))
            counted = response.drop_reasons.get(reason, 0)
            response.drop_reasons[reason] = counted + last - first + 1

    def _video_done(self, event: Mapping[str, Any]) -> None:
        response = self._live(event)
        if response is None:
            return
        if response.video_done:
            self._violation(f"second response.video.done of {response.response_id}")
        response.video_done = True
        self._epoch = max(self._epoch, int(event.get("epoch", 0)))
        if not self.has_audio_deltas:  # the sound is in the file, or the client wants none
            response.audio_samples = int(event.get("audio_samples", 0))
        counted = {
            "frames": len(response.frames),
            "dropped": len(response.dropped),
            "audio_samples": response.audio_samples,
        }
        for name, value in counted.items():
            if event.get(name) != value:
                self._violation(f"response.video.done says {name} {event.get(name)}, got {value}")
        if event.get("status") == "completed":
            seen = {frame.frame_index for frame in response.frames} | response.dropped
            if seen != set(range(response.frames_due)):
                self._violation(
                    f"{len(response.frames)} frames + {len(response.dropped)} dropped "
                    f"for {response.frames_due} due"
                )

    def _done(self, event: Mapping[str, Any], now: float) -> None:
        body = event["response"]
        response = self.responses.get(body["id"])
        if response is None or response.status is not None:
            self._violation(f"response.done of {body['id']} without an active response")
            return
        if response.has_video and not response.video_done:
            self._violation(f"response.done of {body['id']} before response.video.done")
        self._epoch = max(self._epoch, int(event.get("epoch", 0)))
        response.status = str(body["status"])
        response.done_at = now

    def _violation(self, sentence: str) -> None:
        if len(self.violations) < MAX_VIOLATIONS:
            self.violations.append(f"message {self.messages}: {sentence}")


def output_rate(session: Mapping[str, Any]) -> int:
    """Return the rate of the sound of the avatar, Hz; the 8 kHz formats do not name theirs."""
    return int(session["audio"]["output"]["format"].get("rate", 8000))


def _wire_length(event: Mapping[str, Any]) -> int:
    return len(event["data"] if "data" in event else event["delta"])


def decoded_length(event: Mapping[str, Any]) -> int:
    """Return the size of the media of an event, bytes."""
    if "data" in event:
        return len(event["data"])
    text: str = event["delta"]
    return len(text) * 3 // 4 - text.count("=", -2)


def _decoded(event: Mapping[str, Any]) -> bytes:
    """Return the media of an event: `data` of a binary message, otherwise `delta` in base64."""
    if "data" in event:
        return bytes(event["data"])
    return base64.b64decode(event["delta"], validate=True)
