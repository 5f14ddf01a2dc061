"""Measures what the connections of this gateway use, and reports it every second.

The connections of a gateway that is killed are closed by another one, with what their pods say.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from avatar_contracts import usage as pod_usage
from avatar_contracts.labels import THE_REST
from avatar_contracts.state import StateFault
from avatar_gateway import errors
from avatar_gateway.core import usage
from avatar_gateway.core.usage import (
    PLATFORM,
    UNKNOWN_CLASS,
    Account,
    Claim,
    PlacedConnection,
    Record,
)
from avatar_gateway.shared.resent import RESENT_S, Resent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from avatar_contracts.usage import SessionUsage
    from avatar_gateway.core.model import Pod
    from avatar_gateway.core.tenants import Principal
    from avatar_gateway.metrics import UsageMetrics
    from avatar_gateway.shared.state import SharedState
    from avatar_gateway.shared.usage_accounts import UsageAccounts
    from avatar_gateway.shared.usage_log import UsageLog

_log = logging.getLogger(__name__)

REPORT_S: Final = 1.0
"""How often figures are reported: what a gateway can lose that is killed together with a pod."""
ABANDONED_EVERY: Final = 30
"""Reports between two looks for records of gateways that have died."""
MAX_ABANDONED_CALLS: Final = 100
"""Calls for records of dead gateways at a time; each returns some of them."""
MAX_UNREPORTED: Final = 20_000
"""Closed records that are kept while the shared state is away; the log has the others."""
MAX_KNOWN_SESSIONS: Final = 8192
"""Sessions whose account is remembered for the figures of their pods."""
MAX_REJECTED: Final = 1000
"""Accounts whose rejections are counted apart; those of others count for `other`."""
UNSTARTED_S: Final = 30.0
"""Age of a placed connection that never began, whose record is closed then without figures."""
OTHER: Final = Account(THE_REST, THE_REST, UNKNOWN_CLASS)


def new_record() -> str:
    """Return an id for the record of a connection; no other one has it."""
    return f"conn_{secrets.token_hex(12)}"


class DirectReports(Protocol):
    """What follows the sessions without a gateway: `serving.direct_sessions` implements it."""

    def on_line(self, pod: Pod) -> None:
        """Take note that a pod was heard."""

    def begin(self, pod: Pod, session_id: str, placed: PlacedConnection) -> bool:
        """Count a session, and return whether its pod can have it."""

    def end(self, pod: Pod, session_id: str) -> None:
        """Count a session no more."""


@dataclass(slots=True, eq=False)
class Segment:
    """One connection of a session, through this gateway."""

    meter: Meter
    id: str
    account: Account
    pod: str
    is_new: bool
    """Whether it began the session, instead of continuing it."""
    count_bytes: Callable[[], tuple[int, int]]
    """Returns the bytes that went to the pod and to the caller."""
    started_s: float
    """Seconds since the epoch."""
    began: float
    """Seconds on the monotonic clock."""
    measured: float
    """When `gpu_ms` was brought up to date, seconds on the monotonic clock."""
    gpu_ms: float = 0.0
    ended_s: float | None = None
    figures: tuple[int, ...] = field(default=usage.NONE)

    def finish(self) -> None:
        """Stop to measure the connection."""
        self.meter.finish(self)


class Meter:
    """Knows the open segments, and what was not reported yet."""

    def __init__(
        self,
        state: SharedState,
        log: UsageLog,
        gateway: str,
        capacity_of: Callable[[str], int],
        now: Callable[[], float],
        time_s: Callable[[], float],
        metrics: UsageMetrics | None = None,
        accounts: UsageAccounts | None = None,
        direct: DirectReports | None = None,
    ) -> None:
        """Make a meter without segments.

        Args:
            state: gets the records.
            log: gets those that are closed.
            gateway: the name of this process.
            capacity_of: returns how many sessions a pod can have, 0 if it is not known.
            now: returns seconds on a monotonic clock.
            time_s: returns seconds since the epoch.
            metrics: gets what is new at each report.
            accounts: reads and makes what pods say of connections; `None` to do without.
            direct: gets the sessions that clients have opened at pods themselves.
        """
        self._state = state
        self._usage_log = log
        self._gateway = gateway
        self._capacity_of = capacity_of
        self._now = now
        self._time_s = time_s
        self._metrics = metrics
        self._open: set[Segment] = set()
        self._closed: list[Segment] = []
        self._unreported: list[Record] = []
        self._accounts: OrderedDict[str, Account] = OrderedDict()
        self._rejected: dict[Account, int] = {}
        self._rejected_before: dict[Account, int] = {}
        self._process = secrets.token_hex(12)
        self._of_pods: dict[str, Record] = {}
        self._placed: OrderedDict[str, tuple[float, Account]] = OrderedDict()
        self._texts = accounts
        self._direct = direct
        self._own: OrderedDict[str, None] = OrderedDict()
        self._claims: dict[str, Claim] = {}
        self._resent = Resent()
        self._server = ""
        self._reported_at = now()

    def place(self, tenant: str, service: str, pod: Pod, *, is_new: bool) -> tuple[str, str]:
        """Announce a connection to a pod.

        Returns:
            The id of its record for `start`, and the text for the pod, which may be empty.
        """
        record = new_record()
        if self._texts is None:
            return record, ""
        account = _account(tenant, service, pod.gpu_class)
        at_ms, capacity = round(self._time_s() * 1000), self._capacity_of(pod.key)
        placed = PlacedConnection(record, pod.uid, account, is_new, at_ms, capacity)
        self._placed[record] = self._now(), account
        self._own[record] = None
        _bound(self._placed, MAX_UNREPORTED)
        _bound(self._own, MAX_UNREPORTED)
        return record, self._texts.seal(placed)

    def offer(self, principal: Principal, service: str, pod: Pod, record: str) -> str:
        """Return the text for a client that connects to a pod itself; it may be empty.

        Its time counts when the pod has said that it ended, at most the limit of the tenant.
        `record` is what `new_record` has returned.
        """
        if self._texts is None:
            return ""
        longest_s = None if principal.tenant is None else principal.tenant.limits.session_s
        secret = principal.client_secret
        return self._texts.seal(
            PlacedConnection(
                record=record,
                pod_uid=pod.uid,
                account=_account(principal.tenant_name, service, pod.gpu_class),
                is_new=True,
                at_ms=round(self._time_s() * 1000),
                capacity=self._capacity_of(pod.key),
                is_direct=True,
                longest_ms=None if longest_s is None else longest_s * 1000,
                source=principal.source,
                secret_id="" if secret is None else secret.secret_id,
            )
        )

    def withdraw(self, record: str) -> None:
        """Forget a connection that its pod has refused."""
        self._placed.pop(record, None)

    def start(
        self,
        tenant: str,
        service: str,
        pod: str,
        gpu_class: str,
        session_id: str | None,
        *,
        is_new: bool,
        count_bytes: Callable[[], tuple[int, int]],
        record: str = "",
    ) -> Segment:
        """Begin to measure a connection; `record` is what `place` has returned for it."""
        account = _account(tenant, service, gpu_class)
        now = self._now()
        self._placed.pop(record, None)
        segment = Segment(
            self,
            record or new_record(), account, pod, is_new, count_bytes,
            self._time_s(), now, now,
        )  # fmt: skip
        self._open.add(segment)
        if session_id is not None:
            self._know(pod, session_id, account)
        return segment

    def finish(self, segment: Segment) -> None:
        """Stop to measure a connection."""
        if segment in self._open:
            self._measure(segment)
            segment.ended_s = self._time_s()
            self._open.discard(segment)
            self._closed.append(segment)

    def reject(self, tenant: str, service: str) -> None:
        """Count a caller that was refused."""
        account = Account(tenant or PLATFORM, service, UNKNOWN_CLASS)
        if account not in self._rejected and len(self._rejected) >= MAX_REJECTED:
            account = OTHER
        self._rejected[account] = self._rejected.get(account, 0) + 1
        if self._metrics is not None:
            self._metrics.add(account, usage.of(rejections=1))

    def on_line(self, pod: Pod, document: Mapping[str, Any], now: float) -> None:
        """Take a line of a pod's usage stream: figures of its sessions, which are its claims.

        Raises:
            StateError: the line is wrong.
        """
        del now
        found = pod_usage.parse_usage(document)
        if isinstance(found, StateFault):
            raise errors.StateError(found.key, found.value, found.limit)
        self._take_claims(pod, document)
        self._follow_direct(pod, found)
        for each in found:
            if each.ended and self._direct is not None:
                self._direct.end(pod, each.id)
            account = self._accounts.get(f"{pod.key} {each.id}")
            if account is None:  # of another gateway, or of nobody
                continue
            details = json.dumps({"pod": pod.key, "ended_s": round(self._time_s(), 3)})
            figures = usage.of(speech_ms=each.speech_ms, frames=each.frames)
            record_id = f"pod_{pod.uid}_{each.id}"
            self._of_pods[record_id] = Record(record_id, account, figures, each.ended, details)

    def _follow_direct(self, pod: Pod, sessions: Iterable[SessionUsage]) -> None:
        """Take which sessions without a gateway a pod has, and whom they count for."""
        if self._direct is None or self._texts is None:
            return
        self._direct.on_line(pod)
        for each in sessions:
            placed = self._texts.open(each.account) if each.account else None
            if placed is not None and self._direct.begin(pod, each.id, placed):
                self._know(pod.key, each.id, placed.account)

    def _know(self, pod: str, session_id: str, account: Account) -> None:
        self._accounts[f"{pod} {session_id}"] = account
        _bound(self._accounts, MAX_KNOWN_SESSIONS)

    def _take_claims(self, pod: Pod, document: Mapping[str, Any]) -> None:
        """Take what a pod says of connections that have ended; own ones are known better here."""
        found = pod_usage.parse_connections(document)
        if isinstance(found, StateFault):
            raise errors.StateError(found.key, found.value, found.limit)
        if self._texts is None:
            return
        now_ms = self._time_s() * 1000
        for each in found:
            placed = self._texts.open(each.account)
            if placed is None or placed.record in self._own:
                continue
            claim = usage.claim(placed, pod.uid, pod.key, each.connected_ms, now_ms)
            if claim is not None and len(self._claims) < MAX_UNREPORTED:
                self._claims[claim.record] = claim

    async def run(self) -> None:
        """Report until cancelled."""
        count = 0
        while True:
            await asyncio.sleep(REPORT_S)
            count += 1
            try:
                await self.report()
                if count % ABANDONED_EVERY == 0:
                    await self.close_abandoned()
            except Exception:
                # Whatever the server answers, the sessions of this gateway go on.
                _log.exception("usage not reported")

    async def report(self) -> None:
        """Write what is closed to the log, and report all figures."""
        for segment in self._open:
            self._measure(segment)
        # A record of a pod is not among those that a dead gateway leaves: it is always closed.
        of_pods, self._of_pods = list(self._of_pods.values()), {}
        closed = [self._record(segment) for segment in self._closed]
        self._closed.clear()
        self._usage_log.write([*closed, *(each for each in of_pods if each.is_closed)])
        of_pods = [Record(each.id, each.account, each.figures, True, "") for each in of_pods]
        new = [*self._unreported, *closed, *of_pods, *self._unstarted()]
        self._unreported = new[-MAX_UNREPORTED:]
        opened = [self._record(segment) for segment in self._open]
        rejected = dict(self._rejected)
        before = self._rejected_before
        changed = [key for key, count in rejected.items() if before.get(key) != count]
        claims: dict[str, Claim] = {}
        try:
            await self._repeat_after_restart()
            claims, self._claims = self._claims, {}  # pods go on to report others
            reported = [*self._unreported, *opened]
            reported += map(self._rejection_record, changed)
            await self._state.report_usage(reported)
            await self._state.claim_usage(list(claims.values()), self._time_s() * 1000)
        except errors.SharedStateUnavailable as error:
            _log.debug("usage not reported records=%d: %s", len(self._unreported), error)
            self._claims = claims | self._claims
            return
        self._reported_at = self._now()
        self._resent.add(self._reported_at, self._unreported, claims.values())
        self._unreported, self._rejected_before = [], rejected

    async def _repeat_after_restart(self) -> None:
        """Report again what was reported shortly before the server of the state has started.

        The client of the server connects again by itself, so no call has to fail then.
        """
        server = await self._state.server_id()
        if server != self._server:
            is_first, self._server = not self._server, server
            since = self._reported_at - RESENT_S  # there may have been no server for long
            records, claims = ([], []) if is_first else self._resent.since(since)
            self._unreported = [*records, *self._unreported][-MAX_UNREPORTED:]
            self._claims = {claim.record: claim for claim in claims} | self._claims

    def _unstarted(self) -> list[Record]:
        """Return records without figures for connections that were placed and never began.

        A pod may have had such a connection for a moment, and would claim it.
        """
        late, found = self._now() - UNSTARTED_S, []
        while self._placed:
            record, (at, account) = next(iter(self._placed.items()))
            if at > late:
                break
            del self._placed[record]
            found.append(Record(record, account, usage.NONE, is_closed=True))
        return found

    async def close(self) -> None:
        """Report everything for the last time."""
        await self.report()
        self._usage_log.write(map(self._rejection_record, self._rejected))

    async def close_abandoned(self) -> None:
        """Write the records of gateways that have died, and of direct sessions, to the log."""
        for _ in range(MAX_ABANDONED_CALLS):
            try:
                found = await self._state.close_abandoned()
            except errors.SharedStateUnavailable:
                return
            if not found:
                return
            self._usage_log.write(found)
            self._count_direct(found)
            _log.info(
                "usage of other gateways and of direct sessions closed records=%d", len(found)
            )

    def _count_direct(self, records: Iterable[Record]) -> None:
        """Add direct sessions to the metrics; a gateway that died had its own ones there."""
        if self._metrics is None:
            return
        for each in records:
            if json.loads(each.details or "{}").get(usage.DIRECT):
                self._metrics.add(each.account, each.figures)

    def _measure(self, segment: Segment) -> None:
        """Bring the figures of an open segment up to date."""
        now = self._now()
        capacity = self._capacity_of(segment.pod)
        segment.gpu_ms += (now - segment.measured) * 1000 / max(1, capacity)
        segment.measured = now
        to_pod, to_caller = segment.count_bytes()
        figures = usage.of(
            sessions=int(segment.is_new),
            session_ms=round((now - segment.began) * 1000),
            gpu_ms=round(segment.gpu_ms),
            bytes_in=to_pod,
            bytes_out=to_caller,
        )
        if self._metrics is not None:
            self._metrics.add(segment.account, usage.growth(segment.figures, figures))
        segment.figures = figures

    def _record(self, segment: Segment) -> Record:
        is_closed = segment.ended_s is not None
        details: dict[str, Any] = {
            "pod": segment.pod,
            "gateway": self._gateway,
            "started_s": round(segment.started_s, 3),
            "ended_s": round(segment.ended_s or self._time_s(), 3),
        }
        text = json.dumps(details, separators=(",", ":"))
        return Record(segment.id, segment.account, segment.figures, is_closed, text)

    def _rejection_record(self, account: Account) -> Record:
        """Return the count of rejections, which grows as long as this process lives."""
        record_id = f"rejected_{self._process}_{account.tenant}_{account.service}"
        details = json.dumps({"gateway": self._gateway, "ended_s": round(self._time_s(), 3)})
        figures = usage.of(rejections=self._rejected[account])
        return Record(record_id, account, figures, is_closed=True, details=details)


def _account(tenant: str, service: str, gpu_class: str) -> Account:
    return Account(tenant or PLATFORM, service, gpu_class or UNKNOWN_CLASS)


def _bound(known: OrderedDict[str, Any], limit: int) -> None:
    """Forget the oldest entries beyond a limit."""
    while len(known) > limit:
        known.popitem(last=False)
