"""Wins and keeps the Lease that lets this process write, and gives it back at the end.

What to ask for is decided in `core.leading`; here are the requests, the watch of
the Lease and the clock. Each replica watches: a standby hears at once that the
Lease was released, and for all of them its renewals are a heartbeat that shows
that news of the API server still arrives.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from avatar_operator import metrics
from avatar_operator.core import leader_election
from avatar_operator.errors import ClusterError, Conflict, NotFound
from avatar_operator.fence import Fence, clock

if TYPE_CHECKING:
    from collections.abc import Callable

    from avatar_operator.core.resources.fields import Body
    from avatar_operator.kube import client

SILENCE_S: Final = 70.0  # a watch that is silent longer is opened again
REWATCH_S: Final = 0.5
EMPTY_S: Final = 0.5  # for the action in hand, when this process is told to stop

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LeaseName:
    """Where the Lease is."""

    namespace: str
    name: str


class Leadership:
    """The owner of the fence, and this process's candidacy for the Lease."""

    def __init__(
        self,
        api: client.Cluster,
        fence: Fence,
        lease: LeaseName,
        identity: str,
        timing: leader_election.Timing,
        changed: Callable[[int | None], None],
    ) -> None:
        """`changed` is called with the epoch when this process begins to lead, None at the end."""
        self._api = api
        self._fence = fence
        self._lease = lease
        self._candidate = leader_election.Candidate(identity, timing)
        self._led = False
        self._news = asyncio.Event()
        self._campaign: asyncio.Task[None] | None = None
        self._heard_at = clock()
        self._changed = changed

    def heard_s(self) -> float:
        """Return the seconds since anything was heard of the Lease, be it a failure."""
        return clock() - self._heard_at

    async def run(self) -> None:
        """Watch the Lease and stand for it until cancelled or resigned."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch_forever(), name="watch of the Lease")
            self._campaign = tasks.create_task(self._campaign_forever(), name="campaign")

    async def resign(self) -> None:
        """Write nothing any more, and let a standby take over at once."""
        self._candidate = self._candidate.stopped()
        self._settle()
        if self._campaign is not None:
            self._campaign.cancel()
            await asyncio.wait({self._campaign})
        try:
            async with asyncio.timeout(EMPTY_S):
                await self._fence.emptied()
            if self._candidate.record is not None:
                await self._release()
        except (TimeoutError, ClusterError) as error:
            # Others wait the Lease out: slower, and as safe.
            _log.warning("the Lease was not released fault=%s", error or "a write is under way")

    async def _release(self) -> None:
        """Empty the Lease, if it is ours; one more try if our last renewal was not heard of."""
        for _ in range(2):
            bid = self._candidate.release()
            if bid is None:
                return
            try:
                await self._write(bid)
            except Conflict:
                await self._read()
            else:
                _log.info("the Lease is released epoch=%d", bid.transitions)
                return

    async def _campaign_forever(self) -> None:
        await self._read_quietly()
        while True:
            jitter = random.random()
            while (wait_s := self._candidate.next_at(jitter) - clock()) > 0:
                self._settle()
                await self._pause(wait_s)
            bid = self._candidate.bid(clock())
            if bid is not None:
                await self._try(bid)
                self._settle()

    async def _pause(self, wait_s: float) -> None:
        """Wait, but no longer than until something is heard of the Lease."""
        self._news.clear()
        try:
            async with asyncio.timeout(wait_s):
                await self._news.wait()
        except TimeoutError:
            pass

    async def _try(self, bid: leader_election.Bid) -> None:
        asked_at = clock()
        self._candidate = self._candidate.asked(asked_at)
        try:
            record = await self._write(bid)
        except (Conflict, NotFound):
            await self._read_quietly()
        except ClusterError as error:
            _log.warning("the Lease was not written step=%s fault=%s", bid.step.value, error)
        else:
            self._candidate = self._candidate.won(record, asked_at, clock())
        self._heard_at = clock()

    async def _write(self, bid: leader_election.Bid) -> leader_election.Record:
        # For people, and to differ from the last: nobody compares it with a clock.
        now = datetime.datetime.fromtimestamp(time.time(), datetime.UTC)
        stamp = now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        old = self._candidate.record
        renews = bid.step is leader_election.Step.RENEW and old is not None
        body: Body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": self._metadata(bid),
            "spec": {
                "holderIdentity": bid.holder,
                "leaseDurationSeconds": self._candidate.timing.duration_s,
                "leaseTransitions": bid.transitions,
                "acquireTime": (old.acquired if renews and old else "") or stamp,
                "renewTime": stamp,
            },
        }
        timeout_s = self._candidate.timing.request_timeout_s
        return leader_election.parse(await self._api.write_lease(body, timeout_s))

    def _metadata(self, bid: leader_election.Bid) -> Body:
        metadata: Body = {"name": self._lease.name, "namespace": self._lease.namespace}
        if bid.version is not None:
            metadata["resourceVersion"] = str(bid.version)
        return metadata

    async def _read_quietly(self) -> None:
        try:
            await self._read()
        except ClusterError as error:
            _log.warning("the Lease was not read fault=%s", error)

    async def _read(self) -> None:
        place, timeout_s = self._lease, self._candidate.timing.request_timeout_s
        try:
            body = await self._api.read_lease(place.namespace, place.name, timeout_s)
        except NotFound:
            self._candidate = self._candidate.miss()
        else:
            self._candidate = self._candidate.see(leader_election.parse(body), clock())

    async def _watch_forever(self) -> None:
        while True:
            try:
                place = self._lease
                async for kind, body in self._api.watch_lease(
                    place.namespace, place.name, SILENCE_S
                ):
                    self._hear(kind, body)
                fault: ClusterError | None = None
            except ClusterError as error:
                fault = error
            if fault is not None:
                _log.info("the watch of the Lease ended fault=%s", fault)
            self._heard_at = clock()
            await asyncio.sleep(REWATCH_S * random.uniform(0.5, 1.0))

    def _hear(self, kind: str, body: Body) -> None:
        self._heard_at = clock()
        if kind == "DELETED":
            self._candidate = self._candidate.miss()
        elif kind in ("ADDED", "MODIFIED"):
            self._candidate = self._candidate.see(leader_election.parse(body), clock())
        else:
            return
        self._settle()
        self._news.set()

    def _settle(self) -> None:
        """Let the fence, the log and the metrics say what the candidate's view says."""
        candidate, now = self._candidate, clock()
        leads = candidate.leads(now)
        record = candidate.record
        if leads and record is not None:
            self._fence.open_until(candidate.valid_until, record.transitions)
        else:
            self._fence.close()
        if leads == self._led:
            return
        self._led = leads
        metrics.set_leader(leads)
        holder = record.holder if record is not None else ""
        if leads and record is not None:
            _log.info("leads identity=%s epoch=%d", candidate.identity, record.transitions)
            self._changed(record.transitions)
        else:
            self._changed(None)
            _log.info("leads no more identity=%s holder=%s", candidate.identity, holder)
