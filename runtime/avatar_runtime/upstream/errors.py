"""Errors of the endpoints of an upstream."""

from __future__ import annotations

from avatar_runtime.errors import AvatarRuntimeError


class LegError(AvatarRuntimeError):
    """An endpoint that did not do its part; nothing in it comes from the endpoint or its key."""

    def __init__(self, leg: str, problem: str, status: int | None = None) -> None:
        super().__init__(leg, problem, status)
        self.leg = leg
        """`speech`, `chat` or `transcription`."""
        self.problem = problem
        self.status = status
        """HTTP status, if that is the problem."""

    def __str__(self) -> str:
        return f"the {self.leg} endpoint {self.problem}"
