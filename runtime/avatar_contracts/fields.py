"""Reads the fields of a document and collects all faults with their paths."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeVar

_OBJECT_NAME: Final = (
    r"\A(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z"
)
_OBJECT_NAME_LIMIT: Final = (
    "a name of at most 253 characters of lowercase letters, digits, '-' and '.', as names of "
    "objects in Kubernetes are"
)
SHOWN_LENGTH: Final = 60  # characters of a wrong value that a message repeats

_Choice = TypeVar("_Choice", bound=Enum)


@dataclass(frozen=True, slots=True)
class Fault:
    """One field that breaks the contract: its path, its value and the limit."""

    path: str
    value: str | None
    """As JSON, truncated; None if the field is missing, empty if the value is not shown."""

    limit: str
    """Completes "must be", or is a clause that starts with "must", or a sentence."""

    def __str__(self) -> str:
        is_clause = self.limit.startswith("must ")
        if self.value == "":
            return f"{self.path} {self.limit}" if is_clause else f"{self.path}: {self.limit}"
        clause = self.limit if is_clause else f"must be {self.limit}"
        if self.value is None:
            return f"{self.path} is missing, {clause}"
        return f"{self.path} is {self.value}, {clause}"


class Fields:
    """One object in a resource body.

    A wrong field is added to `faults` and read as its default, so that one pass finds all faults.
    The caller raises the error at the end.
    """

    def __init__(self, value: object, path: str, faults: list[Fault]) -> None:
        self.path = path
        self.faults = faults
        self._fields: Mapping[str, object] = {}
        if isinstance(value, Mapping):
            self._fields = value
        elif value is not None:
            self.add_fault(None, value, "an object")

    def add_fault(self, name: str | None, value: object, limit: str) -> None:
        """Record that the value of a field (None: the object itself) is wrong.

        `limit` completes "must be", or is a clause that starts with "must".
        """
        shown = None if value is None else json.dumps(value, default=str)[:SHOWN_LENGTH]
        self.faults.append(Fault(self._path_of(name), shown, limit))

    def add_rule(self, name: str | None, rule: str) -> None:
        """Record that a field (None: the object itself) breaks a rule about several fields.

        `rule` is a clause that starts with "must", or a sentence with a subject of its own.
        """
        self.faults.append(Fault(self._path_of(name), "", rule))

    def has(self, name: str) -> bool:
        """Return whether the field exists and is not null."""
        return self._fields.get(name) is not None

    def raw(self, name: str) -> object:
        """Return the value of a field without a check, None if it is missing."""
        return self._fields.get(name)

    def entries(self) -> tuple[tuple[str, object], ...]:
        """Return the names and values of all fields, without those that are null."""
        return tuple(
            (str(name), value) for name, value in self._fields.items() if value is not None
        )

    def child(self, name: str) -> Fields:
        """Return the object in a field; a missing one reads as empty."""
        return Fields(self._fields.get(name), self._path_of(name), self.faults)

    def required(self, name: str, limit: str) -> bool:
        """Return whether the field exists, and add a fault if it does not."""
        if not self.has(name):
            self.add_fault(name, None, limit)
            return False
        return True

    def text(self, name: str, default: str = "", *, pattern: str = "", limit: str = "") -> str:
        """Return a string, or `default` if it is missing or does not match `pattern`."""
        value = self._fields.get(name)
        if value is None:
            return default
        if not isinstance(value, str) or (pattern and not re.search(pattern, value)):
            self.add_fault(name, value, limit or "a string")
            return default
        return value

    def object_name(self, name: str) -> str:
        """Return the name of a Kubernetes object; "" if it is missing or wrong."""
        return self.text(name, pattern=_OBJECT_NAME, limit=_OBJECT_NAME_LIMIT)

    def choice(self, name: str, default: _Choice) -> _Choice:
        """Return the member of the default's enumeration that the field names."""
        value = self._fields.get(name)
        if value is None:
            return default
        kind = type(default)
        for member in kind:
            if member.value == value:
                return member
        self.add_fault(name, value, "one of " + ", ".join(str(member.value) for member in kind))
        return default

    def one_of(self, name: str, default: str, choices: Sequence[str]) -> str:
        """Return a string that is one of `choices`."""
        value = self._fields.get(name)
        if value is None:
            return default
        if isinstance(value, str) and value in choices:
            return value
        self.add_fault(name, value, "one of " + ", ".join(choices))
        return default

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        """Return a whole number from `low` to `high`, both included."""
        value = self._fields.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.add_fault(name, value, f"a whole number from {low} to {high}")
            return default
        return value

    def optional_integer(self, name: str, low: int, high: int) -> int | None:
        """Return a whole number from `low` to `high`, or None if it is missing."""
        return self.integer(name, low, low, high) if self.has(name) else None

    def flag(self, name: str, default: bool) -> bool:
        """Return a boolean."""
        value = self._fields.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.add_fault(name, value, "true or false")
            return default
        return value

    def items(self, name: str) -> tuple[object, ...]:
        """Return the items of a list; a missing list is empty."""
        value = self._fields.get(name)
        if value is None:
            return ()
        if not isinstance(value, list):
            self.add_fault(name, value, "a list")
            return ()
        return tuple(value)

    def children(self, name: str) -> Iterator[Fields]:
        """Yield the objects of a list."""
        for index, item in enumerate(self.items(name)):
            yield Fields(item, self._path_of(f"{name}[{index}]"), self.faults)

    def texts(
        self, name: str, *, pattern: str = "", limit: str = "", unique: bool = False
    ) -> tuple[str, ...]:
        """Return a list of strings, each of which must match `pattern`."""
        found: list[str] = []
        for index, item in enumerate(self.items(name)):
            if not isinstance(item, str) or (pattern and not re.search(pattern, item)):
                self.add_fault(f"{name}[{index}]", item, limit or "a string")
            elif unique and item in found:
                self.add_duplicate(name, index, item)
            else:
                found.append(item)
        return tuple(found)

    def add_duplicate(self, name: str, index: int, item: str) -> None:
        """Record that an item of a list has the name of an earlier one."""
        rule = f"{name} must not contain duplicate names: {json.dumps(item)}"
        self.add_rule(f"{name}[{index}]", rule)

    def strings(self, name: str) -> dict[str, str]:
        """Return a map of strings."""
        child = self.child(name)
        found: dict[str, str] = {}
        for key, value in child._fields.items():
            if isinstance(value, str):
                found[key] = value
            else:
                child.add_fault(key, value, "a string")
        return found

    def fragment(self, name: str) -> Mapping[str, object]:
        """Return an object that is passed through unchecked; a missing one is empty."""
        return self.child(name)._fields

    def fragments(self, name: str) -> tuple[Mapping[str, object], ...]:
        """Return a list of objects that are passed through unchecked."""
        return tuple(child._fields for child in self.children(name))

    def _path_of(self, name: str | None) -> str:
        return self.path if name is None else f"{self.path}.{name}".lstrip(".")
