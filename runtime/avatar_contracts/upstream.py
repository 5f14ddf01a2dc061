"""The source of the speech of a service: `spec.upstream`, which the runtime gets as JSON.

The operator parses the field of the resource and renders it for the pod, and the runtime parses
it again (`upstream_fields`). A key is never part of the document: it names where the key is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DRIVE: Final = "drive"
BRIDGE: Final = "bridge"
SPEECH: Final = "speech"
MODES: Final = (DRIVE, BRIDGE, SPEECH)

BEARER: Final = "bearer"
API_KEY: Final = "api-key"
AUTHORIZATIONS: Final = (BEARER, API_KEY)

PCM: Final = "pcm"
WAV: Final = "wav"
SPEECH_FORMATS: Final = (PCM, WAV)

MAX_URL: Final = 512
MAX_NAME: Final = 128
MAX_HEADERS: Final = 16
MAX_HEADER_VALUE: Final = 1024
MAX_INSTRUCTIONS: Final = 8192
MAX_HISTORY: Final = 100
MAX_TIMEOUT_S: Final = 300
BRIDGE_RATES: Final = (8000, 16000, 24000)
MIN_RATE: Final = 8000
MAX_RATE: Final = 96000


@dataclass(frozen=True, slots=True)
class SecretKey:
    """A key of a Secret in the namespace of the service."""

    name: str
    key: str


@dataclass(frozen=True, slots=True)
class KeySource:
    """Where the runtime finds an API key."""

    variable: str
    """Environment variable."""
    file: str = ""
    """File that replaces the variable if it exists; it is read at each use."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint of an upstream."""

    url: str
    model: str
    """Empty: the endpoint or its URL decides."""
    key: SecretKey | KeySource | None
    """None: the endpoint needs no key."""
    authorization: str
    """One of `AUTHORIZATIONS`: the header in which the key is sent."""
    headers: tuple[tuple[str, str], ...]
    """Additional headers, sorted by name."""
    connect_timeout_s: int
    """Seconds for the connection."""
    timeout_s: int
    """Seconds for the start of the answer, and without any further part of it."""


@dataclass(frozen=True, slots=True)
class Bridge:
    """The upstream of mode bridge: a Realtime API."""

    endpoint: Endpoint
    beta: bool
    """Whether the upstream uses the names of the beta interface."""
    input_rate: int = 24000
    """Sample rate of the PCM that the upstream hears, one of `BRIDGE_RATES`."""
    output_rate: int = 24000
    """Sample rate of the PCM that the upstream speaks, one of `BRIDGE_RATES`."""


@dataclass(frozen=True, slots=True)
class SpeechEndpoint:
    """An endpoint like `/v1/audio/speech`."""

    endpoint: Endpoint
    voice: str
    format: str
    """One of `SPEECH_FORMATS`."""
    rate: int
    """Samples per second of format pcm; a WAV header says its own."""


@dataclass(frozen=True, slots=True)
class ChatEndpoint:
    """An endpoint like `/v1/chat/completions`."""

    endpoint: Endpoint
    instructions: str
    """System prompt of sessions that set none."""
    max_history: int
    """Messages of the conversation that are sent with each request, at most."""


@dataclass(frozen=True, slots=True)
class TranscriptionEndpoint:
    """An endpoint like `/v1/audio/transcriptions`."""

    endpoint: Endpoint
    language: str
    """ISO 639-1; empty: the endpoint detects it."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The endpoints of mode speech."""

    speech: SpeechEndpoint
    chat: ChatEndpoint | None
    transcription: TranscriptionEndpoint | None


Upstream = Bridge | Pipeline
"""None stands for mode drive."""


def endpoints(upstream: Upstream | None) -> dict[str, Endpoint]:
    """Return the endpoints of an upstream by the name of their leg."""
    match upstream:
        case None:
            return {}
        case Bridge():
            return {"bridge": upstream.endpoint}
    legs = (upstream.speech, upstream.chat, upstream.transcription)
    return {
        name: leg.endpoint
        for name, leg in zip(("speech", "chat", "transcription"), legs, strict=True)
        if leg is not None
    }


def render(upstream: Upstream, keys: dict[str, KeySource]) -> dict[str, object]:
    """Return the document that `parse` reads in the pod; `keys` are those of the legs."""
    if isinstance(upstream, Bridge):
        document = _render_endpoint(upstream.endpoint, keys.get(BRIDGE))
        rates = {"inputSampleRate": upstream.input_rate, "outputSampleRate": upstream.output_rate}
        return {"mode": BRIDGE, **document, "beta": upstream.beta, **rates}
    speech, chat, heard = upstream.speech, upstream.chat, upstream.transcription
    rendered: dict[str, object] = {
        "mode": SPEECH,
        "speech": {
            **_render_endpoint(speech.endpoint, keys.get("speech")),
            "voice": speech.voice,
            "format": speech.format,
            "sampleRate": speech.rate,
        },
    }
    if chat is not None:
        rendered["chat"] = {
            **_render_endpoint(chat.endpoint, keys.get("chat")),
            "instructions": chat.instructions,
            "maxHistory": chat.max_history,
        }
    if heard is not None:
        language = {"language": heard.language} if heard.language else {}
        endpoint = _render_endpoint(heard.endpoint, keys.get("transcription"))
        rendered["transcription"] = {**endpoint, **language}
    return rendered


def _render_endpoint(endpoint: Endpoint, key: KeySource | None) -> dict[str, object]:
    document: dict[str, object] = {
        "url": endpoint.url,
        "model": endpoint.model,
        "authorization": endpoint.authorization,
        "headers": dict(endpoint.headers),
        "connectTimeoutSeconds": endpoint.connect_timeout_s,
        "timeoutSeconds": endpoint.timeout_s,
    }
    if key is not None:
        document["apiKeyEnv"] = key.variable
        document["apiKeyFile"] = key.file
    return document


def describe(upstream: Upstream | None) -> dict[str, object]:
    """Return what a page needs to know of a service: `mode`, `hears`, `says_text`.

    `hears` is whether the service has a use for a microphone, `says_text` whether it takes text.
    """
    match upstream:
        case None:
            return {"mode": DRIVE, "hears": True, "says_text": False}
        case Bridge():
            return {"mode": BRIDGE, "hears": True, "says_text": True}
        case _:
            hears = upstream.transcription is not None
            return {"mode": SPEECH, "hears": hears, "says_text": True}
