"""The speech endpoint: text in, sound out, in the audio format of the session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from avatar_contracts.upstream import WAV
from avatar_runtime.upstream.errors import LegError
from avatar_runtime.upstream.pcm import Converter, SoundError, WavReader

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from avatar_contracts.upstream import SpeechEndpoint
    from avatar_runtime.protocol.audio_formats import AudioFormat
    from avatar_runtime.upstream.http_leg import HttpLeg

MAX_SPEECH_S: Final = 120
"""Sound of one sentence, at most."""
_WAV_TYPES: Final = ("audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave")
_PCM_TYPES: Final = ("audio/pcm", "audio/l16", "audio/x-pcm", "audio/raw")
_TYPES: Final = (*_PCM_TYPES, *_WAV_TYPES, "application/octet-stream", "binary/octet-stream")
_WIDEST: Final = 192_000 * 8 * 4  # bytes per second of the largest WAV format that is read


class SpeechLeg:
    """Asks the endpoint for the sound of one sentence at a time."""

    def __init__(self, http: HttpLeg, endpoint: SpeechEndpoint) -> None:
        self._http = http
        self._endpoint = endpoint

    async def speak(self, text: str, audio: AudioFormat, voice: str = "") -> AsyncGenerator[bytes]:
        """Yield the sound of `text` as whole samples in the format `audio`, as it arrives.

        An empty `voice` is that of the settings.

        Raises:
            LegError: the endpoint failed, or sent something else than sound.
        """
        body = {
            **self._http.model,
            "input": text,
            "voice": voice or self._endpoint.voice,
            "response_format": self._endpoint.format,
        }
        name = self._http.name
        size = samples = 0
        async with self._http.post(lambda: {"json": body}) as response:
            found = self._http.check_type(response, _TYPES)
            reader = _Reader(self._endpoint.rate, audio)
            is_wav = found in _WAV_TYPES or (self._endpoint.format == WAV and not found)
            reader.expect(is_wav=is_wav)
            try:
                async for chunk in self._http.chunks(response, MAX_SPEECH_S * _WIDEST):
                    size += len(chunk)
                    sound = reader.push(chunk)
                    samples += len(sound) // audio.bytes_per_sample
                    if samples > MAX_SPEECH_S * audio.rate:
                        limit = f"more than {MAX_SPEECH_S} s of sound for one sentence"
                        raise LegError(name, f"sent {limit}")
                    if sound:
                        yield sound
                if rest := reader.finish():
                    yield rest
            except SoundError as error:
                raise LegError(name, f"sent {error}") from None
            if size == 0:
                raise LegError(name, "sent no sound")


class _Reader:
    """Reads PCM, or WAV if the first bytes are those of a WAV file."""

    def __init__(self, rate: int, audio: AudioFormat) -> None:
        self._rate = rate
        self._audio = audio
        self._start = b""
        self._wav: WavReader | None = None
        self._converter: Converter | None = None

    def expect(self, *, is_wav: bool) -> None:
        """Read a WAV file whatever its first bytes are."""
        if is_wav:
            self._wav = WavReader()

    def push(self, data: bytes) -> bytes:
        if self._wav is None and self._converter is None:
            self._start += data
            if len(self._start) < 4:
                return b""
            data, self._start = self._start, b""
            if data[:4] == b"RIFF":
                self._wav = WavReader()
            else:
                self._converter = Converter(self._rate, self._audio)
        if self._wav is not None:
            data = self._wav.push(data)
            if self._converter is None and self._wav.rate:
                self._converter = Converter(self._wav.rate, self._audio)
        return self._converter.push(data) if self._converter is not None else b""

    def finish(self) -> bytes:
        if self._wav is not None:
            self._wav.finish()
        return self._converter.finish() if self._converter is not None else b""
