"""The session object of the upstream, and the settings that it is asked for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_runtime.protocol.session_config import SessionConfig

MAX_SESSION_CHARACTERS: Final = 256 * 1024
"""Size of the upstream's session object; a larger one is not shown to the client."""
_NOT_MERGED: Final = frozenset(
    {"id", "object", "type", "model", "expires_at", "avatar", "audio", "client_secret"}
)


def requested(config: SessionConfig, formats: Mapping[str, object]) -> dict[str, object]:
    """Return the whole session object that the upstream is asked for.

    `formats` is `{"input": format, "output": format}`, as the upstream names them.
    """
    received: dict[str, object] = dict(config.stored_input)
    if config.turn_detection is None:
        received.setdefault("turn_detection", None)  # the service detects no turns by default
    return {
        **config.stored,
        "type": "realtime",
        "audio": {
            "input": {**received, "format": formats["input"]},
            "output": {**config.stored_output, "format": formats["output"]},
        },
    }


def changes(
    session: Mapping[str, object], config: SessionConfig, formats: Mapping[str, object]
) -> dict[str, object]:
    """Return what the upstream is asked to change; empty if the update concerns the avatar only.

    `session` is the object of the client's `session.update`, and `config` what it has led to.
    """
    changed = {name: value for name, value in session.items() if name not in _NOT_MERGED}
    if "output_modalities" in changed:
        changed["output_modalities"] = config.stored["output_modalities"]  # without the avatar
    audio = session.get("audio")
    sides: dict[str, object] = {}
    for side in ("input", "output"):
        fields = audio.get(side) if isinstance(audio, dict) else None
        if isinstance(fields, dict) and fields:
            sides[side] = {**fields, "format": formats[side]} if "format" in fields else fields
    if sides:
        changed["audio"] = sides
    return {**changed, "type": "realtime"} if changed else {}


def merged(ours: Mapping[str, object], upstream: Mapping[str, object] | None) -> dict[str, object]:
    """Return the session object for the client: the upstream's, with the fields that are ours."""
    document = dict(ours)
    if upstream is None:
        return document
    document |= {name: value for name, value in upstream.items() if name not in _NOT_MERGED}
    mine, theirs = ours["audio"], upstream.get("audio")
    assert isinstance(mine, dict)
    document["audio"] = {
        side: _merged_side(mine[side], theirs.get(side) if isinstance(theirs, dict) else None)
        for side in ("input", "output")
    }
    return document


def is_small(session: Mapping[str, object]) -> bool:
    """Return whether the upstream's session object is shown to the client."""
    return len(json.dumps(session)) <= MAX_SESSION_CHARACTERS


def interrupts(session: Mapping[str, object] | None) -> bool:
    """Return whether the speech of the user interrupts the answer, in the upstream's session."""
    audio = session.get("audio") if session is not None else None
    received = audio.get("input") if isinstance(audio, dict) else None
    detection = received.get("turn_detection") if isinstance(received, dict) else None
    if not isinstance(detection, dict):
        return True  # the upstream says nothing, and OpenAI's default is true
    return detection.get("interrupt_response") is not False


def _merged_side(mine: dict[str, object], theirs: object) -> dict[str, object]:
    return {**mine, **theirs, "format": mine["format"]} if isinstance(theirs, dict) else mine
