"""Every error that the gateway raises on purpose.

AvatarGatewayError
├── SettingsError    variables or arguments that stop the process
├── Refusal          a caller turned away at the door, answered with an HTTP status
├── PodAnswer        a pod's answer in place of the upgrade, handed to the caller unchanged
├── PodError         a runtime pod that did not take the session; the next one is tried
├── StateError       a line of a pod's state stream that cannot be used
└── WatchError       the Kubernetes API answered a list or a watch with a fault
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from avatar_contracts.environment import InvalidSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

_SHOWN_CHARACTERS: Final = 64  # wire protocol §13: longer values are cut


class AvatarGatewayError(Exception):
    """Base of all errors this package raises on purpose."""


class SettingsError(AvatarGatewayError, InvalidSettings):
    """Settings that are missing or wrong."""


class Refusal(AvatarGatewayError):
    """A caller that gets no session; `param`, `value` and `limit` name the offence, if any."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        value: object = None,
        limit: object = None,
    ) -> None:
        super().__init__(code, message, param, value, limit)
        self.code = code
        self.message = message
        self.param = param
        self.value = value[:_SHOWN_CHARACTERS] if isinstance(value, str) else value
        self.limit = limit

    def __str__(self) -> str:
        return self.message


class PodAnswer(AvatarGatewayError):
    """What a pod answered in place of the upgrade."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__(status, headers, body)
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def error(self) -> Mapping[str, Any]:
        """Return the `error` object of the body; an empty one if there is none."""
        try:
            found = json.loads(self.body)["error"]
        except (ValueError, KeyError, TypeError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def code(self) -> str:
        """Return the error's code; empty if there is none."""
        return str(self.error.get("code", ""))

    def __str__(self) -> str:
        return f"the pod answered {self.status} {self.code}"


class PodError(AvatarGatewayError):
    """A pod that could not be reached, or would not take the session just now."""

    def __init__(self, pod: str, problem: str) -> None:
        super().__init__(pod, problem)
        self.pod = pod
        self.problem = problem

    def __str__(self) -> str:
        return f"pod {self.pod} took no session: {self.problem}"


class StateError(AvatarGatewayError):
    """A state that its pod cannot mean."""

    def __init__(self, key: str, value: object, expected: str) -> None:
        super().__init__(key, value, expected)
        self.key = key
        self.value = value
        self.expected = expected

    def __str__(self) -> str:
        return f"{self.key} is {str(self.value)[:_SHOWN_CHARACTERS]!r}, must be {self.expected}"


class WatchError(AvatarGatewayError):
    """An answer of the Kubernetes API other than the list or the events asked for."""

    def __init__(self, path: str, status: int, message: str) -> None:
        super().__init__(path, status, message)
        self.path = path
        self.status = status
        self.message = message

    def __str__(self) -> str:
        return f"{self.path} answered {self.status}: {self.message[:200]}"
