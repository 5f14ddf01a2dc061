"""How long this process has run: the part of a start before any of its own code is measured."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_STAT: Final = Path("/proc/self/stat")
_UPTIME: Final = Path("/proc/uptime")
_STARTED: Final = 19  # field 22 of proc_pid_stat(5), counted from the state behind the name


def seconds(stat: Path = _STAT, uptime: Path = _UPTIME) -> float | None:
    """Return the seconds since the process began; None if the system does not say.

    The time includes that of what the process was before it replaced itself (`exec`).
    """
    try:
        # The name of the process may contain anything, a parenthesis as well.
        fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        began_s = int(fields[_STARTED]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, float(uptime.read_text(encoding="ascii").split()[0]) - began_s)
    except (OSError, ValueError, IndexError):
        return None
