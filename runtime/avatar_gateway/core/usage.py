"""What tenants have used: records whose figures only grow, and totals by the hour.

Each connection of a session has a record, with an id that no other one has. Its figures are those
since its start, so that a report that is repeated, late or lost counts nothing twice: the totals
get the difference to what was counted before. The scripts of `avatar_gateway.shared` do the same.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from avatar_gateway.core import tenants

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from avatar_gateway.core.tenants import Credential

FIGURES: Final = (
    "sessions",
    "session_ms",
    "gpu_ms",
    "bytes_in",
    "bytes_out",
    "speech_ms",
    "frames",
    "rejections",
)
"""The figures of a record, in this order. `bytes_in` go to the pod, `bytes_out` to the caller."""
NONE: Final = (0,) * len(FIGURES)
HOUR_MS: Final = 3_600_000
PLATFORM: Final = "-"
"""The tenant of sessions with an API key of the platform; no tenant can have this name."""
UNKNOWN_CLASS: Final = "-"
"""The GPU class of rejections, and of pods without a class."""
ALL: Final = "(total)"
"""The tenant of a row of sums; no object can have this name."""
DIRECT: Final = "direct"
"""The field of the details that says that no gateway has measured the session."""
HIGHEST: Final = 2**53
"""Figures are whole numbers up to this one, which Lua can represent."""


@dataclass(frozen=True, slots=True)
class Account:
    """Who used what."""

    tenant: str
    service: str
    gpu_class: str


@dataclass(frozen=True, slots=True)
class Record:
    """What one connection, session or counter has used since its start."""

    id: str
    account: Account
    figures: tuple[int, ...]
    """Those of `FIGURES`, cumulative."""
    is_closed: bool = False
    """Whether the figures grow no more."""
    details: str = ""
    """JSON of further fields of the usage log."""


@dataclass(frozen=True, slots=True)
class PlacedConnection:
    """What is known of a connection to a pod before it begins."""

    record: str
    """The id of its record."""
    pod_uid: str
    account: Account
    is_new: bool
    """Whether it begins a session, instead of continuing one."""
    at_ms: int
    """When it was placed, milliseconds since the epoch."""
    capacity: int
    """Sessions that the pod could have then; 0 if that was not known."""
    is_direct: bool = False
    """Whether the client connects to the pod itself, so that no gateway measures it."""
    longest_ms: int | None = None
    """The limit of the tenant; None without one."""
    source: Credential = tenants.PLATFORM_KEY
    """The credential that opened a direct session, without its holder."""
    secret_id: str = ""
    """The client secret that opened it; empty without one."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a pod says of a connection that has ended.

    It counts only if no gateway knows better: that of the connection has died, or there was none.
    """

    record: str
    account: Account
    figures: tuple[int, ...]
    at_ms: int
    """When the connection was placed, milliseconds since the epoch."""
    details: str
    """JSON of further fields of the usage log."""
    is_direct: bool = False
    """Whether the client was connected to the pod itself."""

    def as_record(self) -> Record:
        """Return the record of a connection that no gateway has reported."""
        return Record(self.record, self.account, self.figures, True, self.details)


@dataclass(frozen=True, slots=True)
class HourTotal:
    """What an account has used within an hour."""

    hour: int
    """Hours since the epoch."""
    account: Account
    figures: tuple[int, ...]


def of(**figures: int) -> tuple[int, ...]:
    """Return figures by their names; those that are not given are 0."""
    return tuple(figures.get(name, 0) for name in FIGURES)


def claim(
    placed: PlacedConnection, pod_uid: str, pod: str, connected_ms: int, now_ms: float
) -> Claim | None:
    """Return what a pod may claim for a connection; `None` for one of another pod.

    A connection is not longer than the time since it was placed, nor than the limit of its tenant,
    whatever the pod says.
    """
    if placed.pod_uid != pod_uid:
        return None
    longest_ms = int(now_ms) - placed.at_ms
    if placed.longest_ms is not None:
        longest_ms = min(longest_ms, placed.longest_ms)
    session_ms = max(0, min(connected_ms, longest_ms))
    figures = of(
        sessions=int(placed.is_new),
        session_ms=session_ms,
        gpu_ms=round(session_ms / max(1, placed.capacity)),
    )
    ended_s = round((placed.at_ms + session_ms) / 1000, 3)
    details = {"pod": pod, "started_s": round(placed.at_ms / 1000, 3), "ended_s": ended_s}
    details |= {DIRECT: True} if placed.is_direct else {}
    text = json.dumps(details, separators=(",", ":"))
    return Claim(placed.record, placed.account, figures, placed.at_ms, text, placed.is_direct)


def added(left: Sequence[int], right: Sequence[int]) -> tuple[int, ...]:
    """Return the sums of figures."""
    return tuple(a + b for a, b in zip(left, right, strict=True))


def growth(known: Sequence[int], reported: Sequence[int]) -> tuple[int, ...]:
    """Return what is new in cumulative figures."""
    return tuple(max(0, new - old) for old, new in zip(known, reported, strict=True))


@dataclass
class Ledger:
    """Records and totals in memory. Times are milliseconds since the epoch."""

    totals: dict[tuple[int, Account], tuple[int, ...]] = field(default_factory=dict)
    months: dict[tuple[str, int], int] = field(default_factory=dict)
    """Milliseconds of sessions, by tenant and month: its year times 100 and its number."""
    _known: dict[str, tuple[tuple[int, ...], bool, float]] = field(default_factory=dict)

    def report(self, records: Iterable[Record], now_ms: float, month: int) -> None:
        """Count what is new in records."""
        for record in records:
            before, was_closed, _ = self._known.get(record.id, (NONE, False, 0.0))
            new = growth(before, record.figures)
            key = (int(now_ms // HOUR_MS), record.account)
            self.totals[key] = added(self.totals.get(key, NONE), new)
            if session_ms := new[FIGURES.index("session_ms")]:
                self._add_to_month(record.account.tenant, month, session_ms)
            # An older report may come late: figures only grow.
            is_closed = was_closed or record.is_closed
            self._known[record.id] = (added(before, new), is_closed, now_ms)

    def _add_to_month(self, tenant: str, month: int, session_ms: int) -> None:
        if tenant != PLATFORM:
            self.months[tenant, month] = self.months.get((tenant, month), 0) + session_ms

    def forget(self, before_ms: float) -> None:
        """Forget closed records that were not reported since a time."""
        for key, (_, is_closed, at) in list(self._known.items()):
            if is_closed and at < before_ms:
                del self._known[key]

    def usage(self, since: int, until: int) -> list[HourTotal]:
        """Return the totals of the hours from `since` to before `until`."""
        return [
            HourTotal(hour, account, figures)
            for (hour, account), figures in self.totals.items()
            if since <= hour < until
        ]


def sums(totals: Iterable[HourTotal]) -> Mapping[Account, tuple[int, ...]]:
    """Return the totals of each account, over all hours."""
    result: dict[Account, tuple[int, ...]] = {}
    for each in totals:
        result[each.account] = added(result.get(each.account, NONE), each.figures)
    return result
