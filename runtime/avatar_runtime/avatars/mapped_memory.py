"""Gives back the memory of files that are mapped into the process.

The pages of a mapped file that were read stay resident until the system needs them. They count as
memory of the process and of its container, and grow to the size of the file.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray


def release(arrays: Iterable[NDArray[Any]]) -> None:
    """Drop the resident pages of the arrays that are mapped from files; others are untouched.

    The arrays stay usable: what is read again comes from the file.
    """
    for array in arrays:
        base: object = array
        while base is not None and not isinstance(base, mmap.mmap):
            base = getattr(base, "base", None)
        if base is not None:
            base.madvise(mmap.MADV_DONTNEED)
