"""Reports what the sessions of this pod have used: docs/architecture.md, "State and control"."""

from __future__ import annotations

import json
import math
from collections import OrderedDict, deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from avatar_contracts import usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from avatar_contracts.usage import ConnectionUsageDocument, SessionUsageDocument
    from avatar_runtime.serving.changes import ChangeNotifier


class Metered(Protocol):
    """A session with its figures: `LiveSession` implements it."""

    @property
    def usage(self) -> SessionUsageDocument:
        """What it has used on this pod so far."""

    @property
    def account(self) -> str:
        """What gateways know a direct session by; empty for a session from a gateway."""


class Stopping(Protocol):
    """What a stream needs to know of the runtime: `Runtime` implements it."""

    stopping: bool
    changes: ChangeNotifier
    usage: UsageReports

    def clock(self) -> float:
        """Return the time, monotonic seconds."""


@dataclass(frozen=True, slots=True)
class _EndedSession:
    at: float
    usage: SessionUsageDocument
    account: str


@dataclass(frozen=True, slots=True)
class _EndedConnection:
    number: int
    """Connections that have ended before it on this pod."""
    at: float
    document: ConnectionUsageDocument


class UsageReports:
    """The figures of the sessions of a pod, and of those that ended a short time ago."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._live: dict[str, Metered] = {}
        self._ended: OrderedDict[str, _EndedSession] = OrderedDict()
        self._connections: deque[_EndedConnection] = deque(maxlen=usage.MAX_KEPT)
        self._ended_connections = 0

    @contextmanager
    def connected(self, account: str) -> Iterator[None]:
        """Measure a connection that a gateway knows by `account`; nothing if that is empty."""
        began = self._clock()
        try:
            yield
        finally:
            if account:
                self._end_connection(account, began)

    def _end_connection(self, account: str, began: float) -> None:
        now = self._clock()
        while self._connections and self._connections[0].at < now - usage.KEPT_S:
            self._connections.popleft()
        document: ConnectionUsageDocument = {
            "account": account,
            "connected_ms": round((now - began) * 1000),
        }
        self._connections.append(_EndedConnection(self._ended_connections, now, document))
        self._ended_connections += 1

    def connections(self, since: int = 0) -> list[tuple[int, ConnectionUsageDocument]]:
        """Return the connections that have ended, with their numbers, from number `since` on."""
        found = []
        for each in reversed(self._connections):
            if each.number < since:
                break
            found.append((each.number, each.document))
        return found[::-1]

    def add(self, session_id: str, session: Metered) -> None:
        """Report a session from now on."""
        self._live[session_id] = session

    def account(self, session_id: str) -> str:
        """Return what gateways know a direct session by; empty for other sessions."""
        found = self._live.get(session_id) or self._ended.get(session_id)
        return "" if found is None else found.account

    def remove(self, session_id: str) -> None:
        """Keep the last figures of a session that has ended, for a while."""
        session = self._live.pop(session_id)
        document: SessionUsageDocument = {**session.usage, "ended": True}
        self._ended[session_id] = _EndedSession(self._clock(), document, session.account)
        oldest = self._clock() - usage.KEPT_S
        while self._ended:
            first = next(iter(self._ended.values()))
            if first.at >= oldest and len(self._ended) <= usage.MAX_KEPT:
                return
            self._ended.popitem(last=False)

    def documents(self) -> Iterator[SessionUsageDocument]:
        """Yield the figures of all sessions, the ended ones first."""
        yield from (session.usage for session in self._ended.values())
        yield from (session.usage for session in self._live.values())


class UsageWatcher:
    """What one reader of the stream has been told."""

    def __init__(self, reports: UsageReports) -> None:
        self._reports = reports
        self._told: dict[str, SessionUsageDocument] = {}
        self._next_connection = 0
        self._accounts_left = usage.ACCOUNTS_A_LINE
        """How many more accounts the present line can have."""

    def next_changes(self) -> list[SessionUsageDocument]:
        """Return the figures that have changed since the last call."""
        current = {document["id"]: document for document in self._reports.documents()}
        self._told = {key: told for key, told in self._told.items() if key in current}
        changed: list[SessionUsageDocument] = []
        accounts = usage.ACCOUNTS_A_LINE
        for key, document in current.items():
            told = self._told.get(key)
            if told == document:
                continue
            account = self._reports.account(key) if told is None else ""
            if len(changed) == usage.SESSIONS_A_LINE or (account and not accounts):
                break
            accounts -= bool(account)
            self._told[key] = document
            changed.append({**document, "account": account} if account else document)
        self._accounts_left = accounts
        return changed

    def next_connections(self) -> list[ConnectionUsageDocument]:
        """Return connections that have ended since the last call.

        Called after `next_changes`, whose accounts are in the same line.
        """
        found = self._reports.connections(self._next_connection)[: self._accounts_left]
        if found:
            self._next_connection = found[-1][0] + 1
        return [document for _, document in found]


async def lines(runtime: Stopping, pod: str) -> AsyncIterator[bytes]:
    """Yield a line for each change, at most one in `LINE_SPACING_S`, until the runtime stops."""
    watcher = UsageWatcher(runtime.usage)
    sent_at = -math.inf
    while True:
        now, changed = runtime.clock(), watcher.next_changes()
        connections = watcher.next_connections()
        if changed or connections or now - sent_at >= usage.LINE_AGE_S:
            sent_at = now
            yield encode(pod, changed, connections)
        while runtime.clock() < now + usage.LINE_SPACING_S:
            if runtime.stopping:
                return
            left_s = now + usage.LINE_SPACING_S - runtime.clock()
            await runtime.changes.wait(runtime.changes.count, left_s)


def encode(
    pod: str,
    sessions: Sequence[SessionUsageDocument],
    connections: Sequence[ConnectionUsageDocument],
) -> bytes:
    """Return one line of the stream."""
    document: usage.UsageDocument = {
        "pod": pod,
        "sessions": sessions,
        "connections": connections,
    }
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"
