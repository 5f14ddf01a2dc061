"""Acquires and renews the Lease that lets this process write, and releases it at shutdown.

`core.leader_election` decides what to write; this module sends the requests, watches the
Lease and reads the clock. Each replica watches the Lease: a standby learns immediately that
it was released, and for all replicas its renewals prove that events of the API server arrive.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from avatar_contracts.backoff import jittered
from avatar_operator.core import leader_election
from avatar_operator.errors import ClusterError, Conflict, NotFound
from avatar_operator.fence import Fence, clock

if TYPE_CHECKING:
    from collections.abc import Callable

    from avatar_operator.core.leader_election import LeaseUpdate, Record
    from avatar_operator.core.resources.fields import Body
    from avatar_operator.kube import client
    from avatar_operator.metrics import Metrics

SILENCE_S: Final = 70.0  # a watch that receives nothing for longer is opened again
REWATCH_S: Final = 0.5
SHUTDOWN_WRITES_S: Final = 0.5  # for the writes in flight when this process is stopped

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LeaseName:
    """Namespace and name of the Lease."""

    namespace: str
    name: str


class LeaderElector:
    """Owns the fence and this process's candidacy for the Lease."""

    def __init__(
        self,
        api: client.KubernetesClient,
        fence: Fence,
        lease: LeaseName,
        candidate: leader_election.Candidate,
        metrics: Metrics,
        on_change: Callable[[int | None], None],
    ) -> None:
        """`on_change` gets the epoch when this process starts to lead, None when it stops."""
        self._api = api
        self._fence = fence
        self._lease = lease
        self._candidate = candidate
        self._metrics = metrics
        self._on_change = on_change
        self._leads = False
        self._event_received = asyncio.Event()
        self._election: asyncio.Task[None] | None = None
        self._contact_at = clock()

    def seconds_since_contact(self) -> float:
        """Return the seconds since the last event or response about the Lease, errors included."""
        return clock() - self._contact_at

    async def run(self) -> None:
        """Watch the Lease and try to hold it until cancelled or resigned."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch_forever(), name="watch of the Lease")
            self._election = tasks.create_task(self._elect_forever(), name="leader election")

    async def resign(self) -> None:
        """Stop all writes, then release the Lease, so that a standby can lead immediately."""
        self._candidate = self._candidate.stopped()
        self._apply_view()
        if self._election is not None:
            self._election.cancel()
            await asyncio.wait({self._election})
        try:
            async with asyncio.timeout(SHUTDOWN_WRITES_S):
                await self._fence.wait_until_idle()
            if self._candidate.record is not None:
                await self._release()
        except (TimeoutError, ClusterError) as error:
            # The standby waits until the Lease expires: slower, but as safe.
            _log.warning("Lease not released fault=%s", error or "a write is in flight")

    async def _release(self) -> None:
        """Release the Lease if it is ours; retry once, because a renewal may have been missed."""
        for _ in range(2):
            update = self._candidate.release()
            if update is None:
                return
            try:
                await self._write(update)
            except Conflict:
                await self._read()
            else:
                _log.info("Lease released epoch=%d", update.transitions)
                return

    async def _elect_forever(self) -> None:
        await self._try_read()
        while True:
            jitter = random.random()
            while (wait_s := self._candidate.next_at(jitter) - clock()) > 0:
                self._apply_view()
                await self._wait_for_event(wait_s)
            update = self._candidate.next_update(clock())
            if update is not None:
                await self._try_write(update)
                self._apply_view()

    async def _wait_for_event(self, wait_s: float) -> None:
        """Wait for the next event of the Lease, at most `wait_s`."""
        self._event_received.clear()
        try:
            async with asyncio.timeout(wait_s):
                await self._event_received.wait()
        except TimeoutError:
            pass

    async def _try_write(self, update: LeaseUpdate) -> None:
        sent_at = clock()
        self._candidate = self._candidate.attempted(sent_at)
        try:
            record = await self._write(update)
        except (Conflict, NotFound):
            await self._try_read()
        except ClusterError as error:
            _log.warning("cannot write the Lease step=%s fault=%s", update.step.value, error)
        else:
            self._candidate = self._candidate.acquired(record, sent_at, clock())
        self._contact_at = clock()

    async def _write(self, update: LeaseUpdate) -> Record:
        # For people, and different at each write: no candidate compares it with a clock.
        now = datetime.datetime.fromtimestamp(time.time(), datetime.UTC)
        stamp = now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        known = self._candidate.record
        renews = update.step is leader_election.Step.RENEW and known is not None
        body: Body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": self._metadata(update),
            "spec": {
                "holderIdentity": update.holder,
                "leaseDurationSeconds": self._candidate.timing.duration_s,
                "leaseTransitions": update.transitions,
                "acquireTime": (known.acquired if renews and known else "") or stamp,
                "renewTime": stamp,
            },
        }
        timeout_s = self._candidate.timing.request_timeout_s
        return leader_election.parse(await self._api.write_lease(body, timeout_s))

    def _metadata(self, update: LeaseUpdate) -> Body:
        metadata: Body = {"name": self._lease.name, "namespace": self._lease.namespace}
        if update.version is not None:
            metadata["resourceVersion"] = str(update.version)
        return metadata

    async def _try_read(self) -> None:
        try:
            await self._read()
        except ClusterError as error:
            _log.warning("cannot read the Lease fault=%s", error)

    async def _read(self) -> None:
        lease, timeout_s = self._lease, self._candidate.timing.request_timeout_s
        try:
            body = await self._api.read_lease(lease.namespace, lease.name, timeout_s)
        except NotFound:
            self._candidate = self._candidate.observe_missing()
        else:
            self._candidate = self._candidate.observe(leader_election.parse(body), clock())

    async def _watch_forever(self) -> None:
        while True:
            try:
                lease = self._lease
                async for event_type, body in self._api.watch_lease(
                    lease.namespace, lease.name, SILENCE_S
                ):
                    self._on_event(event_type, body)
            except ClusterError as error:
                _log.info("watch of the Lease ended fault=%s", error)
            self._contact_at = clock()
            await asyncio.sleep(jittered(REWATCH_S, random.random()))

    def _on_event(self, event_type: str, body: Body) -> None:
        self._contact_at = clock()
        if event_type == "DELETED":
            self._candidate = self._candidate.observe_missing()
        elif event_type in ("ADDED", "MODIFIED"):
            self._candidate = self._candidate.observe(leader_election.parse(body), clock())
        else:
            return
        self._apply_view()
        self._event_received.set()

    def _apply_view(self) -> None:
        """Set the fence, the log and the metrics to the candidate's view."""
        candidate, now = self._candidate, clock()
        leads = candidate.leads(now)
        record = candidate.record
        if leads and record is not None:
            self._fence.open_until(candidate.valid_until, record.transitions)
        else:
            self._fence.close()
        if leads == self._leads:
            return
        self._leads = leads
        self._metrics.set_leader(leads)
        holder = record.holder if record is not None else ""
        if leads and record is not None:
            _log.info(
                "acquired leadership identity=%s epoch=%d", candidate.identity, record.transitions
            )
            self._on_change(record.transitions)
        else:
            self._on_change(None)
            _log.info("lost leadership identity=%s holder=%s", candidate.identity, holder)
