"""The names of the beta interface of OpenAI's Realtime API, and their GA names.

`dialects` uses them for clients of that interface, and `bridge` for upstreams of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMATS: Final[Mapping[str, Mapping[str, object]]] = {
    "pcm16": {"type": "audio/pcm", "rate": 24000},
    "g711_ulaw": {"type": "audio/pcmu"},
    "g711_alaw": {"type": "audio/pcma"},
}
"""Formats of audio by their beta name."""
INPUT: Final[Mapping[str, str]] = {
    "input_audio_transcription": "transcription",
    "input_audio_noise_reduction": "noise_reduction",
    "turn_detection": "turn_detection",
}
"""Flat fields of a beta session, and their names in `audio.input`."""
OUTPUT: Final[Mapping[str, str]] = {"voice": "voice", "speed": "speed"}
"""Flat fields of a beta session, and their names in `audio.output`."""
PARTS: Final[Mapping[str, str]] = {"audio": "output_audio", "text": "output_text"}
"""Types of the content of an assistant's items."""
EVENTS: Final[Mapping[str, str]] = {
    "response.audio.delta": "response.output_audio.delta",
    "response.audio.done": "response.output_audio.done",
    "response.audio_transcript.delta": "response.output_audio_transcript.delta",
    "response.audio_transcript.done": "response.output_audio_transcript.done",
    "response.text.delta": "response.output_text.delta",
    "response.text.done": "response.output_text.done",
}
"""Server events that are the same but for their name."""


def inverse(names: Mapping[str, str]) -> Mapping[str, str]:
    """Return a table from GA names to beta names."""
    return {ga: beta for beta, ga in names.items()}


def rename_parts(item: Mapping[str, object], names: Mapping[str, str]) -> dict[str, object]:
    """Return an item whose parts of content have other types; others stay as they are."""
    content = item.get("content")
    if not isinstance(content, list):
        return dict(item)
    return {**item, "content": [_renamed(part, names) for part in content]}


def _renamed(part: object, names: Mapping[str, str]) -> object:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(kind, str):
        return part
    return {**part, "type": names.get(kind, kind)}
