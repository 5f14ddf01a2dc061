"""The lines of the usage stream of a runtime pod: what its sessions have used.

A pod serves `labels.USAGE_PATH` on its administration port. With `?watch=1` it sends one JSON
object a line: the sessions whose figures have changed, at most every `LINE_SPACING_S`, and an empty
list at least every `LINE_AGE_S`. The first line has all sessions, and those that ended within
`KEPT_S`. The figures of a session only grow, so that a line that is lost or repeated does no harm.

A line also has the connections from gateways that have ended, and how long each of them was there,
so that the time of a gateway that was killed is known. The gateway gave each connection a text that
only gateways can read (`labels.USAGE_HEADER`); the pod returns it as it is.

A session that a client has opened without a gateway (`direct_tokens`) has such a text, too. The pod
sends it with the first figures of the session in each stream, so that every gateway knows whom the
session counts for while it lives.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NotRequired, TypedDict

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
"""Sessions in one line that a reader accepts, at most."""
SESSIONS_A_LINE: Final = 150
ACCOUNTS_A_LINE: Final = 40
"""What a pod sends in one line, at most, so that it is shorter than `documents.MAX_LINE_BYTES`;
the others follow in the next one. Ended connections and direct sessions have one account each."""
MAX_CONNECTIONS: Final = 100
"""Connections in one line that a reader accepts, at most."""
MAX_ACCOUNT: Final = 1024
"""Characters of the text by which gateways know a connection, at most."""
READ_RATE: Final = Rate(frames_per_s=2 / LINE_SPACING_S, bytes_per_s=1 << 16)
"""How fast the stream of a pod is read. The author of a service chooses what its pods send."""
_HIGHEST: Final = 10**12
_ID: Final = re.compile(r"sess_[0-9a-f]{24}")
_ACCOUNT: Final = re.compile(f"[A-Za-z0-9_=-]{{1,{MAX_ACCOUNT}}}")


class SessionUsageDocument(TypedDict):
    """What one session has used on a pod."""

    id: str
    frames: int
    """Frames of responses that were sent to the client."""
    speech_ms: int
    """Sound of responses that was sent to the client, milliseconds."""
    ended: bool
    account: NotRequired[str]
    """The text in the one-time token of a direct session; only where a stream has it first."""


class ConnectionUsageDocument(TypedDict):
    """How long a connection from a gateway was there; it has ended."""

    account: str
    """What the gateway sent in `labels.USAGE_HEADER`."""
    connected_ms: int


class UsageDocument(TypedDict):
    """One line of the stream."""

    pod: str
    sessions: Sequence[SessionUsageDocument]
    connections: Sequence[ConnectionUsageDocument]


@dataclass(frozen=True, slots=True)
class SessionUsage:
    """What one session has used on a pod, as the pod reports it."""

    id: str
    frames: int
    speech_ms: int
    ended: bool
    account: str = ""
    """What gateways know a direct session by; empty for others, and after the first time."""


@dataclass(frozen=True, slots=True)
class ConnectionUsage:
    """How long a connection was there, as the pod reports it."""

    account: str
    connected_ms: int


def parse_account(text: str) -> str:
    """Return the text by which gateways know a connection; empty for everything else."""
    return text if _ACCOUNT.fullmatch(text) else ""


def parse_connections(document: Mapping[str, object]) -> Sequence[ConnectionUsage] | StateFault:
    """Return the connections in a line of a pod, or the first fault; older pods report none."""
    connections = document.get("connections", [])
    if not isinstance(connections, list) or len(connections) > MAX_CONNECTIONS:
        value = len(connections) if isinstance(connections, list) else connections
        return StateFault("connections", value, f"a list of at most {MAX_CONNECTIONS} connections")
    parsed: list[ConnectionUsage] = []
    for index, each in enumerate(connections):
        name = f"connections[{index}]"
        if not isinstance(each, dict):
            return StateFault(name, type(each).__name__, "an object")
        account = _account(each.get("account"), name)
        if isinstance(account, StateFault):
            return account
        found = _count(each, name, "connected_ms")
        if isinstance(found, StateFault):
            return found
        parsed.append(ConnectionUsage(account, found))
    return parsed


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
        count = _count(value, name, key)
        if isinstance(count, StateFault):
            return count
        counts[key] = count
    account = _account(value["account"], name) if "account" in value else ""
    if isinstance(account, StateFault):
        return account
    return SessionUsage(session_id, counts["frames"], counts["speech_ms"], ended, account)


def _account(value: object, name: str) -> str | StateFault:
    if isinstance(value, str) and parse_account(value):
        return value
    limit = f"1 to {MAX_ACCOUNT} characters of base64url"
    return StateFault(f"{name}.account", value, limit)


def _count(fields: Mapping[str, object], name: str, key: str) -> int | StateFault:
    count = fields.get(key)
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= _HIGHEST:
        return StateFault(f"{name}.{key}", count, f"a whole number, 0 to {_HIGHEST}")
    return count
