"""Decodes the audio of a session, in any of its formats, into the PCM that the engine reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from avatar_runtime.audio import g711
from avatar_runtime.audio.utterance import Hearing, Utterance

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from avatar_runtime.batching.frames import AudioWindow
    from avatar_runtime.protocol.audio_formats import AudioFormat


class Voice:
    """An utterance in the format of its session; the engine hears PCM alone."""

    def __init__(
        self, audio: AudioFormat, fps: int, context_s: int, hearing: Hearing | None = None
    ) -> None:
        self._utterance = Utterance(audio.rate, fps, context_s, hearing)
        self._decode = _DECODERS[audio.kind]

    def append(self, data: bytes) -> None:
        """Add whole samples."""
        self._utterance.append(self._decode(data))

    def finish(self) -> None:
        """Say that no more sound comes."""
        self._utterance.finish()

    def take(self) -> Sequence[AudioWindow]:
        """Return the windows that became computable."""
        return self._utterance.take()


def _pcm(data: bytes) -> bytes:
    return data


_DECODERS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "audio/pcm": _pcm,
    "audio/pcmu": g711.decode_ulaw,
    "audio/pcma": g711.decode_alaw,
}
