"""The batch sizes for which a device is warmed up; other sizes are padded to them."""

from __future__ import annotations

from typing import Final

BUCKETS: Final = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
"""Closely spaced, since a batch is padded to the next bucket and the padding is discarded."""


def within(limit: int) -> int:
    """Return the largest bucket of at most `limit` frames; beyond the last, `limit` itself."""
    return limit if limit > BUCKETS[-1] else max(size for size in BUCKETS if size <= limit)


def around(frames: int) -> int:
    """Return the smallest bucket that holds `frames`; beyond the last, `frames` itself."""
    return next((size for size in BUCKETS if size >= frames), frames)
