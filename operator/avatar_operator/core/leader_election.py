"""Decides who leads: one candidate's view of the Lease, and the writes that follow from it.

Times are seconds of the caller's own clock, which must continue while the machine sleeps;
the clocks of two candidates are never compared. A candidate measures the age of a renewal
from the moment at which *it* observed the renewal, which is after the holder sent it; the
holder measures from the moment of sending, and stops earlier. Therefore, however late the
messages arrive, the holder has stopped before another candidate starts to lead:

    holder     sent ──── renew deadline ─┤ stops
    candidate       observed ─────────────── duration ─┤ takes the Lease

The time between the two covers clocks that run at different rates and requests that the
API server is still processing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Final

from avatar_contracts.fields import Fields

if TYPE_CHECKING:
    from collections.abc import Mapping

REQUEST_SHARE: Final = 0.25  # of the duration: 1 s of 4 s, 3.75 s of 15 s
JITTER: Final = 0.2  # share of the retry time, so that candidates do not retry at the same time


@dataclass(frozen=True, slots=True)
class Timing:
    """Durations of the Lease in seconds; the docstring of the module explains them."""

    duration_s: int = 4
    renew_deadline_s: float = 2.5
    retry_s: float = 0.5

    @property
    def request_timeout_s(self) -> float:
        """Timeout of one request for the Lease."""
        return REQUEST_SHARE * self.duration_s

    @property
    def latest_deadline_s(self) -> float:
        """Exclusive upper limit of the renew deadline, which leaves time for one last request."""
        return self.duration_s - self.request_timeout_s


@dataclass(frozen=True, slots=True)
class Record:
    """The content of the Lease."""

    version: int
    """`metadata.resourceVersion`."""

    holder: str
    """Identity of the holder; empty if the Lease has no holder or was released."""

    transitions: int
    duration_s: int
    """0 if the Lease does not name a duration."""

    renewed: str
    """Time of the last renewal, only compared with other values of itself."""

    acquired: str


class Step(Enum):
    """The kinds of Lease writes."""

    RENEW = "renew"
    TAKE = "take"
    CREATE = "create"
    RELEASE = "release"


@dataclass(frozen=True, slots=True)
class LeaseUpdate:
    """A write of the Lease, valid only if the Lease is still in this version."""

    step: Step
    holder: str
    transitions: int
    version: int | None
    """None: the Lease does not exist and is created."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One process that may lead."""

    identity: str
    """Unique for each start of a process: a restarted process is a new candidate."""

    timing: Timing = Timing()
    record: Record | None = None
    observed_at: float = -inf
    """When the last renewal or change of holder was observed."""

    valid_until: float = -inf
    """This candidate leads before this time, and not at it or after it."""

    attempted_at: float = -inf
    """When the last write was sent."""

    transitions: int = -1
    """The highest number observed, because a recreated Lease would count from 0 again."""

    def leads(self, now: float) -> bool:
        """Return whether this candidate may write."""
        return now < self.valid_until

    def observe(self, record: Record, now: float) -> Candidate:
        """Record the Lease from a watch, a read or the response to a write, in any order."""
        known = self.record
        if known is not None and record.version < known.version:
            return self
        renewed = known is None or (known.holder, known.renewed) != (record.holder, record.renewed)
        return replace(
            self,
            record=record,
            transitions=max(self.transitions, record.transitions),
            observed_at=now if renewed else self.observed_at,
            valid_until=self.valid_until if record.holder == self.identity else -inf,
        )

    def observe_missing(self) -> Candidate:
        """Record that the Lease does not exist; its last holder may not know that yet."""
        return replace(self, record=None, valid_until=-inf)

    def next_update(self, now: float) -> LeaseUpdate | None:
        """Return what to write now, None while another candidate holds the Lease."""
        record, following = self.record, self.transitions + 1
        if record is None:
            free = now >= self._free_at()
            return LeaseUpdate(Step.CREATE, self.identity, following, None) if free else None
        if record.holder == self.identity:
            return LeaseUpdate(Step.RENEW, self.identity, record.transitions, record.version)
        if now >= self._free_at():
            return LeaseUpdate(Step.TAKE, self.identity, following, record.version)
        return None

    def release(self) -> LeaseUpdate | None:
        """Return the write that frees the Lease, None if this candidate does not hold it."""
        record = self.record
        if record is None or record.holder != self.identity:
            return None
        return LeaseUpdate(Step.RELEASE, "", record.transitions, record.version)

    def attempted(self, now: float) -> Candidate:
        """Record that a write is sent now."""
        return replace(self, attempted_at=now)

    def acquired(self, record: Record, sent_at: float, now: float) -> Candidate:
        """Record that a write succeeded; `sent_at` is when it was sent, not answered."""
        after = self.observe(record, now)
        if after.record != record:
            return after  # another candidate took the Lease before the response arrived
        return replace(after, valid_until=sent_at + self.timing.renew_deadline_s)

    def stopped(self) -> Candidate:
        """Stop leading; the Lease names this candidate until it is released."""
        return replace(self, valid_until=-inf)

    def next_at(self, jitter: float) -> float:
        """Return when the next write is due; `jitter` is from 0 to 1."""
        retry_at = self.attempted_at + self.timing.retry_s * (1 - JITTER * jitter)
        if self.record is not None and self.record.holder == self.identity:
            return retry_at
        return max(retry_at, self._free_at())

    def _free_at(self) -> float:
        """Return when the Lease of the recorded holder expires."""
        record = self.record
        if record is not None and not record.holder:
            return -inf
        duration_s = record.duration_s if record is not None else 0
        return self.observed_at + (duration_s or self.timing.duration_s)


def parse(body: Mapping[str, object]) -> Record:
    """Parse a Lease; a field that is missing or invalid counts as empty."""
    fields = Fields(body, "", [])
    metadata, spec = fields.child("metadata"), fields.child("spec")
    return Record(
        version=int(metadata.text("resourceVersion", "0")),
        holder=spec.text("holderIdentity", ""),
        transitions=spec.integer("leaseTransitions", 0, 0, 2**31 - 1),
        duration_s=spec.integer("leaseDurationSeconds", 0, 0, 2**31 - 1),
        renewed=spec.text("renewTime", ""),
        acquired=spec.text("acquireTime", ""),
    )
