"""Every event is one of the official client's types, which are checked strictly."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, get_args

from openai.types.beta.realtime import RealtimeServerEvent as BetaServerEvent
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter, ValidationError

from localcluster.fuzz.violation import Violation, require

if TYPE_CHECKING:
    from collections.abc import Mapping

OURS: Final = frozenset(
    {
        "warning",
        "response.video.delta",
        "response.video.done",
        "response.video.dropped",
        "session.avatar.switch_to_speaking",
        "session.avatar.switch_to_idle",
    }
)
"""Events that the official client does not know; docs/wire-protocol.md lists them."""


_OUR_RATE: Final = re.compile('"rate": ?16000')
"""A rate that this project has added to the official one."""
_SESSIONS: Final = frozenset({"session.created", "session.updated"})
_SERVED: Final = frozenset(
    {"type", "object", "id", "model", "expires_at", "output_modalities", "audio", "avatar"}
)


def _without_stored(event: dict[str, Any]) -> dict[str, Any]:
    session = {name: value for name, value in event["session"].items() if name in _SERVED}
    given, taken = session["audio"]["input"], session["audio"]["output"]
    session["audio"] = {
        "input": {name: given[name] for name in ("format", "turn_detection")},
        "output": {"format": taken["format"]},
    }
    return {**event, "session": session}


def _adapters(events: Any) -> Mapping[str, TypeAdapter[Any]]:
    union, *_ = get_args(events)
    by_type = {}
    for model in get_args(union):
        [name] = get_args(model.model_fields["type"].annotation)
        by_type[name] = TypeAdapter(model)
    return by_type


_ADAPTERS: Final = _adapters(RealtimeServerEvent)
_BETA_ADAPTERS: Final = _adapters(BetaServerEvent)
_NEWER: Final = frozenset({"input_audio_buffer.timeout_triggered"})
"""Official events that the beta interface did not have yet."""
_BETA_SERVED: Final = frozenset(
    {
        *("object", "id", "model", "expires_at", "modalities", "turn_detection"),
        *("input_audio_format", "output_audio_format"),
    }
)
_BETA_FIELDS: Final = frozenset({"modalities", "output_audio_format"})
"""Fields of each session and response of the beta interface."""
_GA_FIELDS: Final = frozenset({"audio", "output_modalities", "max_output_tokens"})
_RATES_OF_BETA: Final = {"audio/pcm": "pcm16", "pcm16_16000hz": "pcm16"}
"""16 kHz, which the beta interface cannot name and that of Azure can."""


def check(kind: str, text: str, *, is_client_right: bool = True) -> None:
    """Check one event of a session, as JSON.

    A session sends back what its client has set and what the session does not serve. If the client
    sends wrong values, these fields are not checked.

    Raises:
        Violation: no official type has this form, and it is not one of `OURS`.
    """
    if kind in OURS:
        return
    adapter = _ADAPTERS.get(kind)
    if adapter is None:
        raise Violation(f"{kind} is neither an official event nor one of this project")
    text = _OUR_RATE.sub('"rate":24000', text)
    if kind in _SESSIONS and not is_client_right:
        text = json.dumps(_without_stored(json.loads(text)))
    try:
        adapter.validate_json(text, strict=True)
    except ValidationError as error:
        raise Violation(f"not the official form of {kind}: {error} in {text[:2000]}") from None


def check_beta(kind: str, text: str, *, is_client_right: bool = True) -> None:
    """Check one event in the form of the beta interface, as JSON.

    Names of models, the rate of 16 kHz and the modality `avatar` are not in its types.

    Raises:
        Violation: as `check`.
    """
    if kind in OURS or kind in _NEWER:
        return
    adapter = _BETA_ADAPTERS.get(kind)
    if adapter is None:
        raise Violation(f"{kind} is neither a beta event nor one of this project")
    event = json.loads(text)
    for name in ("session", "response"):
        if isinstance(event.get(name), dict):
            # All fields of the beta types are optional, and others are allowed.
            missing, other = _BETA_FIELDS - event[name].keys(), _GA_FIELDS & event[name].keys()
            require(not missing and not other, f"{name} of {kind}: without {missing}, with {other}")
            event[name] = _official_names(event[name])
    if kind in _SESSIONS and not is_client_right:
        event["session"] = {n: v for n, v in event["session"].items() if n in _BETA_SERVED}
    try:
        adapter.validate_json(json.dumps(event), strict=True)
    except ValidationError as error:
        raise Violation(f"not the beta form of {kind}: {error} in {text[:2000]}") from None


def _official_names(fields: Mapping[str, Any]) -> dict[str, Any]:
    changed = dict(fields)
    if "model" in fields:
        changed["model"] = "gpt-realtime"
    if isinstance(fields.get("modalities"), list):
        changed["modalities"] = [name for name in fields["modalities"] if name != "avatar"]
    for name in ("input_audio_format", "output_audio_format"):
        if name in fields:
            changed[name] = _RATES_OF_BETA.get(fields[name], fields[name])
    return changed
