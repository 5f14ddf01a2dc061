"""Reads the configuration of a network in the published JSON format and checks each field."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, TypeVar

from avatar_runtime import errors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAX_SIZE: Final = 8192
"""Upper limit of every whole number in a configuration; the published ones go to 1536."""
_MAX_BYTES: Final = 1 << 20
_MAX_LIST: Final = 16
_MAX_SHOWN: Final = 60  # characters of a wrong value that a message shows

Config = TypeVar("Config")


def read(path: Path, kind: type[Config], fixed: Mapping[str, Any]) -> Config:
    """Return the fields of `kind` in a JSON file; the fields in `fixed` must have these values.

    Raises:
        AssetError: the file is unreadable, a field has a wrong type or size, or the network is not
            supported; names each field with its value.
    """
    document = _read_object(path)
    faults = [
        f"{name} is {_shown(document[name])}, must be {value!r}"
        for name, value in fixed.items()
        if document.get(name, value) != value
    ]
    values: dict[str, Any] = {}
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name in document:
            assert field.default is not MISSING, "each field has its published value as default"
            try:
                values[field.name] = _value(field.default, document[field.name])
            except ValueError as error:
                faults.append(f"{field.name}{error}")
    if faults:
        raise errors.AssetError(str(path), "; ".join(faults))
    return kind(**values)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        document = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise errors.AssetError(str(path), f"unreadable: {error}") from error
    if len(content) > _MAX_BYTES:
        raise errors.AssetError(str(path), f"has more than {_MAX_BYTES} bytes, the limit")
    if not isinstance(document, dict):
        fault = f"is {_shown(document)}, must be a JSON object"
        raise errors.AssetError(str(path), fault)
    return document


def _value(default: object, found: Any) -> Any:
    """Return a value of the type of `default`; a list of equal numbers may stand for one.

    Raises:
        ValueError: another type or size; the message continues the name of the field.
    """
    if isinstance(default, tuple):
        if not isinstance(found, list) or not 0 < len(found) <= _MAX_LIST:
            kind = f"a list of 1 to {_MAX_LIST} whole numbers"
            raise ValueError(f" is {_shown(found)}, must be {kind}")
        return tuple(_integer(entry, f"[{i}]") for i, entry in enumerate(found))
    if isinstance(default, bool):
        if not isinstance(found, bool):
            raise ValueError(f" is {_shown(found)}, must be true or false")
        return found
    if isinstance(default, int):
        if isinstance(found, list):
            return _integer(_only(found))
        return _integer(found)
    if type(found) not in (int, float) or not isfinite(found) or found <= 0:
        raise ValueError(f" is {_shown(found)}, must be a number over 0")
    return float(found)


def _only(found: list[Any]) -> Any:
    if not found or any(entry != found[0] for entry in found):
        raise ValueError(f" is {_shown(found)}, must be one whole number for all levels")
    return found[0]


def _integer(found: Any, index: str = "") -> int:
    if type(found) is not int or not 0 < found <= MAX_SIZE:
        kind = f"a whole number from 1 to {MAX_SIZE}"
        raise ValueError(f"{index} is {_shown(found)}, must be {kind}")
    return found


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def multiple_faults(
    prefix: str, sizes: Mapping[str, int], divisors: Mapping[str, int]
) -> list[str]:
    """Return the sizes that are not multiples of every divisor, one sentence each."""
    return [
        f"{prefix} {name} is {size}, must be a multiple of {divisor_name} {divisor}"
        for name, size in sizes.items()
        for divisor_name, divisor in divisors.items()
        if size % divisor
    ]


def widths(values: tuple[int, ...]) -> dict[str, int]:
    """Return the entries of `block_out_channels` by their names in messages."""
    return {f"block_out_channels[{i}]": width for i, width in enumerate(values)}
