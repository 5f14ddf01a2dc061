"""The stretch of sound that one video frame is computed from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

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
