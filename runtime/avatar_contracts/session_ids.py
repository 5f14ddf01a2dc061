"""The ids of sessions, which name the pod: any gateway finds the pod of a session without a table.

An id is `sess_`, eight hexadecimal digits that stand for the pod, and sixteen random ones.
"""

from __future__ import annotations

import hashlib
import re
from secrets import token_hex
from typing import Final

_TAG_DIGITS: Final = 8
_ID: Final = re.compile(r"sess_([0-9a-f]{8})[0-9a-f]{16}")


def new(pod: str) -> str:
    """Return the id of a new session of a pod; `pod` is its name, empty outside a cluster."""
    return f"sess_{_tag(pod)}{token_hex(8)}"


def parse(text: str | None) -> str | None:
    """Return the id of a session, or `None` for everything else."""
    return text if text is not None and _ID.fullmatch(text) else None


def belongs_to(session_id: str, pod: str) -> bool:
    """Return whether the id of a session stands for a pod; two pods may share the digits."""
    match = _ID.fullmatch(session_id)
    return match is not None and match[1] == _tag(pod)


def _tag(pod: str) -> str:
    return hashlib.sha256(pod.encode()).hexdigest()[:_TAG_DIGITS]
