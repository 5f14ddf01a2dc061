"""What can go wrong for a client.

AvatarClientError
├── AudioFileError     the sound cannot be read
├── LoadError          a load that cannot be run
├── RecordingError     there is nothing to record, or it cannot be written
├── Refused            the door: the server answered before a session began
├── SessionEnded       the connection is gone
├── ServerError        the server answered an event with an `error`
└── Unanswered         nothing came within the time allowed
"""

from __future__ import annotations


class AvatarClientError(Exception):
    """Base of all errors this package raises on purpose."""


class AudioFileError(AvatarClientError):
    """A file that holds no sound this client can read."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)
        self.path = path
        self.problem = problem

    def __str__(self) -> str:
        return f"cannot read sound from {self.path}: {self.problem}"


class LoadError(AvatarClientError):
    """A description of a load that makes no sense."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(name, problem)
        self.name = name
        self.problem = problem

    def __str__(self) -> str:
        return f"cannot load with {self.name}: {self.problem}"


class RecordingError(AvatarClientError):
    """A recording that cannot be made."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(name, problem)
        self.name = name
        self.problem = problem

    def __str__(self) -> str:
        return f"cannot record {self.name}: {self.problem}"


class Refused(AvatarClientError):
    """The server let no session begin."""

    def __init__(
        self, status: int | None, code: str, message: str, retry_after_s: int | None
    ) -> None:
        super().__init__(status, code, message, retry_after_s)
        self.status = status
        """HTTP status; None if the refusal was no HTTP answer."""
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        status = "" if self.status is None else f"{self.status} "
        return f"refused with {status}{self.code}: {self.message}"


class SessionEnded(AvatarClientError):
    """The connection closed while something was still awaited."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"the session ended with close code {self.code} ({self.reason or 'no reason given'})"


class ServerError(AvatarClientError):
    """An `error` event that answers something this client sent."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"the server answered {self.code}: {self.message}"


class Unanswered(AvatarClientError):
    """An answer that did not come in time."""

    def __init__(self, awaited: str, timeout_s: float) -> None:
        super().__init__(awaited, timeout_s)
        self.awaited = awaited
        self.timeout_s = timeout_s

    def __str__(self) -> str:
        return f"no {self.awaited} within {self.timeout_s:g} s"
