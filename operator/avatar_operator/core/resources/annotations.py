"""The annotations by which users control a service, and what is wrong with them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from avatar_contracts.fields import SHOWN_LENGTH
from avatar_operator import names

if TYPE_CHECKING:
    from collections.abc import Mapping

_PREFIX: Final = f"{names.GROUP}/"
SERVICE_FLAGS: Final = (
    names.ANNOTATION_PAUSED,
    names.ANNOTATION_FREEZE,
    names.ANNOTATION_PAUSE_SCALE_IN,
    names.ANNOTATION_ALLOW_UNPULLED,
)
"""Annotations of a service; each has the value true or false."""


def flag(annotations: Mapping[str, str], name: str) -> bool:
    """Return whether an annotation is set; a wrong value counts as false, and `faults` names it."""
    return annotations.get(name) == "true"


def faults(annotations: Mapping[str, str]) -> tuple[str, ...]:
    """Return what is wrong with the annotations of a service that start with our group."""
    return tuple(
        fault
        for name, value in sorted(annotations.items())
        if name.startswith(_PREFIX) and (fault := _fault(name, value))
    )


def _fault(name: str, value: str) -> str:
    if name not in SERVICE_FLAGS:
        known = ", ".join(known.removeprefix(_PREFIX) for known in SERVICE_FLAGS)
        what = f"annotation {name} is ignored: an AvatarService has only {known}"
        where = " (drain is an annotation of a pod)" if name == names.ANNOTATION_DRAIN else ""
        return what + where
    if value in ("true", "false"):
        return ""
    shown = json.dumps(value)[:SHOWN_LENGTH]
    return f"annotation {name} is {shown} and is ignored, must be true or false"
