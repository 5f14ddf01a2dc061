"""What the sessions ask of the engine, one video frame at a time, and what they get back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


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


GROUP_FRAMES: Final = 2
"""Frames that share an encode: half the encodes for 40 ms more of waiting."""


@dataclass(frozen=True, slots=True)
class AudioWindow:
    """Ten 50 Hz feature steps of a context that is encoded as a whole.

    All windows of one group share one context, so that the encoder runs once per group.
    Groups lie at fixed positions of the sample counter: how the audio was split into
    messages cannot show in a frame.
    """

    frame_index: int
    """The video frame, from 0 in its response."""
    group: int
    """Number of the group in its response, from 0."""
    context: memoryview
    """16 kHz mono samples, float32 in [-1, 1], read only; the same object in a whole group."""
    first_step: int
    """Step of the context at which the window begins; steps outside it are zero vectors."""
    steps: int
    """Real steps of the context (50 a second); later ones are zero vectors."""
    silent: bool
    """Whether nothing has to be drawn: there is no speech, and the avatar's own picture shows."""
    mouth: float = 1.0
    """How much of the drawn mouth shows over the avatar's own, 0 to 1; less than 1 while it opens
    or closes around silence."""
