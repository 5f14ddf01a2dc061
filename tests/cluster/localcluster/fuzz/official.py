"""Every event is one of the official client's types, which are checked strictly."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, get_args

from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter, ValidationError

from localcluster.fuzz.violation import Violation

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


def _adapters() -> Mapping[str, TypeAdapter[Any]]:
    union, *_ = get_args(RealtimeServerEvent)
    by_type = {}
    for model in get_args(union):
        [name] = get_args(model.model_fields["type"].annotation)
        by_type[name] = TypeAdapter(model)
    return by_type


_ADAPTERS: Final = _adapters()


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
