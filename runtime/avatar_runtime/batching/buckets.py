"""The batch sizes that a device is warmed up for, and what a batch of another size costs."""

from __future__ import annotations

from typing import Final

BUCKETS: Final = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
"""Closely spaced: a batch is filled up to the next one, and what fills it is thrown away."""


def within(limit: int) -> int:
    """Return the largest bucket of at most `limit` frames; beyond the last, `limit` itself."""
    return limit if limit > BUCKETS[-1] else max(size for size in BUCKETS if size <= limit)


def around(frames: int) -> int:
    """Return the smallest bucket that holds `frames`; beyond the last, `frames` itself."""
    return next((size for size in BUCKETS if size >= frames), frames)
