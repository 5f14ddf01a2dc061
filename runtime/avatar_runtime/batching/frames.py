"""What the sessions ask of the engine, one video frame at a time, and what they get back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from avatar_runtime.batching.windows import AudioWindow


@dataclass(frozen=True, slots=True)
class FrameRequest:
    """One frame of one response of one session."""

    session: str
    """Identifier of the session; also the key of fairness."""
    response_ref: int
    """Number of the response in its session, from 1."""
    epoch: int
    """Epoch of the session when the frame was asked for; an older one is thrown away."""
    frame_index: int
    """Index in the response, from 0; the frame starts at `frame_index / fps` of its audio."""
    deadline: float
    """When the frame is due to leave, seconds on the monotonic clock of the caller."""
    avatar: str
    """Name of the prepared avatar."""
    source_frame: int
    """Position on the avatar's endless timeline; the cache folds it forward and back."""
    window: AudioWindow
    """The sound around the frame."""
    quality: int
    """JPEG quality, 1 to 100."""
    width: int
    """Width of the picture in pixels."""
    height: int
    """Height of the picture in pixels."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A finished picture."""

    request: FrameRequest
    jpeg: bytes
    """The whole picture as one JPEG image."""
