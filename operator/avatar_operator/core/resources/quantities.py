"""Resource requests and limits of containers: their parser, and how defaults complete them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from avatar_contracts.fields import Fields

Resources = Mapping[str, Mapping[str, object]]
"""Keys `requests` and `limits`: quantities by resource name."""

PARTS: Final = ("requests", "limits")
GPU_PREFIX: Final = "nvidia.com/"

_QUANTITY: Final = re.compile(
    r"\+?(?P<number>[0-9]+(\.[0-9]*)?|\.[0-9]+)(?P<suffix>[KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,2})?"
)
_BINARY: Final[dict[str, Decimal]] = {
    f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", 1)
}
_DECIMAL: Final = {
    **{letter: Decimal(10) ** (-3 * power) for power, letter in enumerate("mun", 1)},
    **{letter: Decimal(1000) ** power for power, letter in enumerate("kMGTPE", 1)},
}


def read_quantity(value: object) -> Decimal | None:
    """Return the value of a Kubernetes quantity, None if it is not one or is negative."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    found = _QUANTITY.fullmatch(str(value))
    if found is None:
        return None
    number, suffix = Decimal(found["number"]), found["suffix"] or ""
    if suffix in _BINARY:
        return number * _BINARY[suffix]
    return number * _DECIMAL[suffix] if suffix in _DECIMAL else Decimal(f"{number}{suffix}")


def parse_resources(fields: Fields) -> Resources:
    """Return the requests and limits of an object; faults are recorded in `fields`."""
    parsed = {name: _quantities(fields.child(name)) for name in PARTS}
    for name, limit in parsed["limits"].items():
        request = parsed["requests"].get(name, limit)
        if (read_quantity(request) or 0) > (read_quantity(limit) or 0):
            fields.child("requests").add_fault(name, request, f"no more than the limit, {limit}")
    return {part: quantities for part, quantities in parsed.items() if quantities}


def _quantities(fields: Fields) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in fields.entries():
        if name.startswith(GPU_PREFIX):
            fields.add_rule(name, "must not be set, because the operator requests the GPU")
        elif read_quantity(value) is None:
            fields.add_fault(
                name, value, "a quantity that is not negative, for example 500m or 4Gi"
            )
        else:
            found[name] = value
    return found


def complete(*layers: Resources) -> dict[str, dict[str, object]]:
    """Return the resources of the first layer, completed by those of the later ones.

    A resource comes from the first layer that has a request or a limit for it, both from the same
    one: the request of one layer could otherwise exceed the limit of another one.
    """
    result: dict[str, dict[str, object]] = {part: {} for part in PARTS}
    for layer in layers:
        known = set(_names(result))
        for part in PARTS:
            quantities = layer.get(part, {})
            result[part].update({k: v for k, v in quantities.items() if k not in known})
    return result


def _names(resources: Resources) -> Iterator[str]:
    for part in PARTS:
        yield from resources.get(part, {})
