"""Turns the sound of an endpoint, PCM or WAV at any rate, into the audio format of a session."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import av
import numpy as np

from avatar_runtime.audio import g711

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from avatar_runtime.protocol.audio_formats import AudioFormat

MAX_HEADER_BYTES: Final = 64 * 1024
MIN_RATE: Final = 4000
MAX_RATE: Final = 192_000
MAX_CHANNELS: Final = 8
_FMT: Final = struct.Struct("<HHIIHH")
_EXTENSIBLE: Final = 0xFFFE


class SoundError(ValueError):
    """Sound that cannot be read; the message completes "sent …"."""


class WavReader:
    """Finds the samples in a WAV file that arrives in parts: one channel of 16-bit PCM.

    Channels are averaged, and 8-bit, 24-bit, 32-bit and float samples are converted.
    """

    def __init__(self) -> None:
        self.rate = 0
        """Samples per second; 0 until the header has been read."""
        self._head = bytearray()
        self._rest = b""
        self._left: int | None = None  # bytes of the data chunk
        self._encoding = (0, 0, 0)  # format, channels, bits

    def push(self, data: bytes) -> bytes:
        """Add a part of the file, and return the samples that are complete.

        Raises:
            SoundError: it is not a WAV file, or has samples of another kind.
        """
        if self._left is None:
            self._head += data
            if not self._read_header():
                return b""
            data, self._head = bytes(self._head), bytearray()
        assert self._left is not None
        data = data[: self._left]
        self._left -= len(data)
        return self._convert(self._rest + data)

    def finish(self) -> None:
        """Check that the header was complete.

        Raises:
            SoundError: the file ended before its samples.
        """
        if self._left is None:
            raise SoundError("a WAV file without samples")

    def _read_header(self) -> bool:
        head = self._head
        if len(head) >= 12 and (head[:4] != b"RIFF" or head[8:12] != b"WAVE"):
            raise SoundError("no WAV file")
        at = 12
        while len(head) >= at + 8:
            name, size = bytes(head[at : at + 4]), int.from_bytes(head[at + 4 : at + 8], "little")
            if name == b"data":
                if not self.rate:
                    raise SoundError("a WAV file whose format is missing")
                # A file that is written as it is made says 0 or a number that is too large.
                self._left = size or 1 << 40
                if size >= 0x7FFF0000:
                    self._left = 1 << 40
                del head[: at + 8]
                return True
            if name == b"fmt ":
                if len(head) < at + 8 + min(size, 40):
                    break
                self._read_format(bytes(head[at + 8 : at + 8 + min(size, 40)]))
            at += 8 + size + size % 2
            if at > MAX_HEADER_BYTES:
                break
        if len(head) > MAX_HEADER_BYTES or at > MAX_HEADER_BYTES:
            raise SoundError(f"a WAV file with a header of more than {MAX_HEADER_BYTES} bytes")
        return False

    def _read_format(self, data: bytes) -> None:
        if len(data) < _FMT.size:
            raise SoundError("a WAV file with an incomplete format")
        encoding, channels, rate, _, _, bits = _FMT.unpack_from(data)
        if encoding == _EXTENSIBLE and len(data) >= 26:
            encoding = int.from_bytes(data[24:26], "little")
        if (encoding, bits) not in _KINDS:
            raise SoundError(f"a WAV file of encoding {encoding} with {bits} bits")
        if not MIN_RATE <= rate <= MAX_RATE:
            raise SoundError(f"a WAV file of {rate} Hz, must be {MIN_RATE} to {MAX_RATE} Hz")
        if not 1 <= channels <= MAX_CHANNELS:
            raise SoundError(f"a WAV file of {channels} channels, must be 1 to {MAX_CHANNELS}")
        self.rate, self._encoding = rate, (encoding, channels, bits)

    def _convert(self, data: bytes) -> bytes:
        encoding, channels, bits = self._encoding
        step = channels * bits // 8
        size = len(data) - len(data) % step
        self._rest = data[size:]
        if size == 0:
            return b""
        values = _KINDS[encoding, bits](data[:size])
        mixed = values.reshape(-1, channels).mean(axis=1)
        samples: bytes = np.clip(np.rint(mixed), -32768, 32767).astype("<i2").tobytes()
        return samples


def _unsigned8(data: bytes) -> NDArray[np.float64]:
    return (np.frombuffer(data, np.uint8).astype(np.float64) - 128) * 256


def _signed16(data: bytes) -> NDArray[np.float64]:
    return np.frombuffer(data, "<i2").astype(np.float64)


def _signed24(data: bytes) -> NDArray[np.float64]:
    octets = np.frombuffer(data, np.uint8).reshape(-1, 3)
    high = octets[:, 2].astype(np.int8).astype(np.float64)
    return high * 256 + octets[:, 1] + octets[:, 0] / 256


def _signed32(data: bytes) -> NDArray[np.float64]:
    return np.frombuffer(data, "<i4").astype(np.float64) / 65536


def _float32(data: bytes) -> NDArray[np.float64]:
    values = np.frombuffer(data, "<f4").astype(np.float64) * 32767
    return np.nan_to_num(values, nan=0.0, posinf=32767, neginf=-32768)


_KINDS: Final = {
    (1, 8): _unsigned8,
    (1, 16): _signed16,
    (1, 24): _signed24,
    (1, 32): _signed32,
    (3, 32): _float32,
}


class Converter:
    """Converts a stream of 16-bit PCM of one channel to the audio format of a session."""

    def __init__(self, rate: int, audio: AudioFormat) -> None:
        self._rate = rate
        self._audio = audio
        self._rest = b""
        self._resampler = None
        if rate != audio.rate:
            self._resampler = av.AudioResampler(format="s16", layout="mono", rate=audio.rate)

    def push(self, data: bytes) -> bytes:
        """Return what can be converted so far; a sample may be split between two calls."""
        data = self._rest + data
        size = len(data) - len(data) % 2
        self._rest = data[size:]
        if size == 0:
            return b""
        samples = np.frombuffer(data[:size], "<i2")
        if self._resampler is None:
            return self._encode(samples)
        frame = av.AudioFrame.from_ndarray(samples[None, :], format="s16", layout="mono")
        frame.sample_rate = self._rate
        return self._encode_frames(self._resampler.resample(frame))

    def finish(self) -> bytes:
        """Return the rest."""
        return (
            b"" if self._resampler is None else self._encode_frames(self._resampler.resample(None))
        )

    def _encode_frames(self, frames: list[av.AudioFrame]) -> bytes:
        return b"".join(self._encode(frame.to_ndarray()[0]) for frame in frames)

    def _encode(self, samples: NDArray[np.int16]) -> bytes:
        match self._audio.kind:
            case "audio/pcmu":
                return g711.encode_ulaw(samples)
            case "audio/pcma":
                return g711.encode_alaw(samples)
        return samples.astype("<i2").tobytes()
