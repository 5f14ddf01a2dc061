"""Each number in a spec has the same bounds in the CRD and in the parser of the operator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from avatar_operator.core.resources.gpu_profile import parse_profile
from avatar_operator.core.resources.service import parse_service
from avatar_operator.core.resources.tenant import parse_tenant
from avatar_operator.errors import InvalidResource
from avatar_operator.kube import crds

if TYPE_CHECKING:
    from collections.abc import Iterator

Path = tuple[str | int, ...]

UNBOUNDED = {
    ("spec", "fps"): (1, 1000),  # an enumeration in the CRD
    ("spec", "upstream", "inputSampleRate"): (8000, 24000),  # enumerations as well
    ("spec", "upstream", "outputSampleRate"): (8000, 24000),
    ("spec", "placement", "tolerations", 0, "tolerationSeconds"): (0, 2**31),
}
"""Bounds of the parser where the CRD has none."""


def numbers(schema: dict[str, Any], path: Path = ()) -> Iterator[tuple[Path, int, int]]:
    if schema.get("type") == "integer":
        low, high = UNBOUNDED.get(path) or (schema["minimum"], schema["maximum"])
        yield path, low, high
    for name, child in schema.get("properties", {}).items():
        yield from numbers(child, (*path, name))
    if "items" in schema:
        yield from numbers(schema["items"], (*path, 0))


def specs(definition: dict[str, Any]) -> list[tuple[Path, int, int]]:
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return list(numbers(schema["properties"]["spec"], ("spec",)))


AVATARS, SERVICES, TENANTS, PROFILES = map(specs, crds.bundled())
CASES: list[tuple[Any, Path, int, int]] = [(parse_service, *case) for case in SERVICES] + [
    (parse_profile, *case) for case in PROFILES
]
# The gateway alone reads the issuers of tokens.
CASES += [(parse_tenant, *case) for case in TENANTS if case[0][1] != "jwt"]


def test_the_numbers_of_all_kinds_are_found() -> None:
    assert (len(SERVICES), len(PROFILES), len(TENANTS)) == (34, 4, 8)


@pytest.mark.parametrize(
    ("parse", "path", "low", "high"), CASES, ids=[".".join(map(str, case[1])) for case in CASES]
)
def test_a_number_has_the_bounds_of_the_crd(parse: Any, path: Path, low: int, high: int) -> None:
    where = "".join(f"[{part}]" if part == 0 else f".{part}" for part in path).lstrip(".")

    def faults(value: object) -> list[str]:
        body: Any = value
        for part in reversed(path):
            body = [body] if part == 0 else {part: body}
        if path[1] == "upstream":  # its fields belong to one of its modes
            mode = "bridge" if len(path) == 3 else "speech"
            body = {"spec": {"upstream": {"mode": mode, **body["spec"]["upstream"]}}}
        try:
            parse({"metadata": {"name": "a", "namespace": "b"}, **body})
        except InvalidResource as error:
            return [
                str(fault)
                for fault in error.faults
                if fault.path == where and "number" in fault.limit
            ]
        return []

    assert faults(low) == faults(high) == []
    limit = f"must be a whole number from {low} to {high}"
    for value, shown in ((low - 1, low - 1), (high + 1, high + 1), (True, "true"), (1.5, 1.5)):
        assert faults(value) == [f"{where} is {shown}, {limit}"]
