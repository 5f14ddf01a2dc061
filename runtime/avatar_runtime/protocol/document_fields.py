"""The state of a session as plain values: what each part of it exports and takes over.

A part names its attributes in a table with the kind of each value. A document may come from a
stranger: each kind checks type, range and size of what it reads.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from dataclasses import dataclass
from math import inf, isfinite
from typing import TYPE_CHECKING, Any, Final, Protocol

from avatar_runtime.protocol.audio_formats import FORMATS
from avatar_runtime.protocol.strict_fields import StrictFields

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from enum import Enum

    from avatar_runtime.errors import ProtocolError
    from avatar_runtime.protocol.audio_formats import AudioFormat

MAX_COUNT: Final = 2**53 - 1
"""Integers that every JSON reader accepts."""
MAX_S: Final = 10_000_000.0
"""Distance of a time from now, seconds: longer than any session lasts."""
MAX_TEXT: Final = 1024
MAX_AUDIO_BYTES: Final = 32 * 1024 * 1024
"""Audio of one turn: more than `input_buffer.MAX_BUFFERED_S` of it takes."""


class Kind(Protocol):
    """How one value is written and read."""

    def export(self, value: Any, now: float) -> object:
        """Return the value as JSON has it."""
        ...

    def read(self, fields: StrictFields, name: str, now: float) -> Any:
        """Return the value of a field.

        Raises:
            ProtocolError: it is missing or wrong.
        """
        ...


Table = dict[str, Kind]
"""Kinds by the name of the attribute; the name of the field has no underscore in front."""


def export(owner: object, table: Mapping[str, Kind], now: float = 0.0) -> dict[str, object]:
    """Return the attributes of a table; `now` is the time to which times are relative."""
    return {
        name.lstrip("_"): kind.export(getattr(owner, name), now) for name, kind in table.items()
    }


def read(fields: StrictFields, table: Mapping[str, Kind], now: float = 0.0) -> dict[str, Any]:
    """Return the values of a table by attribute.

    Raises:
        ProtocolError: one is missing or wrong.
    """
    return {name: kind.read(fields, name.lstrip("_"), now) for name, kind in table.items()}


def restore(
    owner: object, fields: StrictFields, table: Mapping[str, Kind], now: float = 0.0
) -> None:
    """Set the attributes of a table.

    Raises:
        ProtocolError: one is missing or wrong.
    """
    for name, value in read(fields, table, now).items():
        setattr(owner, name, value)


def optional(fields: StrictFields, name: str) -> StrictFields | None:
    """Return a required object that may be `null`.

    Raises:
        ProtocolError: the field is missing or something else.
    """
    return None if fields.value(name) is None else fields.nested(name)


def check(condition: bool, fields: StrictFields, name: str, expected: str) -> None:
    """Check a condition on a field that depends on others.

    Raises:
        ProtocolError: it does not hold.
    """
    if not condition:
        raise fields.invalid(name, expected)


@dataclass(frozen=True, slots=True)
class Count:
    """An integer."""

    low: int = 0
    high: int = MAX_COUNT

    def export(self, value: int, now: float) -> object:
        """Return the integer."""
        return value

    def read(self, fields: StrictFields, name: str, now: float) -> int:
        """Return the integer, within the limits."""
        return fields.integer(name, self.low, self.high)


@dataclass(frozen=True, slots=True)
class Flag:
    """A boolean."""

    def export(self, value: bool, now: float) -> object:
        """Return the boolean."""
        return value

    def read(self, fields: StrictFields, name: str, now: float) -> bool:
        """Return the boolean."""
        return fields.boolean(name)


@dataclass(frozen=True, slots=True)
class Number:
    """A finite number."""

    low: float = -MAX_S
    high: float = MAX_S

    def export(self, value: float, now: float) -> object:
        """Return the number."""
        return value

    def read(self, fields: StrictFields, name: str, now: float) -> float:
        """Return the number, within the limits."""
        value = fields.number(name)
        if not self.low <= value <= self.high:
            raise fields.invalid(name, f"must be {self.low:g} to {self.high:g}")
        return float(value)


@dataclass(frozen=True, slots=True)
class At:
    """A monotonic time, written in seconds from now; `null` stands for never, which is infinite."""

    def export(self, value: float, now: float) -> object:
        """Return the seconds from now."""
        return max(-MAX_S, min(value - now, MAX_S)) if isfinite(value) else None

    def read(self, fields: StrictFields, name: str, now: float) -> float:
        """Return the time by the clock of `now`."""
        if fields.value(name) is None:
            return inf
        return now + Number().read(fields, name, now)


@dataclass(frozen=True, slots=True)
class Text:
    """A string."""

    most: int = MAX_TEXT
    """Characters, at most."""

    def export(self, value: str, now: float) -> object:
        """Return the string."""
        return value

    def read(self, fields: StrictFields, name: str, now: float) -> str:
        """Return the string, which is not too long."""
        value = fields.text(name)
        if len(value) > self.most:
            expected = f"must have at most {self.most} characters, has {len(value)}"
            raise fields.invalid(name, expected, self.most)
        return value


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes, written as base64."""

    most: int = MAX_AUDIO_BYTES
    """Bytes, at most."""
    make: Callable[[bytes], bytes | bytearray] = bytes

    def export(self, value: bytes | bytearray | memoryview, now: float) -> object:
        """Return base64."""
        return b64encode(value).decode("ascii")

    def read(self, fields: StrictFields, name: str, now: float) -> bytes | bytearray:
        """Return the bytes, which are not too many."""
        text = fields.text(name)
        if len(text) > -(-self.most // 3) * 4:
            raise fields.invalid(name, f"must have at most {self.most} bytes", self.most)
        try:
            return self.make(b64decode(text, validate=True))
        except (Base64Error, ValueError):
            raise fields.error("invalid_base64", name, "must be base64") from None


@dataclass(frozen=True, slots=True)
class Choice:
    """A member of an enumeration, written by its value."""

    members: type[Enum]

    def export(self, value: Enum, now: float) -> object:
        """Return the value of the member."""
        return value.value

    def read(self, fields: StrictFields, name: str, now: float) -> Enum:
        """Return the member."""
        return fields.member(name, self.members)


@dataclass(frozen=True, slots=True)
class Format:
    """An audio format, written as the wire protocol has it."""

    def export(self, value: AudioFormat, now: float) -> object:
        """Return the format object with its rate."""
        return {"type": value.kind, "rate": value.rate}

    def read(self, fields: StrictFields, name: str, now: float) -> AudioFormat:
        """Return the format, which is one of those that are served."""
        found = fields.nested(name)
        kind, rate = found.text("type"), found.integer("rate", 1, MAX_COUNT)
        for audio in FORMATS:
            if (audio.kind, audio.rate) == (kind, rate):
                return audio
        raise found.error("unsupported_audio_format", "type", "is not served at this rate", rate)


@dataclass(frozen=True, slots=True)
class Maybe:
    """A value that may be `None`, written as `null`."""

    kind: Kind

    def export(self, value: Any, now: float) -> object:
        """Return the value as its kind writes it."""
        return None if value is None else self.kind.export(value, now)

    def read(self, fields: StrictFields, name: str, now: float) -> Any:
        """Return the value as its kind reads it."""
        return None if fields.value(name) is None else self.kind.read(fields, name, now)


@dataclass(frozen=True, slots=True)
class List:
    """A list of values of one kind."""

    kind: Kind
    most: int
    make: Callable[[Sequence[Any]], Any] = list

    def export(self, value: Sequence[Any], now: float) -> object:
        """Return the values as their kind writes them."""
        return [self.kind.export(each, now) for each in value]

    def read(self, fields: StrictFields, name: str, now: float) -> Any:
        """Return the values, which are not too many."""
        items = items_of(fields, name, self.most)
        return self.make([self.kind.read(items, each, now) for each in items.document])


@dataclass(frozen=True, slots=True)
class Pair:
    """Two values, each of its own kind."""

    first: Kind
    second: Kind

    def export(self, value: tuple[Any, Any], now: float) -> object:
        """Return both as a list."""
        return [self.first.export(value[0], now), self.second.export(value[1], now)]

    def read(self, fields: StrictFields, name: str, now: float) -> tuple[Any, Any]:
        """Return both."""
        items = items_of(fields, name, 2)
        first, second = names_of(items, fields, name, 2)
        return self.first.read(items, first, now), self.second.read(items, second, now)


@dataclass(frozen=True, slots=True)
class Object:
    """An object of JSON with no meaning here, such as metadata."""

    def export(self, value: Mapping[str, object], now: float) -> object:
        """Return it as it is."""
        return dict(value)

    def read(self, fields: StrictFields, name: str, now: float) -> Mapping[str, object]:
        """Return it as it is."""
        return fields.nested(name).document


def items_of(fields: StrictFields, name: str, most: int) -> StrictFields:
    """Return the entries of a required list as fields, whose names say where they are.

    Raises:
        ProtocolError: it is not a list, or too long.
    """
    value = fields.value(name)
    if not isinstance(value, list):
        raise fields.error("invalid_type", name, "must be a list", "a list")
    if len(value) > most:
        raise fields.invalid(name, f"must have at most {most} entries, has {len(value)}", most)
    path = fields.path(name)
    return StrictFields({f"{path}[{index}]": item for index, item in enumerate(value)})


def names_of(items: StrictFields, fields: StrictFields, name: str, count: int) -> Sequence[str]:
    """Return the names of the entries of `items_of`, which are `count`.

    Raises:
        ProtocolError: they are fewer or more.
    """
    if len(items.document) != count:
        raise wrong_length(fields, name, count)
    return list(items.document)


def wrong_length(fields: StrictFields, name: str, count: int) -> ProtocolError:
    """Return the error for a list with another number of entries."""
    return fields.invalid(name, f"must have {count} entries", count)
