"""Draws a short clip of a talking face, as somebody would film one, to try `prepare` with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import av
import numpy as np

from avatar_training.face import draw_frame
from avatar_training.identities import IDENTITIES
from avatar_training.posing import FRAME, Mouth, swaying

if TYPE_CHECKING:
    from pathlib import Path

FPS: Final = 25
FRAMES: Final = 50
_QUALITY: Final = {"crf": "12", "preset": "veryfast"}
_QUIET_FRAMES: Final = 10
"""The clip begins and ends with a closed mouth, as docs/avatars.md asks for."""
_WORD_FRAMES: Final = 6.0


def write_clip(path: Path, identity: str, frames: int = FRAMES) -> None:
    """Write an H.264 clip in which the face sways and its mouth moves in the middle.

    `identity` is a name of `IDENTITIES`.
    """
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=FPS, options=_QUALITY)
        stream.width = stream.height = FRAME
        stream.pix_fmt = "yuv420p"
        for index, pose in enumerate(swaying(frames)):
            picture = draw_frame(IDENTITIES[identity], pose, Mouth(open=opening(index, frames)))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode(None))


def opening(index: int, frames: int) -> float:
    """Return how far the mouth is open in a frame, 0 to 0.95."""
    if not _QUIET_FRAMES <= index < frames - _QUIET_FRAMES:
        return 0.0
    return 0.95 * float(np.sin(np.pi * (index - _QUIET_FRAMES) / _WORD_FRAMES) ** 2)
