"""The number of file descriptors that a process may open."""

from __future__ import annotations

import resource
from typing import Final

_MOST: Final = 1 << 20
"""Used if the hard limit is infinite."""


def raise_limit() -> int:
    """Raise the limit of this process to its hard limit, and return it.

    Many systems start processes with a soft limit of 1,024 and a much higher hard limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else hard
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return soft
    return wanted
