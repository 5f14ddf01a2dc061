"""The configuration of a session, as the client sees and changes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlencode

from avatar_runtime.protocol.audio_formats import PCM_24K, AudioFormat

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_runtime.protocol.turn_detection import TurnDetection


class Overrun(Enum):
    """What happens when the socket is slower than the window allows."""

    DROP = "drop"
    """The oldest frames are dropped."""
    PAUSE = "pause"
    """No frames are generated until the socket has taken those that wait."""


class FlowMode(Enum):
    """What says how much the client has played."""

    CLOCK = "clock"
    """The clock of the server, from the first frame on."""
    ACK = "ack"
    """The acknowledgements of the client."""


class Transport(Enum):
    """How media travels."""

    JSON = "json"
    """As base64 in events."""
    BINARY = "binary"
    """As binary messages; all else stays JSON."""


class VideoMode(Enum):
    """What the client gets to see."""

    JPEG = "jpeg"
    """One image for each frame."""
    H264 = "h264"
    """One access unit of H.264 for each frame."""
    FMP4 = "fmp4"
    """One file with picture and sound, which grows with each frame."""
    NONE = "none"
    """Nothing: the session has sound only, and the engine generates no frames for it."""

    @property
    def is_encoded_when_sent(self) -> bool:
        """Whether a frame takes its form when it is sent, because it depends on others."""
        return self in (VideoMode.H264, VideoMode.FMP4)


class Region(Enum):
    """Which part of a frame is sent."""

    FULL = "full"
    """All of it."""
    PATCH = "patch"
    """What differs from the picture of the avatar in silence, which the client has."""


class Idle(Enum):
    """What the client sees between responses."""

    NONE = "none"
    """Nothing new: it keeps the last frame."""
    STREAM = "stream"
    """The avatar in silence, at the frame rate of the session."""


class StartTrigger(Enum):
    """Which event starts the response to the client's audio."""

    APPEND = "append"
    """The first audio: the avatar speaks while the client still does."""
    COMMIT = "commit"
    """The end of the turn, which the client commits or the server detects: OpenAI's order."""
    RESPONSE_CREATE = "response.create"
    """The `response.create` after the commit."""


ALPHA: Final = "alpha"
"""The background of a client that shows the avatar over a page of its own."""


@dataclass(frozen=True, slots=True)
class Crop:
    """The part of the avatar's picture that the client sees, in pixels of that picture."""

    left: int
    top: int
    right: int
    """The first column that is not seen."""
    bottom: int
    """The first row that is not seen."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.right - self.left, self.bottom - self.top

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom."""
        return self.left, self.top, self.right, self.bottom

    def describe(self) -> dict[str, object]:
        """Return the object of the wire protocol, which has Azure's form."""
        return {"top_left": [self.left, self.top], "bottom_right": [self.right, self.bottom]}


@dataclass(frozen=True, slots=True)
class Character:
    """A prepared avatar and the size of its frames in pixels."""

    name: str
    width: int
    height: int
    fps: int = 25
    """Frames per second of the source video."""
    key: str = ""
    """Names this version of the avatar to the engine; empty for the current one of the name."""
    disclosure: str = ""
    """Text for a visible label that says that the video is generated; empty for no label."""
    frames: int = 1
    """Stored frames of the source video, which is played forward and back."""
    has_alpha: bool = False
    """Whether it can be shown over any background."""

    @property
    def engine_name(self) -> str:
        """The name of the avatar in frame requests."""
        return self.key or self.name

    @property
    def version(self) -> str:
        """The beginning of the content hash of this version; empty if the key has none."""
        return self.key.rpartition("@")[2] if "@" in self.key else ""


