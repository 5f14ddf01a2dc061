"""Translates the events of the beta interface of OpenAI's Realtime API, both ways.

Some upstreams speak only that interface. Inside the session all names are those of the GA one.
"""

from __future__ import annotations

from typing import Final

from avatar_runtime.protocol import beta_names

Document = dict[str, object]


_PARTS_TO_BETA: Final = beta_names.inverse(beta_names.PARTS)
_SIDES: Final = (("input", beta_names.INPUT), ("output", beta_names.OUTPUT))


def to_beta(event: Document) -> Document:
    """Return a client event with the names of the beta interface."""
    match event:
        case {"type": "session.update", "session": dict(session)}:
            return {**event, "session": _flat(session, "max_response_output_tokens")}
        case {"type": "response.create", "response": dict(response)}:
            return {**event, "response": _flat(response, "max_response_output_tokens")}
        case {"type": "conversation.item.create", "item": dict(item)}:
            return {**event, "item": beta_names.rename_parts(item, _PARTS_TO_BETA)}
        case _:
            return event


def from_beta(event: Document) -> list[Document]:
    """Return the events of the GA interface that an event of the upstream stands for."""
    kind = event.get("type")
    if not isinstance(kind, str):
        return [event]
    event = {**event, "type": beta_names.EVENTS.get(kind, kind)}
    match event:
        case {"type": "session.created" | "session.updated", "session": dict(session)}:
            return [{**event, "session": _nested(session)}]
        case {"type": "conversation.item.created", "item": dict(item)}:
            translated = {**event, "item": _renamed_item(item)}
            added = {**translated, "type": "conversation.item.added"}
            if item.get("status") == "in_progress" or item.get("role") == "assistant":
                return [added]
            return [added, {**translated, "type": "conversation.item.done"}]
        case {"type": "response.output_item.done", "item": dict(item)}:
            done = {**event, "item": _renamed_item(item)}
            fields: Document = {"item": done["item"], "previous_item_id": None}
            return [done, {"type": "conversation.item.done", **fields}]
        case {"type": "response.created" | "response.done", "response": dict(response)}:
            return [{**event, "response": _renamed_response(response)}]
        case {"item": dict(item)}:
            return [{**event, "item": _renamed_item(item)}]
        case _:
            return [event]


def _flat(session: Document, tokens: str) -> Document:
    flat = {name: value for name, value in session.items() if name not in ("type", "audio")}
    if "output_modalities" in flat:
        modalities = flat.pop("output_modalities")
        flat["modalities"] = ["text", "audio"] if modalities == ["audio"] else modalities
    if "max_output_tokens" in flat:
        flat[tokens] = flat.pop("max_output_tokens")
    audio = session.get("audio")
    for side, names in _SIDES:
        flat_names = beta_names.inverse(names)
        fields = audio.get(side) if isinstance(audio, dict) else None
        if not isinstance(fields, dict):
            continue
        flat |= {flat_names[name]: value for name, value in fields.items() if name in flat_names}
        described = fields.get("format")
        kind = described.get("type") if isinstance(described, dict) else None
        for name, known in beta_names.FORMATS.items():
            if known["type"] == kind:
                flat[f"{side}_audio_format"] = name
    return flat


def _nested(session: Document) -> Document:
    nested = dict(session)
    audio: dict[str, Document] = {"input": {}, "output": {}}
    for side, names in _SIDES:
        for old, new in names.items():
            if old in nested:
                audio[side][new] = nested.pop(old)
        described = nested.pop(f"{side}_audio_format", None)
        if isinstance(described, str) and described in beta_names.FORMATS:
            audio[side]["format"] = beta_names.FORMATS[described]
    if "modalities" in nested:
        nested["output_modalities"] = _modalities(nested.pop("modalities"))
    if "max_response_output_tokens" in nested:
        nested["max_output_tokens"] = nested.pop("max_response_output_tokens")
    return {**nested, "type": "realtime", "audio": audio}


def _modalities(value: object) -> object:
    return ["audio"] if isinstance(value, list) and "audio" in value else ["text"]


def _renamed_response(response: Document) -> Document:
    renamed = dict(response)
    if "modalities" in renamed:
        renamed["output_modalities"] = _modalities(renamed.pop("modalities"))
    output: Document = {}
    if "voice" in renamed:
        output["voice"] = renamed.pop("voice")
    described = renamed.pop("output_audio_format", None)
    if isinstance(described, str) and described in beta_names.FORMATS:
        output["format"] = beta_names.FORMATS[described]
    if output:
        renamed["audio"] = {"output": output}
    items = renamed.get("output")
    if isinstance(items, list):
        renamed["output"] = [_renamed_item(i) if isinstance(i, dict) else i for i in items]
    return renamed


def _renamed_item(item: Document) -> Document:
    return (
        beta_names.rename_parts(item, beta_names.PARTS) if item.get("role") == "assistant" else item
    )
