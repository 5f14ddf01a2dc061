"""Reports what the sessions of this pod have used: docs/architecture.md, "State and control"."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol

from avatar_contracts import usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from avatar_contracts.usage import SessionUsageDocument
    from avatar_runtime.serving.changes import ChangeNotifier


class Metered(Protocol):
    """A session with its figures: `LiveSession` implements it."""

    @property
    def usage(self) -> SessionUsageDocument:
        """What it has used on this pod so far."""


class Stopping(Protocol):
    """What a stream needs to know of the runtime: `Runtime` implements it."""

    stopping: bool
    changes: ChangeNotifier
    usage: UsageReports

    def clock(self) -> float:
        """Return the time, monotonic seconds."""


class UsageReports:
    """The figures of the sessions of a pod, and of those that ended a short time ago."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._live: dict[str, Metered] = {}
        self._ended: OrderedDict[str, tuple[float, SessionUsageDocument]] = OrderedDict()

    def add(self, session_id: str, session: Metered) -> None:
        """Report a session from now on."""
        self._live[session_id] = session

    def remove(self, session_id: str) -> None:
        """Keep the last figures of a session that has ended, for a while."""
        session = self._live.pop(session_id)
        self._ended[session_id] = self._clock(), {**session.usage, "ended": True}
        oldest = self._clock() - usage.KEPT_S
        while self._ended:
            ended_at, _ = next(iter(self._ended.values()))
            if ended_at >= oldest and len(self._ended) <= usage.MAX_KEPT:
                return
            self._ended.popitem(last=False)

    def documents(self) -> Iterator[SessionUsageDocument]:
        """Yield the figures of all sessions, the ended ones first."""
        yield from (document for _, document in self._ended.values())
        yield from (session.usage for session in self._live.values())


class UsageWatcher:
    """What one reader of the stream has been told."""

    def __init__(self, reports: UsageReports) -> None:
        self._reports = reports
        self._told: dict[str, SessionUsageDocument] = {}

    def next_changes(self) -> list[SessionUsageDocument]:
        """Return the figures that have changed since the last call."""
        current = {document["id"]: document for document in self._reports.documents()}
        changed = [each for key, each in current.items() if self._told.get(key) != each]
        del changed[usage.MAX_SESSIONS :]
        self._told = {key: told for key, told in self._told.items() if key in current}
        self._told |= {document["id"]: document for document in changed}
        return changed


async def lines(runtime: Stopping, pod: str) -> AsyncIterator[bytes]:
    """Yield a line for each change, at most one in `LINE_SPACING_S`, until the runtime stops."""
    watcher = UsageWatcher(runtime.usage)
    sent_at = -math.inf
    while True:
        now, changed = runtime.clock(), watcher.next_changes()
        if changed or now - sent_at >= usage.LINE_AGE_S:
            sent_at = now
            yield encode(pod, changed)
        while runtime.clock() < now + usage.LINE_SPACING_S:
            if runtime.stopping:
                return
            left_s = now + usage.LINE_SPACING_S - runtime.clock()
            await runtime.changes.wait(runtime.changes.count, left_s)


def encode(pod: str, sessions: Sequence[SessionUsageDocument]) -> bytes:
    """Return one line of the stream."""
    document: usage.UsageDocument = {"pod": pod, "sessions": sessions}
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"
