"""Decodes the audio of a session, in each of its formats, into PCM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from avatar_runtime.audio import g711
from avatar_runtime.audio.utterance import AudioOptions, Utterance

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from avatar_runtime.batching.frames import AudioWindow
    from avatar_runtime.protocol.audio_formats import AudioFormat
    from avatar_runtime.protocol.strict_fields import StrictFields


class AudioDecoder:
    """An utterance that takes the audio format of its session."""

    def __init__(
        self, audio: AudioFormat, fps: int, context_s: int, options: AudioOptions | None = None
    ) -> None:
        self._utterance = Utterance(audio.rate, fps, context_s, options)
        self._decode = DECODERS[audio.kind]

    def append(self, data: bytes) -> None:
        """Append whole samples."""
        self._utterance.append(self._decode(data))

    def finish(self) -> None:
        """End the audio: every remaining window becomes ready."""
        self._utterance.finish()

    def take(self) -> Sequence[AudioWindow]:
        """Return the windows that became ready since the last call."""
        return self._utterance.take()

    def export(self, windows: Sequence[AudioWindow]) -> dict[str, object]:
        """Return the state as plain values: `Utterance.export`."""
        return self._utterance.export(windows)

    def restore(self, fields: StrictFields) -> Sequence[AudioWindow]:
        """Continue another utterance: `Utterance.restore`.

        Raises:
            ProtocolError: a field is missing or wrong.
        """
        return self._utterance.restore(fields)


def _pcm(data: bytes) -> bytes:
    return data


DECODERS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "audio/pcm": _pcm,
    "audio/pcmu": g711.decode_ulaw,
    "audio/pcma": g711.decode_alaw,
}
