"""The lines of the usage stream of a runtime pod: what its sessions have used.

A pod serves `labels.USAGE_PATH` on its administration port. With `?watch=1` it sends one JSON
object a line: the sessions whose figures have changed, at most every `LINE_SPACING_S`, and an empty
list at least every `LINE_AGE_S`. The first line has all sessions, and those that ended within
`KEPT_S`. The figures of a session only grow, so that a line that is lost or repeated does no harm.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypedDict

from avatar_contracts.rate_limit import Rate
from avatar_contracts.state import StateFault

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LINE_SPACING_S: Final = 1.0
LINE_AGE_S: Final = 5.0
KEPT_S: Final = 120.0
"""How long the figures of an ended session are reported to those who begin to read."""
MAX_KEPT: Final = 4096
"""Ended sessions that are kept, at most."""
MAX_SESSIONS: Final = 1000
"""Sessions in one line, at most; the others follow in the next one."""
READ_RATE: Final = Rate(frames_per_s=2 / LINE_SPACING_S, bytes_per_s=1 << 16)
"""How fast the stream of a pod is read. The author of a service chooses what its pods send."""
_HIGHEST: Final = 10**12
_ID: Final = re.compile(r"sess_[0-9a-f]{24}")


class SessionUsageDocument(TypedDict):
    """What one session has used on a pod."""

    id: str
    frames: int
    """Frames of responses that were sent to the client."""
    speech_ms: int
    """Sound of responses that was sent to the client, milliseconds."""
    ended: bool


class UsageDocument(TypedDict):
    """One line of the stream."""

    pod: str
    sessions: Sequence[SessionUsageDocument]


@dataclass(frozen=True, slots=True)
class SessionUsage:
    """What one session has used on a pod, as the pod reports it."""

    id: str
    frames: int
    speech_ms: int
    ended: bool


def parse_usage(document: Mapping[str, object]) -> Sequence[SessionUsage] | StateFault:
    """Return the sessions in a line of a pod, or the first fault of it."""
    sessions = document.get("sessions")
    if not isinstance(sessions, list) or len(sessions) > MAX_SESSIONS:
        value = len(sessions) if isinstance(sessions, list) else sessions
        return StateFault("sessions", value, f"a list of at most {MAX_SESSIONS} sessions")
    parsed: list[SessionUsage] = []
    for index, each in enumerate(sessions):
        found = _session(each, f"sessions[{index}]")
        if isinstance(found, StateFault):
            return found
        parsed.append(found)
    return parsed


def _session(value: object, name: str) -> SessionUsage | StateFault:
    if not isinstance(value, dict):
        return StateFault(name, type(value).__name__, "an object")
    session_id, ended = value.get("id"), value.get("ended")
    if not isinstance(session_id, str) or not _ID.fullmatch(session_id):
        return StateFault(f"{name}.id", session_id, "sess_ and 24 hexadecimal digits")
    if not isinstance(ended, bool):
        return StateFault(f"{name}.ended", ended, "true or false")
    counts = {}
    for key in ("frames", "speech_ms"):
        count = value.get(key)
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= _HIGHEST:
            return StateFault(f"{name}.{key}", count, f"a whole number, 0 to {_HIGHEST}")
        counts[key] = count
    return SessionUsage(session_id, counts["frames"], counts["speech_ms"], ended)
