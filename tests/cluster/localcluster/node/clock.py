"""The wall clock in the API's formats."""

from __future__ import annotations

from datetime import UTC, datetime


def rfc3339() -> str:
    """Return now in whole seconds, as metav1.Time."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_micro() -> str:
    """Return now in microseconds, as metav1.MicroTime."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
