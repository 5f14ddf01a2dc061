"""What the oracle reports."""

from __future__ import annotations


class Violation(AssertionError):
    """A session did what docs/wire-protocol.md does not allow."""


def require(condition: object, message: str) -> None:
    """Raise a violation unless the condition holds.

    Raises:
        Violation: the condition is false.
    """
    if not condition:
        raise Violation(message)
