"""The beta interface of the Realtime API: flat session fields and the older names of events.

What is not of the beta form passes unchanged, so that a client may mix both forms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from avatar_runtime.protocol import beta_names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Fields = Mapping[str, object]
    Change = Callable[[Fields], Fields]
    Translation = Callable[["Beta", Fields], Fields]

_EVENTS: Final = {
    **beta_names.inverse(beta_names.EVENTS),
    "conversation.item.added": "conversation.item.created",
}
_PARTS: Final = beta_names.inverse(beta_names.PARTS)
_LEFT_OUT: Final = frozenset({"conversation.item.done"})
"""Events that the beta form lacks."""
_PARAMS: Final = (
    ("session.audio.input.format", "session.input_audio_format"),
    ("session.audio.output.format", "session.output_audio_format"),
    ("session.audio.input.transcription", "session.input_audio_transcription"),
    ("session.audio.input.noise_reduction", "session.input_audio_noise_reduction"),
    ("session.audio.input.turn_detection", "session.turn_detection"),
    ("session.audio.output.voice", "session.voice"),
    ("session.audio.output.speed", "session.speed"),
    ("session.output_modalities", "session.modalities"),
    ("session.max_output_tokens", "session.max_response_output_tokens"),
    ("response.output_modalities", "response.modalities"),
    ("response.audio.output.voice", "response.voice"),
    ("response.audio.output.format", "response.output_audio_format"),
)
"""Paths of the GA form in errors and warnings, and what the client calls them."""


class Beta:
    """Translates between the beta form of a client and the GA form of a session."""

    # From the client

    def to_ga(self, event: Fields) -> Fields:
        """Return a client event in the GA form; an event that is the same in both is returned."""
        match event.get("type"):
            case "session.update":
                return self._with_object(event, "session", self.session_to_ga)
            case "response.create":
                return self._with_object(event, "response", self.response_to_ga)
            case "conversation.item.create":
                return self._with_object(event, "item", _item_to_ga)
        return event

    def session_to_ga(self, session: Fields) -> Fields:
        """Return the `session` of a `session.update` in the GA form."""
        rest = dict(session)
        audio = _object(rest.pop("audio", None))
        received = {**_object(audio.get("input")), **_moved(rest, beta_names.INPUT)}
        output = {**_object(audio.get("output")), **_moved(rest, beta_names.OUTPUT)}
        if (name := rest.pop("input_audio_format", None)) is not None:
            received["format"] = self.format_to_ga(name)
        if (name := rest.pop("output_audio_format", None)) is not None:
            output["format"] = self.format_to_ga(name)
        parts = {name: part for name, part in (("input", received), ("output", output)) if part}
        if parts:
            rest["audio"] = {**audio, **parts}
        if "max_response_output_tokens" in rest:
            rest["max_output_tokens"] = rest.pop("max_response_output_tokens")
        return {"type": "realtime", **self._modalities_to_ga(rest)}

    def response_to_ga(self, response: Fields) -> Fields:
        """Return the `response` of a `response.create` in the GA form."""
        rest = dict(response)
        output = _moved(rest, beta_names.OUTPUT)
        if (name := rest.pop("output_audio_format", None)) is not None:
            output["format"] = self.format_to_ga(name)
        if output:
            rest["audio"] = {"output": output}
        if "max_response_output_tokens" in rest:
            rest["max_output_tokens"] = rest.pop("max_response_output_tokens")
        return self._modalities_to_ga(rest)

    def format_to_ga(self, name: object) -> Fields:
        """Return a format of audio; an unknown one keeps its name, for the error about it."""
        known = beta_names.FORMATS.get(name) if isinstance(name, str) else None
        return {"type": name} if known is None else known

    @staticmethod
    def _with_object(event: Fields, name: str, change: Change) -> Fields:
        found = event.get(name)
        return {**event, name: change(found)} if isinstance(found, dict) else event

    @staticmethod
    def _modalities_to_ga(fields: dict[str, object]) -> Fields:
        modalities = fields.pop("modalities", None)
        if modalities is None:
            return fields
        if isinstance(modalities, list) and "audio" in modalities:
            # In the GA form, audio includes its transcript.
            modalities = [name for name in modalities if name != "text"]
        return {**fields, "output_modalities": modalities}

    # To the client

    def from_ga(self, event: Fields) -> Fields | None:
        """Return a server event in the form of the client, or `None` if that form lacks it."""
        kind = str(event["type"])
        if kind in _LEFT_OUT:
            return None
        translated = {**event, "type": _EVENTS.get(kind, kind)}
        for name, change in _OBJECTS.items():
            if isinstance(found := translated.get(name), dict):
                translated[name] = change(self, found)
        return translated

    def session_from_ga(self, session: Fields) -> Fields:
        """Return a session object in the form of the client."""
        rest = dict(session)
        audio = _object(rest.pop("audio", None))
        received, output = _object(audio.get("input")), _object(audio.get("output"))
        modalities = rest.pop("output_modalities", None)
        limit = rest.pop("max_output_tokens", "inf")
        rest.pop("type", None)
        return {
            **rest,
            "modalities": self.modalities_from_ga(modalities, rest),
            "input_audio_format": self.format_from_ga(_object(received.get("format"))),
            "output_audio_format": self.format_from_ga(_object(output.get("format"))),
            **{flat: received.get(name) for flat, name in beta_names.INPUT.items()},
            **{flat: output[name] for flat, name in beta_names.OUTPUT.items() if name in output},
            "max_response_output_tokens": limit,
        }

    def response_from_ga(self, response: Fields) -> Fields:
        """Return a response object in the form of the client."""
        rest = dict(response)
        output = _object(_object(rest.pop("audio", None)).get("output"))
        modalities = rest.pop("output_modalities", None)
        items = rest.get("output")
        if isinstance(items, list):
            rest["output"] = [_item_from_ga(item) for item in items if isinstance(item, dict)]
        return {
            **rest,
            "modalities": self.modalities_from_ga(modalities, {}),
            "output_audio_format": self.format_from_ga(_object(output.get("format"))),
            **{flat: output[name] for flat, name in beta_names.OUTPUT.items() if name in output},
        }

    def modalities_from_ga(self, modalities: object, session: Fields) -> list[object]:
        """Return the modalities of a response or of a session, which is `session`."""
        named = modalities if isinstance(modalities, list) else []
        return ["text", "audio"] if "audio" in named else named

    def format_from_ga(self, audio: Fields) -> object:
        """Return the name of a format of audio; one that has none keeps its type."""
        for name, fields in beta_names.FORMATS.items():
            if {**audio, **fields} == audio:
                return name
        return audio.get("type")

    def fault_from_ga(self, fault: Fields) -> Fields:
        """Return an error or a warning that names the fields as the client does."""
        param, message = fault.get("param"), fault.get("message")
        if not isinstance(param, str) or not isinstance(message, str):
            return fault
        for path, name in _PARAMS:
            if param == path or param.startswith(f"{path}."):
                rest = "" if name.endswith("_format") else param[len(path) :]
                return {**fault, "param": name + rest, "message": message.replace(path, name)}
        return fault


def _moved(fields: dict[str, object], names: Mapping[str, str]) -> dict[str, object]:
    """Remove fields, and return them with their other names."""
    return {new: fields.pop(name) for name, new in names.items() if name in fields}


def _object(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _item_to_ga(item: Fields) -> Fields:
    is_own = item.get("role") == "assistant"
    return beta_names.rename_parts(item, beta_names.PARTS) if is_own else item


def _item_from_ga(item: Fields) -> Fields:
    return beta_names.rename_parts(item, _PARTS)


_OBJECTS: Final[Mapping[str, Translation]] = {
    "session": lambda form, session: form.session_from_ga(session),
    "response": lambda form, response: form.response_from_ga(response),
    "item": lambda _, item: _item_from_ga(item),
    "error": Beta.fault_from_ga,
    "warning": Beta.fault_from_ga,
}
"""The objects in server events that differ between the forms."""