def source_position(position: int, fps: int, source_fps: int) -> int:
    """Return the frame of the source video at a position of the timeline of a session.

    `position` counts frames of `fps` per second, the result frames of `source_fps` per second.
    """
    return position * source_fps // fps


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """The configuration of one session: docs/wire-protocol.md, "Session settings"."""

    character: Character
    format: AudioFormat = PCM_24K
    quality: int = 80
    bitrate: int = 2_000_000
    video: VideoMode = VideoMode.JPEG
    names_avatar: bool = False
    """Whether the client has named the avatar or its video, so that it knows events about them."""
    resolution: tuple[int, int] | None = None
    """Width and height in pixels; `None` takes the size of the avatar, or of the crop."""
    crop: Crop | None = None
    """The part of the picture that is shown; `None` shows all of it."""
    region: Region = Region.FULL
    background: str = ""
    """A colour, `#rrggbb`, `ALPHA`, or empty for what the pictures of the avatar have."""
    asked_audio_deltas: bool | None = None
    """Whether the client gets sound apart from the video, if it has said so."""
    idle: Idle = Idle.NONE
    transport: Transport = Transport.JSON
    flow: FlowMode = FlowMode.CLOCK
    window_ms: int = 1000
    overrun: Overrun = Overrun.DROP
    asked_start: StartTrigger | None = None
    """Which event starts a response, if the client has said so."""
    turn_detection: TurnDetection | None = None
    """How turns are detected in the audio; `None` leaves it to the client's commits."""
    stored: Mapping[str, object] = field(default_factory=dict)
    """Fields of OpenAI that the session itself does not serve; returned unchanged."""
    stored_input: Mapping[str, object] = field(default_factory=dict)
    stored_output: Mapping[str, object] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frames in pixels."""
        seen = (
            (self.character.width, self.character.height) if self.crop is None else self.crop.size
        )
        width, height = self.resolution or seen
        if self.video.is_encoded_when_sent:
            # Chroma has half the size. A resolution of the client is even.
            return width - width % 2, height - height % 2
        return width, height

    @property
    def has_alpha(self) -> bool:
        """Whether the alpha is below the picture, in images of twice the height."""
        return self.background == ALPHA

    @property
    def colour_behind(self) -> tuple[int, int, int] | None:
        """Blue, green and red behind the avatar; `None` for what its pictures have."""
        if not self.background:
            return None
        red, green, blue = bytes(3) if self.has_alpha else bytes.fromhex(self.background[1:])
        return blue, green, red

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height of the images in pixels."""
        width, height = self.size
        return width, height * 2 if self.has_alpha else height

    @property
    def has_video(self) -> bool:
        """Whether the client gets frames."""
        return self.video is not VideoMode.NONE

    @property
    def streams_idle_frames(self) -> bool:
        """Whether the client gets frames between responses."""
        is_asked = self.idle is Idle.STREAM and self.has_video
        return is_asked or self.video is VideoMode.FMP4

    @property
    def audio_deltas(self) -> bool:
        """Whether the client gets sound apart from the video: a file has it already."""
        if self.asked_audio_deltas is not None:
            return self.asked_audio_deltas
        return self.video is not VideoMode.FMP4

    @property
    def official_only(self) -> bool:
        """Whether the client gets no events that OpenAI's interface lacks.

        It wants sound only and has never named the avatar. Such clients report an error for each
        event that they do not know.
        """
        return not self.has_video and not self.names_avatar

    @property
    def start(self) -> StartTrigger:
        """Which event starts a response.

        Clients of OpenAI's interface that let the server detect the turns expect the answer after
        the turn: docs/decisions/0047-answers-follow-detected-turns.md.
        """
        default = StartTrigger.APPEND if self.turn_detection is None else StartTrigger.COMMIT
        return self.asked_start or default

    @property
    def waits_for_request(self) -> bool:
        """Whether a response starts only after a `response.create`."""
        detection = self.turn_detection
        is_manual = detection is not None and not detection.create_response
        return is_manual or self.start is StartTrigger.RESPONSE_CREATE

    def describe(self, read_only: ReadOnlyFields) -> dict[str, object]:
        """Return the session object of the wire protocol, with all defaults."""
        width, height = self.size
        shown_format = self.format.describe()
        detection = self.turn_detection.describe() if self.turn_detection else None
        return {
            **self.stored,
            "type": "realtime",
            **read_only.session(),
            "output_modalities": self.stored.get("output_modalities", ["audio"]),
            "audio": {
                "input": {
                    **self.stored_input,
                    "format": shown_format,
                    "turn_detection": self.stored_input.get("turn_detection", detection),
                },
                "output": {**self.stored_output, "format": shown_format},
            },
            "avatar": {
                "character": self.character.name,
                "output_protocol": "websocket",
                "video": {
                    "mode": self.video.value,
                    "quality": self.quality,
                    "bitrate": self.bitrate,
                    "region": self.region.value,
                    "resolution": {"width": width, "height": height},
                    "crop": None if self.crop is None else self.crop.describe(),
                },
                "background": self.background or None,
                "audio_deltas": self.audio_deltas,
                "idle": (Idle.STREAM if self.streams_idle_frames else self.idle).value,
                "transport": self.transport.value,
                "flow": {
                    "mode": self.flow.value,
                    "window_ms": self.window_ms,
                    "overrun": self.overrun.value,
                },
                "drive": {"start": self.start.value},
                **read_only.avatar(self),
            },
        }


def field_that_needs_silence(
    before: SessionConfig, after: SessionConfig
) -> tuple[str, object] | None:
    """Return a field whose change misplaces frames that are on their way, and its new value.

    Patches belong to the pictures that `idle_url` names: their size, their crop and their quality.
    """
    if after.has_alpha != before.has_alpha:
        return "session.avatar.background", after.background or None
    if not after.region is before.region is Region.PATCH:
        return None
    if after.crop != before.crop:
        return "session.avatar.video.crop", after.crop and after.crop.describe()
    if after.size != before.size:
        width, height = after.size
        return "session.avatar.video.resolution", {"width": width, "height": height}
    if after.quality != before.quality:
        return "session.avatar.video.quality", after.quality
    return None


@dataclass(frozen=True, slots=True)
class ReadOnlyFields:
    """The fields of the session object that the client cannot change."""

    id: str
    model: str
    expires_at: int
    """Seconds since 1970."""
    fps: int

    def session(self) -> dict[str, object]:
        """Return the read-only fields at the top of the session object."""
        return {
            "object": "realtime.session",
            "id": self.id,
            "model": self.model,
            "expires_at": self.expires_at,
        }

    def avatar(self, config: SessionConfig) -> dict[str, object]:
        """Return the read-only fields inside `avatar`; texts that are empty are left out."""
        fields: dict[str, object] = {
            "fps": self.fps,
            "samples_per_frame": config.format.samples_per_frame(self.fps),
        }
        texts = {"disclosure": config.character.disclosure, "version": config.character.version}
        fields |= {name: text for name, text in texts.items() if text}
        if config.region is Region.PATCH:
            fields |= {"idle_url": self._idle_url(config), "idle_frames": config.character.frames}
        return fields

    def _idle_url(self, config: SessionConfig) -> str:
        """Return where the pictures are over which patches are drawn, `{frame}` for the number."""
        width, height = config.size
        query = {
            "model": self.model,
            "version": config.character.version,
            "width": str(width),
            "height": str(height),
            "quality": str(config.quality),
        }
        if config.crop is not None:
            query["crop"] = ",".join(map(str, config.crop.corners))
        given = urlencode({name: value for name, value in query.items() if value}, safe="/,")
        return f"/v1/avatars/{quote(config.character.name)}/idle/{{frame}}.jpg?{given}"
