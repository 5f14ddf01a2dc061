"""The line of a container's log that says why it ended."""

from __future__ import annotations

import re
from typing import Final

_FRAME: Final = re.compile(r"[|+\s-]*(?:\d+ -+)?")
"""What Python prints around each line of an exception group, alone in a line."""


def last_line(text: str) -> str:
    """Return the last line that says something, "" if there is none.

    The lines of an exception group are in a frame, which ends with a line of its own.
    """
    for line in reversed(text.splitlines()):
        found = line.strip()
        if found.startswith(("|", "+")):
            if _FRAME.fullmatch(found):
                continue
            found = found.lstrip("|+ ")
        if found:
            return found
    return ""
