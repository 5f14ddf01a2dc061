"""Every error that the gateway raises on purpose.

AvatarGatewayError
├── SettingsError    variables or arguments are wrong; the process stops
├── Rejection        the gateway rejects a caller before the session starts
├── PodRejection     a pod rejects the upgrade; the caller receives its answer unchanged
├── PodError         a runtime pod did not accept the session; the gateway tries the next pod
├── StateError       a line of a pod's state stream is invalid
├── SharedStateUnavailable  the state that gateways share does not answer in time
├── KubernetesError  the API server refused a command of an administrator
└── CommandError     a command of an administrator cannot be done
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from avatar_contracts.documents import parse_object
from avatar_contracts.environment import InvalidSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_VALUE_CHARACTERS: Final = 64
"""Longer values are truncated (docs/wire-protocol.md, "Errors")."""


class AvatarGatewayError(Exception):
    """Base of all errors this package raises on purpose."""


class SettingsError(AvatarGatewayError, InvalidSettings):
    """Settings are missing or wrong."""


class Rejection(AvatarGatewayError):
    """The gateway rejects a caller; `param`, `value` and `limit` name the wrong value, if any."""

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
        self.value = value[:_MAX_VALUE_CHARACTERS] if isinstance(value, str) else value
        self.limit = limit

    def __str__(self) -> str:
        return self.message


class PodRejection(AvatarGatewayError):
    """A pod rejected the upgrade with an HTTP response."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__(status, headers, body)
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def error(self) -> Mapping[str, Any]:
        """Return the `error` object of the body, or an empty mapping."""
        try:
            found = parse_object(self.body).get("error")
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def code(self) -> str:
        """Return the error code, or an empty string."""
        return str(self.error.get("code", ""))

    def __str__(self) -> str:
        return f"the pod answered {self.status} {self.code}"


class PodError(AvatarGatewayError):
    """A pod was not reachable, or rejected the session for a temporary reason."""

    def __init__(self, pod: str, problem: str) -> None:
        super().__init__(pod, problem)
        self.pod = pod
        self.problem = problem

    def __str__(self) -> str:
        return f"pod {self.pod} did not accept the session: {self.problem}"


class StateError(AvatarGatewayError):
    """A pod reported an invalid state."""

    def __init__(self, key: str, value: object, expected: str) -> None:
        super().__init__(key, value, expected)
        self.key = key
        self.value = value
        self.expected = expected

    def __str__(self) -> str:
        return f"{self.key} is {str(self.value)[:_MAX_VALUE_CHARACTERS]!r}, must be {self.expected}"


class SharedStateUnavailable(AvatarGatewayError):
    """The state that gateways share did not answer, or is known to be away."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return f"the shared state is unavailable: {self.problem}"


class KubernetesError(AvatarGatewayError):
    """The API server refused a command of an administrator; `status` is 0 without an answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message

    def __str__(self) -> str:
        if not self.status:
            return f"the API server did not answer: {self.message}"
        return f"the API server answered {self.status}: {self.message}"


class CommandError(AvatarGatewayError):
    """A command of an administrator cannot be done; the message names what is wrong."""
