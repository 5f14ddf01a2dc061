"""The media of a response: windows of audio that come in, audio and frames that go out."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol, TypeVar

from avatar_contracts import binary_messages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from avatar_runtime.protocol.audio_formats import AudioFormat
    from avatar_runtime.protocol.strict_fields import StrictFields


class Window(Protocol):
    """The audio around one frame. Only the engine reads its content."""

    @property
    def frame_index(self) -> int:
        """Index of the frame in its response."""


W = TypeVar("W", bound=Window)


class Utterance(Protocol[W]):
    """Converts audio to windows, one per frame. The result does not depend on the chunking."""

    def append(self, data: bytes) -> None:
        """Add whole samples in the format that the utterance was opened for."""

    def finish(self) -> None:
        """Mark the end of the audio: silence takes the place of the missing future samples."""

    def take(self) -> Sequence[W]:
        """Return the windows that have become computable since the last call, in order."""

    def export(self, windows: Sequence[W]) -> dict[str, object]:
        """Return the state as plain values, with windows of `take` that are needed again.

        They are the newest ones, in order and without a gap.
        """

    def restore(self, fields: StrictFields) -> Sequence[W]:
        """Continue another utterance from what it has exported, and return its windows.

        Raises:
            ProtocolError: a field is missing or wrong.
        """


class VoiceDetector(Protocol):
    """Rates the speech in audio. The result does not depend on the chunking."""

    def append(self, data: bytes) -> Sequence[float]:
        """Add whole samples in the format that the detector was opened for.

        Return the probability of speech, 0 to 1, of each window of `turn_detection.WINDOW_MS` that
        has become complete since the last call, in order.
        """

    def export(self) -> dict[str, object]:
        """Return the state as plain values."""

    def restore(self, fields: StrictFields) -> None:
        """Continue another detector from what it has exported.

        Raises:
            ProtocolError: a field is missing or wrong.
        """


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """Audio to send."""

    offset_samples: int
    """Position of the first sample in the response."""
    data: bytes


@dataclass(frozen=True, slots=True)
class RawImage:
    """An image that is encoded when it is sent, because its form depends on the frame before it."""

    planes: bytes
    """I420: the planes Y, U and V, of which U and V have half the width and height."""
    width: int
    """In pixels, even."""
    height: int
    """In pixels, even."""


@dataclass(frozen=True, slots=True)
class PatchImage:
    """A JPEG image of the part of a frame that differs from the avatar in silence."""

    data: bytes
    """Empty if nothing differs."""
    rect: tuple[int, int, int, int]
    """Left, top, width and height in pixels of the whole frame; zeros if nothing differs."""
    source_frame: int
    """The stored frame of the avatar whose picture in silence is below."""


Image = bytes | RawImage | PatchImage
"""The image of a frame: a JPEG image, one to encode, or a part of one."""


@dataclass(frozen=True, slots=True)
class FilePart:
    """What one frame adds to the file of a session in mode fmp4."""

    position: int
    """Frames in the file before it; 0 starts a file."""
    frames: int
    """Frames that it adds. The last one is new, those before it repeat the picture before them."""
    sound: bytes
    """Sound of all these frames, whole samples in `audio`."""
    audio: AudioFormat


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the access unit of a frame is encoded."""

    keyframe: bool
    """Whether it can be decoded without the frames before it."""
    quality: int
    """1 to 100, as that of a JPEG image."""
    bitrate: int
    """The most that the stream may take, bits per second."""
    part: FilePart | None = None
    """What it adds to a file; `None` for an access unit of its own."""


@dataclass(frozen=True, slots=True)
class VideoFrame:
    """A frame to send."""

    frame_index: int
    image: Image
    requested_at: float
    """When the frame was requested from the engine, monotonic seconds."""
    is_drawn: bool = True
    """Whether the model drew the frame. If not, it shows the avatar's source frame in silence."""
    is_idle: bool = False
    """Whether it is one of the idle frames that a session streams between responses."""
    encoding: Encoding | None = None
    """That of a `RawImage` that is sent; `None` before, and for JPEG."""

    @property
    def nbytes(self) -> int:
        """Size of the image as it waits, in bytes."""
        return len(self.image.planes if isinstance(self.image, RawImage) else self.data)

    @property
    def codec(self) -> str:
        """`jpeg` or `h264`."""
        return "h264" if isinstance(self.image, RawImage) else "jpeg"

    @property
    def mode(self) -> str:
        """`jpeg`, `h264` or `fmp4`."""
        return "fmp4" if self.part is not None else self.codec

    @property
    def part(self) -> FilePart | None:
        """What the frame adds to the file of its session; `None` without a file."""
        return None if self.encoding is None else self.encoding.part

    @property
    def is_keyframe(self) -> bool:
        """Whether the frame can be decoded without the frames before it."""
        return self.encoding is None or self.encoding.keyframe

    @property
    def data(self) -> bytes:
        """The image; empty for an image that is encoded later."""
        match self.image:
            case RawImage():
                return b""
            case PatchImage():
                return self.image.data
        return self.image

    @property
    def patch(self) -> PatchImage | None:
        """The image, if it is a part of the frame."""
        return self.image if isinstance(self.image, PatchImage) else None

    @property
    def payload(self) -> bytes:
        """What a binary message carries: the place of a patch, then the image."""
        patch = self.patch
        if patch is None:
            return self.data
        return binary_messages.pack_patch(patch.rect, patch.source_frame) + patch.data

    @property
    def delta(self) -> str:
        """The image in base64; empty for an image that is encoded later."""
        return b64encode(self.data).decode("ascii")


class DropReason(Enum):
    """Why a frame was dropped."""

    SLOW_CLIENT = "slow_client"
    """The socket did not accept the frame in time."""
    OVERLOAD = "overload"
    """The engine could not generate the frame in time."""


@dataclass(frozen=True, slots=True)
class DroppedFrames:
    """A range of dropped frames, both ends included."""

    first: int
    last: int
    reason: DropReason


Media = AudioChunk | VideoFrame | DroppedFrames
