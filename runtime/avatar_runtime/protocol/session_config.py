"""What a session is set to, and how `session.update` changes it: wholly or not at all."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Final

from avatar_runtime.errors import ProtocolError, supported
from avatar_runtime.protocol.audio_formats import FORMATS, PCM_24K, AudioFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from avatar_runtime.protocol.fields import Fields

STORED_CHARACTERS: Final = 65_536
PIXELS: Final = (64, 2048)
WINDOW_MS: Final = (200, 10_000)
BITRATE: Final = (100_000, 20_000_000)

_WITHOUT_EFFECT: Final = (
    "type",
    "style",
    "model",
    "customized",
    "scene",
    "ice_servers",
    "output_audit_audio",
)


class Overrun(Enum):
    """What happens when the socket does not take what the window allows."""

    DROP = "drop"
    PAUSE = "pause"


class Start(Enum):
    """When the avatar begins to speak the client's audio."""

    APPEND = "append"
    RESPONSE_CREATE = "response.create"


@dataclass(frozen=True, slots=True)
class Character:
    """A prepared avatar and the size of its picture in pixels."""

    name: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Configuration:
    """The settings of one session; defaults after wire protocol §4."""

    character: Character
    format: AudioFormat = PCM_24K
    quality: int = 80
    bitrate: int = 2_000_000
    resolution: tuple[int, int] | None = None
    """Width and height in pixels; `None` is the avatar's own."""
    audio_deltas: bool = True
    window_ms: int = 1000
    overrun: Overrun = Overrun.DROP
    start: Start = Start.APPEND
    stored: Mapping[str, object] = field(default_factory=dict)
    """OpenAI's fields that have no effect in drive mode, sent back as they came."""
    stored_input: Mapping[str, object] = field(default_factory=dict)
    stored_output: Mapping[str, object] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the pictures in pixels."""
        return self.resolution or (self.character.width, self.character.height)

    def describe(self, read_only: ReadOnly) -> dict[str, object]:
        """Return the session object of wire protocol §4, with all defaults."""
        width, height = self.size
        shown_format = self.format.describe()
        return {
            **self.stored,
            "type": "realtime",
            **read_only.session(),
            "output_modalities": ["audio"],
            "audio": {
                "input": {**self.stored_input, "format": shown_format, "turn_detection": None},
                "output": {**self.stored_output, "format": shown_format},
            },
            "avatar": {
                "character": self.character.name,
                "output_protocol": "websocket",
                "video": {
                    "mode": "jpeg",
                    "quality": self.quality,
                    "bitrate": self.bitrate,
                    "region": "full",
                    "resolution": {"width": width, "height": height},
                    "crop": None,
                },
                "audio_deltas": self.audio_deltas,
                "idle": "none",
                "transport": "json",
                "flow": {
                    "mode": "clock",
                    "window_ms": self.window_ms,
                    "overrun": self.overrun.value,
                },
                "drive": {"start": self.start.value},
                **read_only.avatar(self.format),
            },
        }


@dataclass(frozen=True, slots=True)
class ReadOnly:
    """The fields of the session object that no client can change."""

    id: str
    model: str
    expires_at: int
    """Seconds since 1970."""
    fps: int

    def session(self) -> dict[str, object]:
        """Return the fields beside the OpenAI ones."""
        return {
            "object": "realtime.session",
            "id": self.id,
            "model": self.model,
            "expires_at": self.expires_at,
        }

    def avatar(self, audio: AudioFormat) -> dict[str, object]:
        """Return the fields inside `avatar`."""
        return {"fps": self.fps, "samples_per_frame": audio.samples_per_frame(self.fps)}


@dataclass(frozen=True, slots=True)
class Warned:
    """A field that was accepted and has no effect."""

    param: str
    message: str


class Update:
    """One `session.update` on its way from a configuration to the next."""

    def __init__(
        self, before: Configuration, characters: Mapping[str, Character], read_only: ReadOnly
    ) -> None:
        self.configuration = before
        self.warnings: list[Warned] = []
        self._characters = characters
        self._read_only = read_only

    def apply(self, session: Fields) -> Configuration:
        """Return the new configuration.

        Raises `ProtocolError` for the first field that is wrong.
        """
        session.choice("type", ["realtime"])
        self._ignore_read_only(session, self._read_only.session())
        if "output_modalities" in session:
            session.only("output_modalities", ["audio"])
        if "audio" in session:
            self._audio(session.nested("audio"))
        if "avatar" in session:
            self._avatar(session.nested("avatar"))
        known = {"type", "output_modalities", "audio", "avatar", *self._read_only.session()}
        stored = {name: session.document[name] for name in session.unknown(known)}
        self._change(stored={**self.configuration.stored, **stored})
        self._check_stored()
        return self.configuration

    def _change(self, **changes: object) -> None:
        # The names and types are those of the fields of `Configuration`, a few lines above.
        self.configuration = replace(self.configuration, **changes)  # type: ignore[arg-type]

    def _audio(self, audio: Fields) -> None:
        before = self.configuration
        output = audio.nested("output") if "output" in audio else None
        if "input" in audio:
            given = audio.nested("input")
            if "turn_detection" in given:
                given.only("turn_detection", None)
            if "format" in given:
                self._change(format=_audio_format(given.nested("format")))
            rest = {name: given.document[name] for name in given.unknown(_INPUT_FIELDS)}
            self._change(stored_input={**before.stored_input, **rest})
        if output is not None:
            if "format" in output:
                self._output_format(output.nested("format"))
            rest = {name: output.document[name] for name in output.unknown(("format",))}
            self._change(stored_output={**before.stored_output, **rest})

    def _output_format(self, fields: Fields) -> None:
        wanted, served = _audio_format(fields), self.configuration.format
        if wanted != served:
            message = "must equal session.audio.input.format"
            code, name = "unsupported_audio_format", "type"
            if wanted.kind == served.kind:
                code, name = "unsupported_sample_rate", "rate"
            raise fields.refuse(code, name, message, served.describe())

    def _avatar(self, avatar: Fields) -> None:
        for name in avatar.unknown((*_AVATAR, *_WITHOUT_EFFECT, "fps", "samples_per_frame")):
            raise avatar.invalid(name, supported(_AVATAR), list(_AVATAR))
        self._ignore_read_only(avatar, self._read_only.avatar(self.configuration.format))
        for name in _WITHOUT_EFFECT:
            if name in avatar:
                param = avatar.path(name)
                self.warnings.append(Warned(param, f"{param} has no effect here"))
        for name, apply in _AVATAR.items():
            if name in avatar:
                apply(self, avatar)

    def _character(self, avatar: Fields) -> None:
        name = avatar.text("character")
        if name not in self._characters:
            names = sorted(self._characters)
            raise avatar.refuse("avatar_not_found", "character", supported(names), names)
        self._change(character=self._characters[name])

    def _output_protocol(self, avatar: Fields) -> None:
        if avatar.text("output_protocol") != "websocket":
            message = supported(["websocket"])
            raise avatar.refuse("webrtc_unsupported", "output_protocol", message, ["websocket"])

    def _video(self, avatar: Fields) -> None:
        video = avatar.nested("video")
        for name in video.unknown(_VIDEO):
            raise video.invalid(name, supported(_VIDEO), list(_VIDEO))
        if "mode" in video:
            video.choice("mode", ["jpeg"])
        elif "codec" in video:
            video.choice("codec", ["jpeg"])
        if "region" in video:
            video.choice("region", ["full"])
        if "crop" in video:
            video.only("crop", None)
        if "quality" in video:
            self._change(quality=video.integer("quality", 1, 100))
        if "bitrate" in video:
            self._change(bitrate=video.integer("bitrate", *BITRATE))
        if "resolution" in video:
            size = video.nested("resolution")
            wanted = (size.integer("width", *PIXELS), size.integer("height", *PIXELS))
            self._change(resolution=wanted)

    def _audio_deltas(self, avatar: Fields) -> None:
        self._change(audio_deltas=avatar.boolean("audio_deltas"))

    def _flow(self, avatar: Fields) -> None:
        flow = avatar.nested("flow")
        if "mode" in flow:
            flow.choice("mode", ["clock"])
        if "window_ms" in flow:
            self._change(window_ms=flow.integer("window_ms", *WINDOW_MS))
        if "overrun" in flow:
            value = flow.choice("overrun", [overrun.value for overrun in Overrun])
            self._change(overrun=Overrun(value))

    def _drive(self, avatar: Fields) -> None:
        drive = avatar.nested("drive")
        if "start" in drive:
            self._change(start=Start(drive.choice("start", [start.value for start in Start])))

    def _ignore_read_only(self, fields: Fields, served: Mapping[str, object]) -> None:
        for name, value in served.items():
            if name in fields and fields.document[name] != value:
                param = fields.path(name)
                self.warnings.append(Warned(param, f"{param} is read-only and stays {value}"))

    def _check_stored(self) -> None:
        now = self.configuration
        size = len(json.dumps([now.stored, now.stored_input, now.stored_output]))
        if size > STORED_CHARACTERS:
            raise ProtocolError(
                "invalid_value",
                f"the session's stored fields have {size} characters,"
                f" at most {STORED_CHARACTERS} are kept",
                param="session",
                value=size,
                limit=STORED_CHARACTERS,
            )


def _audio_format(fields: Fields) -> AudioFormat:
    kind = fields.text("type")
    kinds = list(dict.fromkeys(audio.kind for audio in FORMATS))
    if kind not in kinds:
        raise fields.refuse("unsupported_audio_format", "type", supported(kinds), kinds)
    served = [audio for audio in FORMATS if audio.kind == kind]
    if "rate" not in fields:
        return served[0]
    rate = fields.number("rate")
    for audio in served:
        if audio.rate == rate:
            return audio
    rates = [audio.rate for audio in served]
    raise fields.refuse("unsupported_sample_rate", "rate", supported(rates), rates)


_INPUT_FIELDS: Final = ("format", "turn_detection")
_VIDEO: Final = ("mode", "codec", "quality", "bitrate", "region", "resolution", "crop")
# `character` comes first: a resolution is checked against the limits alone.
_AVATAR: Final[Mapping[str, Callable[[Update, Fields], None]]] = {
    "character": Update._character,
    "output_protocol": Update._output_protocol,
    "video": Update._video,
    "audio_deltas": Update._audio_deltas,
    "idle": lambda _, avatar: _served(avatar, "idle", "none"),
    "transport": lambda _, avatar: _served(avatar, "transport", "json"),
    "flow": Update._flow,
    "drive": Update._drive,
}


def _served(fields: Fields, name: str, value: str) -> None:
    fields.choice(name, [value])
