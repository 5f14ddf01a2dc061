"""Memory of the process on the CPU: what it uses, and how the allocator keeps it."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Final

from avatar_runtime.engine.device import Memory

# Parameters of mallopt(3) in glibc. By default a large tensor is a memory mapping of its own and
# the end of the heap is returned to the kernel at once, so that every step of a batch causes page
# faults again: a thousand per frame, a tenth of its time.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES: Final = 512 << 20
_HEAP_BYTES: Final = 32 << 20  # the maximum that mallopt accepts


def keep_freed() -> None:
    """Let the allocator keep freed memory for the next batch. Only glibc has this setting."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _HEAP_BYTES)


def read() -> Memory:
    """Return the resident memory of this process, and the memory of the machine."""
    page = os.sysconf("SC_PAGE_SIZE")
    resident = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return Memory(resident * page, os.sysconf("SC_PHYS_PAGES") * page)
