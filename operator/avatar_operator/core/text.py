"""Formats numbers and times for messages."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def count(number: int, noun: str) -> str:
    """Return a number with its noun, "1 session" or "3 sessions"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def rfc3339(seconds: float) -> str:
    """Format seconds since 1970 as Kubernetes does, in whole seconds."""
    moment = datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def join(words: Sequence[str]) -> str:
    """Return words as in a sentence: "a", "a and b" or "a, b and c"."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
