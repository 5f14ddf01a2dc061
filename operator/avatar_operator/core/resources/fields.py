"""Reads what all resource bodies have in common; `Fields` reads the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from avatar_contracts.fields import Fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_contracts.fields import Fault

Body = dict[str, object]

_PARTS: Final = ("metadata", "spec", "status")


@dataclass(frozen=True, slots=True)
class Identity:
    """The metadata that identifies an object."""

    name: str
    namespace: str
    uid: str
    generation: int
    created: str = ""
    """Creation time in RFC 3339; "" if the object was never stored."""


def parse_identity(body: Mapping[str, object], faults: list[Fault]) -> Identity:
    """Return the identity of an object; faults are added to `faults`."""
    metadata = Fields(body.get("metadata"), "metadata", faults)
    return Identity(
        name=metadata.text("name"),
        namespace=metadata.text("namespace", "default"),
        uid=metadata.text("uid"),
        generation=metadata.integer("generation", 0, 0, 2**63),
        created=metadata.text("creationTimestamp"),
    )


def read_annotations(body: Mapping[str, object]) -> Mapping[str, str]:
    """Return the annotations of an object, without those that are not strings."""
    return Fields(body.get("metadata"), "metadata", []).strings("annotations")


def split_body(body: Mapping[str, object]) -> tuple[Fields, Fields, Fields]:
    """Return metadata, spec and status of a body that the API server has checked."""
    metadata, spec, status = (Fields(body.get(part), part, []) for part in _PARTS)
    return metadata, spec, status


def find_condition(status: Fields, kind: str) -> Fields | None:
    """Return the condition of a type in a status, None if it is missing."""
    conditions = status.children("conditions")
    return next((each for each in conditions if each.text("type") == kind), None)
