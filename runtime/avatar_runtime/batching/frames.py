"""Frame requests of the sessions and the frames that the engine returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class FrameRequest:
    """One frame of one response of one session."""

    session: str
    """Identifier of the session; batches are fair by session."""
    response_ref: int
    """Number of the response in its session, from 1."""
    epoch: int
    """Epoch of the session at the time of the request; frames of older epochs are discarded."""
    frame_index: int
    """Index in the response, from 0; the frame starts at `frame_index / fps` of its audio."""
    deadline: float
    """When the frame is due, seconds on the monotonic clock of the caller."""
    avatar: str
    """Key of the version of the avatar (`AvatarInfo.key`), or its name for the current version."""
    source_frame: int
    """Position on the endless timeline of the avatar; `avatars.cache.fold` maps it to a frame."""
    window: AudioWindow
    """The audio around the frame."""
    quality: int
    """JPEG quality, 1 to 100."""
    width: int
    """Width of the frame in pixels."""
    height: int
    """Height of the frame in pixels."""
    raw: bool = False
    """Whether the frame is returned as I420 planes instead of a JPEG image."""
    crop: tuple[int, int, int, int] | None = None
    """Left, top, right and bottom of the part that is shown, in pixels of the avatar's picture;
    right and bottom are the first that are not. `None` shows all of it."""
    patch: bool = False
    """Whether only the part is returned that may differ from the idle picture of the frame."""
    background: tuple[int, int, int] | None = None
    """Blue, green and red behind an avatar with alpha; `None` for what its pictures have."""
    below: bool = False
    """Whether the alpha is shown as grey below the picture, in an image of twice the height."""

    @property
    def image_height(self) -> int:
        """Height of the image in pixels."""
        return self.height * 2 if self.below else self.height


@dataclass(frozen=True, slots=True)
class Patch:
    """Where the image of a frame belongs, which shows only what differs from an idle picture."""

    rect: tuple[int, int, int, int]
    """Left, top, width and height in pixels of the whole frame; zeros if nothing differs."""
    source_frame: int
    """The stored frame whose idle picture is below, from 0."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A rendered frame."""

    request: FrameRequest
    image: bytes
    """The whole frame: one JPEG image, or with `FrameRequest.raw` its I420 planes
    (`engine.rendering.blend_host.i420`). With `FrameRequest.patch`, the JPEG image of a part, which
    is empty if nothing differs from the idle picture."""
    patch: Patch | None = None
    """Where the image belongs; `None` for a whole frame."""


GROUP_FRAMES: Final = 2
"""Frames that share an audio encode: half the encodes for 40 ms more latency."""


@dataclass(frozen=True, slots=True)
class AudioWindow:
    """Ten 50 Hz feature steps of a context that is encoded as a whole.

    All windows of a group share one context, so that the encoder runs once per group. Groups are
    at fixed positions of the sample counter, so a frame does not depend on how the audio was
    split into messages.
    """

    frame_index: int
    """The video frame, from 0 in its response."""
    group: int
    """Number of the group in its response, from 0."""
    context: memoryview
    """16 kHz mono samples, float32 in [-1, 1], read only; the same object in a whole group."""
    first_step: int
    """Step of the context where the window begins; steps outside the context are zero vectors."""
    steps: int
    """Steps of the context with audio (50 per second); later ones are zero vectors."""
    silent: bool
    """Whether there is no speech, so that the source frame of the avatar is shown."""
    mouth_opacity: float = 1.0
    """Weight of the generated mouth over that of the source frame, 0 to 1. Less than 1 while the
    mouth opens or closes around silence."""
