"""What a client of an older form of the protocol sends in place of a message in the GA form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    Document = dict[str, Any]

_FORMATS: Final = (
    ({"type": "audio/pcm", "rate": 24000}, "pcm16"),
    ({"type": "audio/pcmu"}, "g711_ulaw"),
    ({"type": "audio/pcma"}, "g711_alaw"),
)
_FLAT: Final[Mapping[str, Mapping[str, str]]] = {
    "input": {
        "transcription": "input_audio_transcription",
        "noise_reduction": "input_audio_noise_reduction",
        "turn_detection": "turn_detection",
    },
    "output": {"voice": "voice", "speed": "speed"},
}
BETA_EVENTS: Final[Mapping[str, str]] = {
    "conversation.item.added": "conversation.item.created",
    "response.output_audio.delta": "response.audio.delta",
    "response.output_audio.done": "response.audio.done",
    "response.output_audio_transcript.delta": "response.audio_transcript.delta",
}
"""Server events by their GA name, as a server of the beta interface calls them."""
_PARTS: Final = {"output_text": "text", "output_audio": "audio"}


def beta(document: Document, *, is_azure: bool = False) -> Document:
    """Return a message of the GA form as a client of the beta form writes it."""
    match document.get("type"):
        case "session.update" if isinstance(document.get("session"), dict):
            return {**document, "session": _session(document["session"], is_azure)}
        case "response.create" if isinstance(document.get("response"), dict):
            return {**document, "response": _renamed(document["response"])}
        case "conversation.item.create" if isinstance(document.get("item"), dict):
            return {**document, "item": _item(document["item"])}
    return document


def _session(session: Document, is_azure: bool) -> Document:
    audio = session.get("audio", {})
    if not isinstance(audio, dict):
        return session
    flat = _renamed({name: value for name, value in session.items() if name != "audio"})
    flat.pop("type", None)
    rest = {}
    for part, names in _FLAT.items():
        if not isinstance(audio.get(part, {}), dict):
            rest[part] = audio[part]
            continue
        fields = dict(audio.get(part, {}))
        for name, moved in names.items():
            if name in fields:
                flat[moved] = fields.pop(name)
        if "format" in fields:
            found = _format(fields["format"], is_input=part == "input", is_azure=is_azure)
            if found is not None:
                del fields["format"]
                flat |= found
        if fields:
            rest[part] = fields
    return {**flat, "audio": rest} if rest else flat


def _format(audio: Any, *, is_input: bool, is_azure: bool) -> Document | None:
    """Return the flat fields of a format of audio; `None` if the form cannot name it."""
    if is_azure and is_input and audio == {"type": "audio/pcm", "rate": 16000}:
        return {"input_audio_format": "pcm16", "input_audio_sampling_rate": 16000}
    for known, name in _FORMATS:
        if audio == known:
            return {"input_audio_format" if is_input else "output_audio_format": name}
    return None


def _renamed(fields: Document) -> Document:
    renamed = dict(fields)
    if "output_modalities" in renamed:
        modalities = renamed.pop("output_modalities")
        is_audio = isinstance(modalities, list) and "audio" in modalities
        renamed["modalities"] = ["text", *modalities] if is_audio else modalities
    if "max_output_tokens" in renamed:
        renamed["max_response_output_tokens"] = renamed.pop("max_output_tokens")
    return renamed


def _item(item: Document) -> Document:
    content = item.get("content")
    if item.get("role") != "assistant" or not isinstance(content, list):
        return item
    return {**item, "content": [_part(part) for part in content]}


def _part(part: Any) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    return {**part, "type": _PARTS[kind]} if kind in _PARTS else part
