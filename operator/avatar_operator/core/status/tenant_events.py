"""Decides which Events an AvatarTenant gets: one for each change of its conditions, at a rate."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from avatar_contracts.fields import Fields
from avatar_operator.core.status.service_status import Notice
from avatar_operator.names import Condition, Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

REPEAT_S: Final = 300.0
"""The least time between two Events with one reason of one condition: a tenant at its limit reaches
and leaves it with every session."""
_BAD: Final[Mapping[str, str]] = {
    Condition.READY.value: "False",
    Condition.KEYS_VALID.value: "False",
    Condition.ISSUERS_AVAILABLE.value: "False",
    Condition.QUOTA_EXCEEDED.value: "True",
}
"""The conditions that are reported, with the status that is worth a Warning."""
_UNKNOWN: Final = "Unknown"

_State = tuple[str, str]
"""Status and reason of a condition."""


@dataclass(frozen=True, slots=True)
class EventHistory:
    """What was posted before about one tenant. Bounded by the number of conditions and reasons."""

    reported: Mapping[str, _State] = field(default_factory=dict)
    """By condition, what the last Event said, or what the status was before the first one."""
    posted_at: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """By condition and reason, when an Event was last posted; seconds."""


@dataclass(frozen=True, slots=True)
class EventDecision:
    """The Events to post now, and the history with them."""

    notices: tuple[Notice, ...]
    history: EventHistory
    wait_s: float | None = None
    """After which time to decide again, because an Event is held back; None if none is."""


def decide(
    before: Mapping[str, object], after: Mapping[str, object], history: EventHistory, now: float
) -> EventDecision:
    """Return the Events for the change from one status to the next; `now` is in seconds.

    Unknown posts nothing: it says that a gateway was not heard, as after each start of an operator.
    What follows is compared with what was known before. Without that, only a problem is posted. An
    Event that is not due is held back, and dropped if the condition returns to what was reported.
    """
    reported, posted_at = {**_states(before), **history.reported}, dict(history.posted_at)
    notices, waits = [], []
    for condition, fields in _conditions(after).items():
        status, reason = state = fields.text("status"), fields.text("reason")
        if status == _UNKNOWN:
            continue
        is_bad = _BAD[condition] == status
        last = reported.get(condition)
        wait_s = posted_at.get((condition, reason), float("-inf")) + REPEAT_S - now
        is_change = last != state and (last is not None or is_bad)
        if is_change and wait_s > 0:
            waits.append(wait_s)
            continue
        reported[condition] = state
        if is_change:
            posted_at[condition, reason] = now
            message = f"{condition} is {status}: {fields.text('message')}"
            notices.append(Notice(Reason(reason), message, is_bad))
    history = EventHistory(reported, posted_at)
    return EventDecision(tuple(notices), history, min(waits, default=None))


def _states(status: Mapping[str, object]) -> dict[str, _State]:
    found = {
        condition: (fields.text("status"), fields.text("reason"))
        for condition, fields in _conditions(status).items()
    }
    return {condition: state for condition, state in found.items() if state[0] != _UNKNOWN}


def _conditions(status: Mapping[str, object]) -> dict[str, Fields]:
    """Return the conditions of a status that are reported, by type."""
    found = status.get("conditions")
    fields = [Fields(each, "", []) for each in found] if isinstance(found, list) else []
    return {kind: each for each in fields if (kind := each.text("type")) in _BAD}
