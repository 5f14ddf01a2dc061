"""Puts numbers into sentences that people read."""

from __future__ import annotations


def count(number: int, noun: str) -> str:
    """Return a number of things, "1 session" or "3 sessions"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
