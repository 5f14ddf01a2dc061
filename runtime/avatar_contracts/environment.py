"""Reads environment variables and collects every fault, so that one start shows them all."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Final, TypeVar

from avatar_contracts import fields

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

_Value = TypeVar("_Value")

HIGHEST_PORT: Final = 65_535
SHOWN_CHARACTERS: Final = 64
"""Longer values are cut in messages."""
_HIDDEN: Final = "***"


@dataclass(frozen=True, slots=True)
class Fault:
    """A setting that cannot be used."""

    variable: str
    """The environment variable, or the name of a command-line argument."""
    value: str | None
    """`None` if it is not set."""
    limit: str
    """What it must be, as the end of a sentence."""

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.variable} is not set, must be {self.limit}"
        return f"{self.variable} is {self.value[:SHOWN_CHARACTERS]!r}, must be {self.limit}"


class FieldFault(Fault):
    """A field of a variable that contains JSON; its message is that of a resource's field."""

    def __str__(self) -> str:
        return str(fields.Fault(self.variable, self.value, self.limit))


class InvalidSettings(Exception):
    """Settings that a process cannot start with; the `SettingsError` of each package is one."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__(*faults)
        self.faults = faults

    def __str__(self) -> str:
        return "; ".join(map(str, self.faults))


@dataclass(frozen=True, slots=True)
class Address:
    """Where a listener binds."""

    host: str
    """A name or an IP address; an IPv6 address has no brackets."""
    port: int
    """0 lets the system choose."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Return whether an address, or the name `localhost`, can only mean this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may resolve to any address
        return host == "localhost"


class Environment:
    """Reads variables without the white space around them; an empty one counts as not set.

    A variable that is missing or wrong is noted in `faults` and reads as its default. The caller
    reads all of them and calls `check` at the end.
    """

    def __init__(
        self, variables: Mapping[str, str], arguments: Mapping[str, str | None] | None = None
    ) -> None:
        """`arguments` come from the command line; those that are given replace variables."""
        self.faults: list[Fault] = []
        self._variables = variables
        self._arguments = arguments or {}

    def note(self, variable: str, value: str | None, limit: str) -> None:
        """Add a fault."""
        self.faults.append(Fault(variable, value, limit))

    def note_fields(self, faults: Iterable[fields.Fault]) -> None:
        """Add the faults of a variable that contains JSON."""
        self.faults.extend(FieldFault(each.path, each.value, each.limit) for each in faults)

    def check(self, error: type[InvalidSettings]) -> None:
        """Raise an error with all faults, if there are any."""
        if self.faults:
            raise error(*self.faults)

    def raw(self, variable: str) -> str:
        """Return a variable as it is, empty if it is not set."""
        return self._arguments.get(variable) or self._variables.get(variable, "")

    def parsed(
        self, variable: str, default: _Value, parse: Callable[[str], _Value], limit: str
    ) -> _Value:
        """Return what `parse` makes of a variable; a `ValueError` of it is a fault."""
        text = self.raw(variable).strip()
        if not text:
            return default
        try:
            return parse(text)
        except ValueError:
            self.note(variable, text, limit)
            return default

    def text(self, variable: str, default: str) -> str:
        """Return a variable."""
        return self.parsed(variable, default, str, "")

    def required(self, variable: str) -> str:
        """Return a variable that must be set; empty after a fault."""
        value = self.text(variable, "")
        if not value:
            self.note(variable, None, "set")
        return value

    def secret(self, variable: str, least: int = 0) -> str:
        """Return a variable as it is; a fault does not show its value.

        It needs `least` characters; with 0 it may be missing and is empty then.
        """
        value = self.raw(variable)
        if len(value) < least:
            self.note(variable, _HIDDEN if value else None, f"{least} characters or more")
        return value

    def names(self, variable: str) -> tuple[str, ...]:
        """Return the names in a list with commas; none if it is not set."""
        parts = self.raw(variable).split(",")
        return tuple(part.strip() for part in parts if part.strip())

    def choice(self, variable: str, default: str, choices: Sequence[str]) -> str:
        """Return one of `choices`; lowercase ones may be given in any case."""

        def parse(text: str) -> str:
            found = text if text in choices else text.lower()
            if found not in choices:
                raise ValueError(text)
            return found

        return self.parsed(variable, default, parse, "one of " + ", ".join(choices))

    def boolean(self, variable: str, *, default: bool = False) -> bool:
        """Return whether a variable is `true`."""
        return self.choice(variable, str(default).lower(), ("false", "true")) == "true"

    def integer(self, variable: str, default: int, low: int, high: int) -> int:
        """Return a whole number within `low` and `high`, both included."""
        value = self.optional_integer(variable, low, high)
        return default if value is None else value

    def optional_integer(self, variable: str, low: int, high: int) -> int | None:
        """Return a whole number within `low` and `high`, or `None` if the variable is not set."""

        def parse(text: str) -> int | None:
            return int(_within(whole(text), low, high))

        return self.parsed(variable, None, parse, f"a whole number from {low} to {high}")

    def number(self, variable: str, default: float, low: float, high: float = inf) -> float:
        """Return a finite number within `low` and `high`, both included."""

        def parse(text: str) -> float:
            value = _within(float(text), low, high)
            if value == inf:
                raise ValueError(text)
            return value

        limit = (
            f"a number, {low:g} or more" if high == inf else f"a number from {low:g} to {high:g}"
        )
        return self.parsed(variable, default, parse, limit)

    def address(self, variable: str, default: Address) -> Address:
        """Return `HOST:PORT`; an IPv6 address is in brackets."""

        def parse(text: str) -> Address:
            host, colon, port = text.rpartition(":")
            if not (host and colon):
                raise ValueError(text)
            return Address(host.strip("[]"), int(_within(whole(port), 0, HIGHEST_PORT)))

        return self.parsed(variable, default, parse, f"HOST:PORT, for example {default}")


def whole(text: str) -> int:
    """Return a whole number, which may have a minus and nothing else but ASCII digits.

    Raises:
        ValueError: the text is anything else.
    """
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError(text)
    return int(text)


def _within(value: float, low: float, high: float) -> float:
    if not low <= value <= high:  # NaN is not within any limits
        raise ValueError(value)
    return value
