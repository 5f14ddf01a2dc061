"""The transcription endpoint: the speech of the caller in, its text out."""

from __future__ import annotations

import io
import wave
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from avatar_contracts import documents
from avatar_runtime.audio import g711
from avatar_runtime.upstream.errors import LegError

if TYPE_CHECKING:
    from avatar_contracts.upstream import TranscriptionEndpoint
    from avatar_runtime.protocol.audio_formats import AudioFormat
    from avatar_runtime.upstream.http_leg import HttpLeg

MAX_CHARACTERS: Final = 32 * 1024
_MAX_BYTES: Final = 1024 * 1024


class TranscriptionLeg:
    """Asks the endpoint for the text of one utterance at a time."""

    def __init__(self, http: HttpLeg, endpoint: TranscriptionEndpoint) -> None:
        self._http = http
        self._endpoint = endpoint

    async def transcribe(self, audio: bytes, audio_format: AudioFormat) -> str:
        """Return the text of an utterance; empty if nothing was said.

        Raises:
            LegError: the endpoint failed, or sent something else than text.
        """
        file = wav(audio, audio_format)
        data = bytearray()
        async with self._http.post(lambda: {"data": self._form(file)}) as response:
            self._http.check_type(response, ("application/json",))
            async for chunk in self._http.chunks(response, _MAX_BYTES):
                data += chunk
            try:
                text = documents.parse_object(data).get("text")
            except ValueError:
                text = None
            if not isinstance(text, str) or len(text) > MAX_CHARACTERS:
                limit = f"JSON with a text of at most {MAX_CHARACTERS} characters"
                raise LegError(self._http.name, f"sent something else than {limit}")
        return text.strip()

    def _form(self, file: bytes) -> aiohttp.FormData:
        form = aiohttp.FormData()
        form.add_field("file", file, filename="speech.wav", content_type="audio/wav")
        fields: dict[str, Any] = {**self._http.model, "response_format": "json"}
        if self._endpoint.language:
            fields["language"] = self._endpoint.language
        for name, value in fields.items():
            form.add_field(name, value)
        return form


def wav(audio: bytes, audio_format: AudioFormat) -> bytes:
    """Return audio in a format of the session as a WAV file with 16-bit PCM."""
    match audio_format.kind:
        case "audio/pcmu":
            audio = g711.decode_ulaw(audio)
        case "audio/pcma":
            audio = g711.decode_alaw(audio)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(audio_format.rate)
        file.writeframes(audio)
    return buffer.getvalue()
