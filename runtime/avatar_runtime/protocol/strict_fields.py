"""Reads the fields of a JSON object and stops at the first fault."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, TypeVar

from avatar_runtime.errors import ProtocolError, quoted, shown, supported

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

_Member = TypeVar("_Member", bound=Enum)


class StrictFields:
    """One JSON object of a message.

    Each method raises `ProtocolError` for a field that is missing or wrong. The error names the
    field with its path, its value and the limit, so that it can be sent to the client as it is.
    """

    def __init__(self, document: Mapping[str, object], path: str = "") -> None:
        """`path` is the path of the object in the message; empty for the message itself."""
        self.document = document
        self._path = path

    def __contains__(self, name: str) -> bool:
        return name in self.document

    def path(self, name: str) -> str:
        """Return the path of a field in the message."""
        return f"{self._path}.{name}" if self._path else name

    def value(self, name: str) -> object:
        """Return a required field."""
        if name not in self.document:
            param = self.path(name)
            raise ProtocolError("missing_field", f"{param} is missing", param=param)
        return self.document[name]

    def text(self, name: str) -> str:
        """Return a required string."""
        value = self.value(name)
        if not isinstance(value, str):
            raise self._wrong_type(name, "a string")
        return value

    def boolean(self, name: str) -> bool:
        """Return a required boolean."""
        value = self.value(name)
        if not isinstance(value, bool):
            raise self._wrong_type(name, "a boolean")
        return value

    def integer(self, name: str, low: int, high: int) -> int:
        """Return a required integer from `low` to `high`."""
        value = self.value(name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong_type(name, "an integer")
        if not low <= value <= high:
            raise self.invalid(name, f"must be {low} to {high}", [low, high])
        return value

    def number(self, name: str) -> float:
        """Return a required number."""
        value = self.value(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong_type(name, "a number")
        return value

    def choice(self, name: str, choices: Sequence[str]) -> str:
        """Return a required string that is one of `choices`."""
        value = self.text(name)
        if value not in choices:
            raise self.invalid(name, supported(choices), list(choices))
        return value

    def member(self, name: str, kind: type[_Member]) -> _Member:
        """Return a required member of an enumeration whose values are strings."""
        return kind(self.choice(name, [member.value for member in kind]))

    def nested(self, name: str) -> StrictFields:
        """Return a required object."""
        value = self.value(name)
        if not isinstance(value, dict):
            raise self._wrong_type(name, "an object")
        return StrictFields(value, self.path(name))

    def objects(self, name: str, most: int) -> list[StrictFields]:
        """Return a required list of at most `most` objects."""
        value = self.value(name)
        if not isinstance(value, list):
            raise self._wrong_type(name, "a list")
        if len(value) > most:
            raise self.invalid(name, f"must have at most {most} entries", most)
        found = StrictFields(
            {f"{name}[{index}]": item for index, item in enumerate(value)}, self._path
        )
        return [found.nested(each) for each in found.document]

    def integers(self, name: str, count: int) -> list[int]:
        """Return a required list of `count` integers that are not negative."""
        value = self.value(name)
        if not isinstance(value, list):
            raise self._wrong_type(name, f"a list of {count} integers")
        is_right = all(
            isinstance(each, int) and not isinstance(each, bool) and each >= 0 for each in value
        )
        if len(value) != count or not is_right:
            raise self.invalid(name, f"must be {count} integers, at least 0", count)
        return value

    def only(self, name: str, supported_value: object) -> None:
        """Check that a field has the only supported value."""
        if self.document[name] != supported_value:
            text = "null" if supported_value is None else supported_value
            raise self.invalid(name, supported([text]), [supported_value])

    def unknown(self, known: Collection[str]) -> Iterator[str]:
        """Yield the names that are not in `known`."""
        return (name for name in self.document if name not in known)

    def invalid(self, name: str, expected: str, limit: object = None) -> ProtocolError:
        """Return the error for a value that is out of range or not supported."""
        return self.error("invalid_value", name, expected, limit)

    def error(self, code: str, name: str, expected: str, limit: object = None) -> ProtocolError:
        """Return an error that names the field, its value and what is expected."""
        param, value = self.path(name), self.document.get(name)
        message = f"{param} is {quoted(value)}; {expected}"
        return ProtocolError(code, message, param=param, value=shown(value), limit=limit)

    def _wrong_type(self, name: str, expected: str) -> ProtocolError:
        return self.error("invalid_type", name, f"must be {expected}", expected)
