"""Where frames and sound are in the one file of a session: docs/wire-protocol.md, "One file".

Position `n` of the file is one frame and its sound, from `n / fps` seconds on. Whatever is sent,
a frame of a response or an idle one, takes the next position. Nothing else enters the timeline: no
clock, and no gap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from avatar_runtime.protocol.media import FilePart

if TYPE_CHECKING:
    from avatar_runtime.protocol.audio_formats import AudioFormat


class FileTimeline:
    """The positions of the file, and the sound that has no position yet."""

    def __init__(self, fps: int) -> None:
        self._fps = fps
        self._position = 0
        self._sound = bytearray()
        self._left_over = 0  # positions of a response that has ended, whose frames were dropped
        self._left_bytes = 0  # their sound, at the beginning of `_sound`
        self._audio: AudioFormat | None = None  # that of `_sound`
        self._response_ref: int | None = None
        self._next_index = 0

    def restart(self) -> None:
        """Start a new file: the client has left the mode."""
        self._sound.clear()
        self._position = self._left_over = self._left_bytes = 0

    def add_sound(self, data: bytes) -> None:
        """Add whole samples of the active response, whose frames come next."""
        self._sound += data

    def discard_sound(self) -> None:
        """Forget the sound of a response that was cut short, as far as it has no position."""
        del self._sound[self._left_bytes :]

    def end_response(self, audio: AudioFormat) -> None:
        """Keep what is left of a complete response, whose last frames were dropped."""
        self._left_over = -(-len(self._sound) // self._frame_bytes(audio))
        self._fill(audio, self._left_over)
        self._left_bytes, self._audio = len(self._sound), audio

    def place(self, response_ref: int | None, frame_index: int, audio: AudioFormat) -> FilePart:
        """Return the part of the file that a frame adds.

        It covers the dropped frames before it as well, whose sound is never dropped.
        `response_ref` is `None` for an idle frame, whose sound is silence. What is left of a
        response is silent if another one follows at once in another format.
        """
        if self._left_over and self._audio != audio:
            self._sound[: self._left_bytes] = audio.silence * (
                self._left_over * audio.samples_per_frame(self._fps)
            )
        if response_ref is None or response_ref != self._response_ref:
            self._next_index = 0
        frames = self._left_over + 1
        if response_ref is not None:
            frames += frame_index - self._next_index
            self._next_index = frame_index + 1
        self._response_ref, self._left_over, self._left_bytes = response_ref, 0, 0
        self._fill(audio, frames)
        size = frames * self._frame_bytes(audio)
        part = FilePart(self._position, frames, bytes(self._sound[:size]), audio)
        del self._sound[:size]
        self._position += frames
        return part

    def _fill(self, audio: AudioFormat, frames: int) -> None:
        """Add silence until the sound lasts as long as the frames."""
        missing = frames * self._frame_bytes(audio) - len(self._sound)
        self._sound += audio.silence * (max(0, missing) // audio.bytes_per_sample)

    def _frame_bytes(self, audio: AudioFormat) -> int:
        return audio.samples_per_frame(self._fps) * audio.bytes_per_sample
