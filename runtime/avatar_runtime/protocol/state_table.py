"""The step of a state machine that is a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from avatar_runtime.errors import IllegalEvent

if TYPE_CHECKING:
    from collections.abc import Mapping
    from enum import Enum

State = TypeVar("State", bound="Enum")
Event = TypeVar("Event", bound="Enum")


def advance(table: Mapping[State, Mapping[Event, State]], state: State, event: Event) -> State:
    """Return the state after an event.

    Raises:
        IllegalEvent: the table does not allow the event in this state.
    """
    if event not in table[state]:
        raise IllegalEvent(str(state.value), event.name.lower())
    return table[state][event]
