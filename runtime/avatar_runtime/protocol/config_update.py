"""Applies `session.update` to the configuration of a session: all of it or nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from avatar_runtime.errors import ProtocolError, shown, supported
from avatar_runtime.protocol import config_checks, turn_detection_update
from avatar_runtime.protocol.audio_formats import FORMATS, AudioFormat
from avatar_runtime.protocol.config_checks import PIXEL_RANGE, QUALITY_RANGE
from avatar_runtime.protocol.session_config import (
    ALPHA,
    Crop,
    FlowMode,
    Idle,
    Overrun,
    Region,
    StartTrigger,
    Transport,
    VideoMode,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from avatar_runtime.protocol.session_config import Character, ReadOnlyFields, SessionConfig
    from avatar_runtime.protocol.strict_fields import StrictFields

MAX_STORED_CHARACTERS: Final = 65_536
WINDOW_MS_RANGE: Final = (200, 10_000)
BITRATE_RANGE: Final = (100_000, 20_000_000)

MAX_WARNINGS: Final = 16
"""Warnings about one `session.update`, at most."""
AVATAR_MODALITY: Final = "avatar"
"""The modality of Azure Voice Live by which a client asks for video."""
MAX_NAMES: Final = 8
"""Fields that one warning names, at most."""
_NEUTRAL: Final = frozenset({"tool_choice", "max_output_tokens", "include", "truncation"})
"""Fields that clients always send: without tools and text their values mean nothing here."""
_READ_ONLY: Final = (
    "fps",
    "samples_per_frame",
    "disclosure",
    "version",
    "idle_url",
    "idle_frames",
)


@dataclass(frozen=True, slots=True)
class FieldWarning:
    """A field that was accepted and has no effect."""

    param: str
    message: str


class ConfigUpdate:
    """Applies one `session.update` to a configuration."""

    def __init__(
        self,
        before: SessionConfig,
        characters: Mapping[str, Character],
        read_only: ReadOnlyFields,
        *,
        forwards: bool = False,
    ) -> None:
        """`forwards` is whether fields that the session does not serve go to an upstream."""
        self.config = self._before = before
        self.warnings: list[FieldWarning] = []
        self._characters = characters
        self._read_only = read_only
        self._forwards = forwards

    def apply(self, session: StrictFields) -> SessionConfig:
        """Return the new configuration.

        Raises:
            ProtocolError: for the first field that is wrong; nothing changes.
        """
        session.choice("type", ["realtime"])
        self._ignore_read_only(session, self._read_only.session())
        if "output_modalities" in session:
            self._output_modalities(session)
        if "audio" in session:
            self._audio(session.nested("audio"))
        if "avatar" in session:
            self._avatar(session.nested("avatar"))
        config_checks.check(self.config)
        self._check_file_size()
        known = {"type", "output_modalities", "audio", "avatar", *self._read_only.session()}
        stored = {name: session.document[name] for name in session.unknown(known)}
        self._store("stored", session, stored)
        self._check_stored()
        return self.config

    def _show_avatar(self) -> None:
        """Record that the client names the avatar, and give it video, in the mode that it has."""
        video = self.config.video if self.config.has_video else VideoMode.JPEG
        self._change(video=video, names_avatar=True)

    def _change(self, **changes: object) -> None:
        # The names and types are those of the fields of `SessionConfig`.
        self.config = replace(self.config, **changes)  # type: ignore[arg-type]

    def _audio(self, audio: StrictFields) -> None:
        output = audio.nested("output") if "output" in audio else None
        if "input" in audio:
            received = audio.nested("input")
            if "turn_detection" in received and not self._forwards:
                self._turn_detection(received)
            if "format" in received:
                self._change(format=_audio_format(received.nested("format")))
            known = ("format",) if self._forwards else _INPUT_FIELDS
            rest = {name: received.document[name] for name in received.unknown(known)}
            self._store("stored_input", received, rest)
        if output is not None:
            if "format" in output:
                self._output_format(output.nested("format"))
            rest = {name: output.document[name] for name in output.unknown(("format",))}
            self._store("stored_output", output, rest)

    def _output_modalities(self, session: StrictFields) -> None:
        value = session.document["output_modalities"]
        if not isinstance(value, list):
            raise session.error("invalid_type", "output_modalities", "must be an array", "an array")
        if AVATAR_MODALITY in value:
            self._show_avatar()
        elif "avatar" not in session and not self.config.names_avatar:
            self._change(video=VideoMode.NONE)
        others = [name for name in value if name != AVATAR_MODALITY]
        if self._forwards:
            self._change(stored={**self.config.stored, "output_modalities": others or ["audio"]})
        elif others != ["audio"]:
            param = session.path("output_modalities")
            self._warn(param, f"{param} stays audio: other modalities are not served")

    def _turn_detection(self, received: StrictFields) -> None:
        if received.document["turn_detection"] is None:
            self._change(turn_detection=None)
            return
        fields = received.nested("turn_detection")
        before = self.config.turn_detection
        detection = turn_detection_update.read(fields, before)
        self._change(turn_detection=detection)
        if before is not None and before.asked == detection.asked:
            return
        for name in detection.asked:
            if name == "type":
                served = f"{fields.text(name)} is served as server_vad"
                self._warn(fields.path(name), served)
            else:
                self._warn_no_effect(fields, name)

    def _store(self, field: str, fields: StrictFields, values: Mapping[str, object]) -> None:
        """Keep fields that are not served here, and warn once about each value without effect."""
        kept: Mapping[str, object] = getattr(self.config, field)
        told = [
            fields.path(name)
            for name, value in values.items()
            if value not in (None, [], {}, "", kept.get(name)) and name not in _NEUTRAL
        ]
        if told and not self._forwards:
            names = ", ".join(map(_short, told[:MAX_NAMES]))
            more = f" and {len(told) - MAX_NAMES} more" if len(told) > MAX_NAMES else ""
            verb = "has" if len(told) == 1 else "have"
            self._warn(_short(told[0]), f"{names}{more} {verb} no effect")
        self._change(**{field: {**kept, **values}})

    def _warn(self, param: str, message: str) -> None:
        if len(self.warnings) < MAX_WARNINGS:
            self.warnings.append(FieldWarning(param, message))

    def _warn_no_effect(self, fields: StrictFields, name: str) -> None:
        param = _short(fields.path(name))
        self._warn(param, f"{param} has no effect")

    def _output_format(self, fields: StrictFields) -> None:
        requested, current = _audio_format(fields), self.config.format
        if requested != current:
            message = "must equal session.audio.input.format"
            code, name = "unsupported_audio_format", "type"
            if requested.kind == current.kind:
                code, name = "unsupported_sample_rate", "rate"
            raise fields.error(code, name, message, current.describe())

    def _avatar(self, avatar: StrictFields) -> None:
        if not self.config.names_avatar:
            # Sound only was the wish of a client that had not named the avatar.
            self._show_avatar()
        for name in avatar.unknown((*_AVATAR, *_READ_ONLY)):
            self._warn_no_effect(avatar, name)
        absent = {"disclosure": "", "version": "", "idle_url": "", "idle_frames": 0}
        fields = absent | self._read_only.avatar(self.config)
        self._ignore_read_only(avatar, fields)
        for name, apply in _AVATAR.items():
            if name in avatar:
                apply(self, avatar)

    def _character(self, avatar: StrictFields) -> None:
        name = avatar.text("character")
        if name not in self._characters:
            names = sorted(self._characters)
            raise avatar.error("avatar_not_found", "character", supported(names), names)
        self._change(character=self._characters[name])

    def _output_protocol(self, avatar: StrictFields) -> None:
        if avatar.text("output_protocol") != "websocket":
            message = supported(["websocket"])
            raise avatar.error("webrtc_unsupported", "output_protocol", message, ["websocket"])

    def _video(self, avatar: StrictFields) -> None:
        video = avatar.nested("video")
        for name in video.unknown(_VIDEO):
            self._warn_no_effect(video, name)
        if "mode" in video:
            self._change(video=video.member("mode", VideoMode))
        elif "codec" in video:
            self._change(video=_MODE_OF_CODEC[video.choice("codec", list(_MODE_OF_CODEC))])
        if "region" in video:
            self._change(region=video.member("region", Region))
        if "crop" in video:
            self._change(crop=None if video.document["crop"] is None else _crop(video))
        if "quality" in video:
            self._change(quality=video.integer("quality", *QUALITY_RANGE))
        if "bitrate" in video:
            self._change(bitrate=video.integer("bitrate", *BITRATE_RANGE))
        if "resolution" in video:
            size = video.nested("resolution")
            resolution = (size.integer("width", *PIXEL_RANGE), size.integer("height", *PIXEL_RANGE))
            self._change(resolution=resolution)

    def _check_file_size(self) -> None:
        """Keep the size of the pictures in a file, which cannot change."""
        before, after = self._before, self.config
        if not before.video is after.video is VideoMode.FMP4:
            return
        if after.has_alpha != before.has_alpha:
            raise config_checks.background_error(after, "the file of this session has one height")
        if after.resolution is None:  # another avatar may have another size
            self._change(resolution=before.size)
        elif after.resolution != before.size:
            raise ProtocolError(
                "invalid_value",
                f"session.avatar.video.resolution is {_size(after.resolution)};"
                f" the file of this session has {_size(before.size)} until the mode changes",
                param="session.avatar.video.resolution",
                value=_size(after.resolution),
                limit=_size(before.size),
            )

    def _audio_deltas(self, avatar: StrictFields) -> None:
        self._change(asked_audio_deltas=avatar.boolean("audio_deltas"))

    def _background(self, avatar: StrictFields) -> None:
        if avatar.document["background"] is None:
            self._change(background="")
            return
        value = avatar.text("background").lower()
        if not config_checks.is_background(value):
            raise avatar.invalid(
                "background", f"must be null, {ALPHA} or #rrggbb", [ALPHA, "#rrggbb"]
            )
        self._change(background=value)

    def _idle(self, avatar: StrictFields) -> None:
        self._change(idle=avatar.member("idle", Idle))

    def _flow(self, avatar: StrictFields) -> None:
        flow = avatar.nested("flow")
        if "mode" in flow:
            self._change(flow=flow.member("mode", FlowMode))
        if "window_ms" in flow:
            self._change(window_ms=flow.integer("window_ms", *WINDOW_MS_RANGE))
        if "overrun" in flow:
            self._change(overrun=flow.member("overrun", Overrun))

    def _transport(self, avatar: StrictFields) -> None:
        self._change(transport=avatar.member("transport", Transport))

    def _drive(self, avatar: StrictFields) -> None:
        drive = avatar.nested("drive")
        if "start" in drive:
            self._change(asked_start=drive.member("start", StartTrigger))

    def _ignore_read_only(self, fields: StrictFields, values: Mapping[str, object]) -> None:
        for name, value in values.items():
            if name in fields and fields.document[name] != value:
                param = fields.path(name)
                stays = f"it stays {json.dumps(value)}" if value else "it stays empty"
                self._warn(param, f"{param} is read-only; {stays}")

    def _check_stored(self) -> None:
        config = self.config
        size = len(json.dumps([config.stored, config.stored_input, config.stored_output]))
        if size > MAX_STORED_CHARACTERS:
            raise ProtocolError(
                "invalid_value",
                f"the stored fields of the session have {size} characters,"
                f" must be at most {MAX_STORED_CHARACTERS}",
                param="session",
                value=size,
                limit=MAX_STORED_CHARACTERS,
            )


def _crop(video: StrictFields) -> Crop:
    fields = video.nested("crop")
    left, top = fields.integers("top_left", 2)
    right, bottom = fields.integers("bottom_right", 2)
    crop = Crop(left, top, right, bottom)
    if min(crop.size) < PIXEL_RANGE[0]:
        smallest = f"must be at least {PIXEL_RANGE[0]} pixels right of and below top_left"
        raise fields.invalid("bottom_right", smallest, PIXEL_RANGE[0])
    return crop


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _short(text: str) -> str:
    return str(shown(text))


def _audio_format(fields: StrictFields) -> AudioFormat:
    kind = fields.text("type")
    kinds = list(dict.fromkeys(audio.kind for audio in FORMATS))
    if kind not in kinds:
        raise fields.error("unsupported_audio_format", "type", supported(kinds), kinds)
    formats = [audio for audio in FORMATS if audio.kind == kind]
    if "rate" not in fields:
        return formats[0]
    rate = fields.number("rate")
    for audio in formats:
        if audio.rate == rate:
            return audio
    rates = [audio.rate for audio in formats]
    raise fields.error("unsupported_sample_rate", "rate", supported(rates), rates)


_INPUT_FIELDS: Final = ("format", "turn_detection")
# Azure's name for the form of the video: its `h264` is a file.
_MODE_OF_CODEC: Final = {"jpeg": VideoMode.JPEG, "h264": VideoMode.FMP4}
_VIDEO: Final = ("mode", "codec", "quality", "bitrate", "region", "resolution", "crop")
# `character` comes first: a resolution is checked against the limits alone.
_AVATAR: Final[Mapping[str, Callable[[ConfigUpdate, StrictFields], None]]] = {
    "character": ConfigUpdate._character,
    "output_protocol": ConfigUpdate._output_protocol,
    "video": ConfigUpdate._video,
    "background": ConfigUpdate._background,
    "audio_deltas": ConfigUpdate._audio_deltas,
    "idle": ConfigUpdate._idle,
    "transport": ConfigUpdate._transport,
    "flow": ConfigUpdate._flow,
    "drive": ConfigUpdate._drive,
}


def _check_supported(fields: StrictFields, name: str, value: str) -> None:
    fields.choice(name, [value])
