"""Reads resource bodies field by field and collects every fault with its path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from avatar_operator.errors import Fault

if TYPE_CHECKING:
    from collections.abc import Mapping


import json
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, TypeVar

SHOWN_LENGTH: Final = 60  # characters of a bad value that a message repeats

_Choice = TypeVar("_Choice", bound=Enum)


class Fields:
    """One object inside a resource body.

    A field that breaks its contract is noted in `faults` and read as its
    default, so that one pass finds everything. The caller raises at the end.
    """

    def __init__(self, value: object, path: str, faults: list[Fault]) -> None:
        self.path = path
        self.faults = faults
        self._fields: Mapping[str, object] = {}
        if isinstance(value, Mapping):
            self._fields = value
        elif value is not None:
            self.note(None, value, "an object")

    def note(self, name: str | None, value: object, limit: str) -> None:
        """Remember that a field (None: the object itself) breaks its contract."""
        path = self.path if name is None else f"{self.path}.{name}".lstrip(".")
        shown = None if value is None else json.dumps(value, default=str)[:SHOWN_LENGTH]
        self.faults.append(Fault(path, shown, limit))

    def has(self, name: str) -> bool:
        """Return whether the field is there and not null."""
        return self._fields.get(name) is not None

    def raw(self, name: str) -> object:
        """Return the field as it is, None if it is not there."""
        return self._fields.get(name)

    def child(self, name: str) -> Fields:
        """Return the object in a field; one that is not there reads as empty."""
        return Fields(self._fields.get(name), f"{self.path}.{name}".lstrip("."), self.faults)

    def required(self, name: str, limit: str) -> bool:
        """Return whether the field is there, and note it if not."""
        if not self.has(name):
            self.note(name, None, limit)
            return False
        return True

    def text(self, name: str, default: str = "", *, pattern: str = "", limit: str = "") -> str:
        """Return a string, or `default` if it is not there or does not match `pattern`."""
        value = self._fields.get(name)
        if value is None:
            return default
        if not isinstance(value, str) or (pattern and not re.search(pattern, value)):
            self.note(name, value, limit or "a string")
            return default
        return value

    def choice(self, name: str, default: _Choice) -> _Choice:
        """Return the member of the default's enumeration that the field names."""
        value = self._fields.get(name)
        if value is None:
            return default
        kind = type(default)
        for member in kind:
            if member.value == value:
                return member
        self.note(name, value, "one of " + ", ".join(str(member.value) for member in kind))
        return default

    def one_of(self, name: str, default: str, choices: Sequence[str]) -> str:
        """Return a string out of `choices`."""
        value = self._fields.get(name)
        if value is None:
            return default
        if isinstance(value, str) and value in choices:
            return value
        self.note(name, value, "one of " + ", ".join(choices))
        return default

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        """Return a whole number within `low` and `high`, both included."""
        value = self._fields.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.note(name, value, f"a whole number from {low} to {high}")
            return default
        return value

    def optional_integer(self, name: str, low: int, high: int) -> int | None:
        """Return a whole number within `low` and `high`, or None if it is not there."""
        return self.integer(name, low, low, high) if self.has(name) else None

    def flag(self, name: str, default: bool) -> bool:
        """Return a boolean."""
        value = self._fields.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.note(name, value, "true or false")
            return default
        return value

    def items(self, name: str) -> tuple[object, ...]:
        """Return a list, empty if it is not there."""
        value = self._fields.get(name)
        if value is None:
            return ()
        if not isinstance(value, list):
            self.note(name, value, "a list")
            return ()
        return tuple(value)

    def children(self, name: str) -> Iterator[Fields]:
        """Yield the objects of a list."""
        for index, item in enumerate(self.items(name)):
            yield Fields(item, f"{self.path}.{name}[{index}]".lstrip("."), self.faults)

    def texts(
        self, name: str, *, pattern: str = "", limit: str = "", unique: bool = False
    ) -> tuple[str, ...]:
        """Return a list of strings, each matching `pattern`."""
        found: list[str] = []
        for index, item in enumerate(self.items(name)):
            if not isinstance(item, str) or (pattern and not re.search(pattern, item)):
                self.note(f"{name}[{index}]", item, limit or "a string")
            elif unique and item in found:
                self.note(f"{name}[{index}]", item, "named once")
            else:
                found.append(item)
        return tuple(found)

    def strings(self, name: str) -> dict[str, str]:
        """Return a map of strings."""
        child = self.child(name)
        found: dict[str, str] = {}
        for key, value in child._fields.items():
            if isinstance(value, str):
                found[key] = value
            else:
                child.note(key, value, "a string")
        return found

    def fragment(self, name: str) -> Mapping[str, object]:
        """Return an object to be passed through, empty if it is not there."""
        return self.child(name)._fields

    def fragments(self, name: str) -> tuple[Mapping[str, object], ...]:
        """Return a list of objects to be passed through."""
        return tuple(child._fields for child in self.children(name))


@dataclass(frozen=True, slots=True)
class Identity:
    name: str
    namespace: str
    uid: str
    generation: int


def parse_identity(body: Mapping[str, object], faults: list[Fault]) -> Identity:
    metadata = Fields(body.get("metadata"), "metadata", faults)
    return Identity(
        name=metadata.text("name"),
        namespace=metadata.text("namespace", "default"),
        uid=metadata.text("uid"),
        generation=metadata.integer("generation", 0, 0, 2**63),
    )


def read_annotations(body: Mapping[str, object]) -> Mapping[str, str]:
    return Fields(body.get("metadata"), "metadata", []).strings("annotations")


_PARTS = ("metadata", "spec", "status")


def split_body(body: Mapping[str, object]) -> tuple[Fields, Fields, Fields]:
    metadata, spec, status = (Fields(body.get(part), part, []) for part in _PARTS)
    return metadata, spec, status


Body = dict[str, object]
