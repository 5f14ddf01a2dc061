"""The audio between the formats of a session and those of its upstream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from avatar_runtime.protocol.audio_formats import AudioFormat

    OpenConverter = Callable[[int, int], "RateConverter"]

PCM: Final = "audio/pcm"


class RateConverter(Protocol):
    """Converts a stream of 16-bit PCM from one sample rate to another."""

    def convert(self, audio: bytes) -> bytes:
        """Add whole samples and return the converted ones that have become ready."""

    def finish(self) -> bytes:
        """End the stream and return the rest."""


class AudioStream:
    """One stream of audio: samples are whole, in the rate of the receiver."""

    def __init__(self, width: int, converter: RateConverter | None) -> None:
        """`width` is the bytes of a sample; `None` leaves the rate as it is."""
        self._width = width
        self._converter = converter
        self._split_sample = b""

    def add(self, audio: bytes) -> bytes:
        """Add bytes and return the samples that are complete; a sample may be split."""
        audio = self._split_sample + audio
        size = len(audio) - len(audio) % self._width
        self._split_sample = audio[size:]
        return audio[:size] if self._converter is None else self._converter.convert(audio[:size])

    def finish(self) -> bytes:
        """End the stream and return the rest."""
        return b"" if self._converter is None else self._converter.finish()


class Formats:
    """The formats of an upstream for a session with a given format.

    The upstream is asked for the session's format. If that is PCM, its rates are those of the
    upstream's settings, and the audio is converted.
    """

    def __init__(
        self, audio: AudioFormat, input_rate: int, output_rate: int, open_converter: OpenConverter
    ) -> None:
        self._audio = audio
        self._input_rate = input_rate if audio.kind == PCM else audio.rate
        self._output_rate = output_rate if audio.kind == PCM else audio.rate
        self._open_converter = open_converter

    def describe(self) -> dict[str, object]:
        """Return the format objects for the upstream, by the name of their side."""
        rates = {"input": self._input_rate, "output": self._output_rate}
        if self._audio.kind != PCM:
            return {side: {"type": self._audio.kind} for side in rates}
        return {side: {"type": PCM, "rate": rate} for side, rate in rates.items()}

    def to_upstream(self) -> AudioStream:
        """Return a stream from the client to the upstream."""
        return self._stream(self._audio.rate, self._input_rate)

    def from_upstream(self) -> AudioStream:
        """Return a stream from the upstream to the client."""
        return self._stream(self._output_rate, self._audio.rate)

    def _stream(self, rate: int, to_rate: int) -> AudioStream:
        converter = None if rate == to_rate else self._open_converter(rate, to_rate)
        return AudioStream(self._audio.bytes_per_sample, converter)
