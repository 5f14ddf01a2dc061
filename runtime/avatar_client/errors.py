"""Every error that the client raises on purpose.

AvatarClientError
├── AudioFileError     an audio file that cannot be read
├── LoadError          an invalid description of a load
├── RecordingError     a recording without frames, or one that cannot be written
├── SettingsError      a command-line argument that cannot be used
├── Refused            a connection that the server refused
├── SessionEnded       a connection that closed during a call
├── ServerError        an event that the server answered with an `error`
└── AnswerTimeout      an answer that did not arrive in time
"""

from __future__ import annotations

from avatar_contracts.environment import InvalidSettings


class AvatarClientError(Exception):
    """Base of all errors this package raises on purpose."""


class AudioFileError(AvatarClientError):
    """A file from which this client cannot read audio."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)
        self.path = path
        self.problem = problem

    def __str__(self) -> str:
        return f"cannot read audio from {self.path}: {self.problem}"


class LoadError(AvatarClientError):
    """An invalid description of a load."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(name, problem)
        self.name = name
        self.problem = problem

    def __str__(self) -> str:
        return f"cannot load with {self.name}: {self.problem}"


class RecordingError(AvatarClientError):
    """A recording that cannot be written."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(name, problem)
        self.name = name
        self.problem = problem

    def __str__(self) -> str:
        return f"cannot record {self.name}: {self.problem}"


class SettingsError(AvatarClientError, InvalidSettings):
    """A command-line argument that cannot be used."""


class Refused(AvatarClientError):
    """The server refused the connection."""

    def __init__(
        self, status: int | None, code: str, message: str, retry_after_s: int | None
    ) -> None:
        super().__init__(status, code, message, retry_after_s)
        self.status = status
        """HTTP status; `None` if the server did not answer with HTTP."""
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        status = "" if self.status is None else f"{self.status} "
        return f"refused with {status}{self.code}: {self.message}"


class SessionEnded(AvatarClientError):
    """The connection closed while a call waited for an answer."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"the session ended with close code {self.code} ({self.reason or 'no reason given'})"


class ServerError(AvatarClientError):
    """An `error` event in answer to an event of this client."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"the server answered {self.code}: {self.message}"


class AnswerTimeout(AvatarClientError):
    """An answer that did not arrive in time."""

    def __init__(self, awaited: str, timeout_s: float) -> None:
        super().__init__(awaited, timeout_s)
        self.awaited = awaited
        self.timeout_s = timeout_s

    def __str__(self) -> str:
        return f"no {self.awaited} within {self.timeout_s:g} s"
