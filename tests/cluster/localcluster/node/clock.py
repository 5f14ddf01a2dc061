"""The wall clock in the time formats of the Kubernetes API."""

from __future__ import annotations

from datetime import UTC, datetime


def rfc3339() -> str:
    """Return the current time in seconds, as metav1.Time."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_micro() -> str:
    """Return the current time in microseconds, as metav1.MicroTime."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
