"""The modes of a session, as a client asks for them: docs/wire-protocol.md, "Session settings"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Video = Literal["jpeg", "h264", "fmp4", "none"]
Transport = Literal["json", "binary"]
Flow = Literal["clock", "ack"]
Overrun = Literal["drop", "pause"]
Idle = Literal["none", "stream"]
Region = Literal["full", "patch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to ask for at the start of a session; `None` leaves the setting of the server."""

    video: Video | None = None
    """Form of the frames: images, H.264, one file with the sound, or sound only."""
    region: Region | None = None
    """`patch`: images of what differs from the avatar in silence, which `idle_loop` fetches."""
    quality: int | None = None
    """1 to 100."""
    resolution: tuple[int, int] | None = None
    """Width and height in pixels, 64 to 2048 each, even in H.264 and a file."""
    bitrate: int | None = None
    """The most that H.264 takes, bits per second, 100000 to 20000000."""
    transport: Transport | None = None
    """`binary` sends media without base64."""
    flow: Flow | None = None
    """`ack`: the server stays within a window of what the client has acknowledged as played."""
    window_ms: int | None = None
    """How far the server may be ahead of what is played, milliseconds, 200 to 10000."""
    overrun: Overrun | None = None
    """`pause`: a slow connection delays frames, and none is dropped."""
    audio_deltas: bool | None = None
    """Whether the avatar's sound is sent apart from the video; a file has it already."""
    background: str | None = None
    """`#rrggbb`, or `alpha`, which `decoding.cut_out` splits; for avatars with alpha."""
    idle: Idle | None = None
    """`stream`: the avatar is shown between responses as well; a file always has it."""

    def fields(self) -> Mapping[str, Any] | None:
        """Return the fields of a `session.update`, or `None` if nothing is asked for."""
        size = None
        if self.resolution is not None:
            size = {"width": self.resolution[0], "height": self.resolution[1]}
        video = {
            "mode": self.video,
            "region": self.region,
            "quality": self.quality,
            "resolution": size,
            "bitrate": self.bitrate,
        }
        flow = {"mode": self.flow, "window_ms": self.window_ms, "overrun": self.overrun}
        avatar = {
            "video": _given(video),
            "transport": self.transport,
            "flow": _given(flow),
            "background": self.background,
            "audio_deltas": self.audio_deltas,
            "idle": self.idle,
        }
        given = _given(avatar)
        return None if given is None else {"avatar": given}


def _given(fields: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the fields that have a value, or `None` if there is none."""
    return {name: value for name, value in fields.items() if value is not None} or None
