"""The security contexts of runtime pods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

Context = Mapping[str, object]
"""A security context in the format of a pod spec."""

USER_ID: Final = 65532
"""User and group of the runtime image."""

_POD: Final[Context] = {
    "runAsNonRoot": True,
    "runAsUser": USER_ID,
    "runAsGroup": USER_ID,
    "fsGroup": USER_ID,
    "seccompProfile": {"type": "RuntimeDefault"},
}
_CONTAINER: Final[Context] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


@dataclass(frozen=True, slots=True)
class PodSecurity:
    """The security contexts of a pod and of its container.

    The defaults comply with the restricted Pod Security Standard.
    """

    pod: Context = field(default_factory=lambda: _POD)
    container: Context = field(default_factory=lambda: _CONTAINER)
