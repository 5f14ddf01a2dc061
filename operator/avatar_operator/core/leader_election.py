"""Decides who leads: one candidate's view of the Lease, and what it may do because of it.

Times are seconds of the caller's own clock, which must not stop while the machine
sleeps; clocks of two candidates are never compared. A candidate counts from when
*it* saw the Lease renewed, which is after the holder sent the renewal; the holder
counts from when it sent it, and stops sooner. So however late either of them hears
of anything, the holder has stopped before another one begins:

    holder     sent ──── renew deadline ─┤ stops
    candidate       seen ───────────────────── duration ─┤ takes the Lease

What is left between the two is for clocks that run at different rates and for
requests that the API server is still busy with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Final

from avatar_operator.core.resources.fields import Fields

if TYPE_CHECKING:
    from collections.abc import Mapping

REQUEST_SHARE: Final = 0.25  # of the duration: 1 s of 4 s, 3.75 s of 15 s
JITTER: Final = 0.2  # of a retry, so that candidates do not ask in step


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a Lease lasts, in seconds; see the docstring of the module."""

    duration_s: int = 4
    renew_deadline_s: float = 2.5
    retry_s: float = 0.5

    @property
    def request_timeout_s(self) -> float:
        """How long one request for the Lease may take."""
        return REQUEST_SHARE * self.duration_s

    @property
    def latest_deadline_s(self) -> float:
        """What the renew deadline must stay below, so that a last request still fits."""
        return self.duration_s - self.request_timeout_s


@dataclass(frozen=True, slots=True)
class Record:
    """What the Lease says."""

    version: int  # metadata.resourceVersion
    holder: str  # "": nobody, or released
    transitions: int
    duration_s: int  # 0: not said
    renewed: str  # only ever compared with itself
    acquired: str


class Step(Enum):
    """What a candidate asks the API server for."""

    RENEW = "renew"
    TAKE = "take"
    CREATE = "create"
    RELEASE = "release"


@dataclass(frozen=True, slots=True)
class Bid:
    """A write of the Lease; it counts only if the Lease is still in that version."""

    step: Step
    holder: str
    transitions: int
    version: int | None  # None: there is no Lease, make one


@dataclass(frozen=True, slots=True)
class Candidate:
    """One process that may lead."""

    identity: str
    """Never used twice: a process that starts anew is another candidate."""

    timing: Timing = Timing()
    record: Record | None = None
    seen_at: float = -inf
    """When the holder of the record was last seen to be at work."""

    valid_until: float = -inf
    """This candidate leads until then, and not a moment longer."""

    tried_at: float = -inf
    transitions: int = -1
    """The highest number that was seen, since a Lease that is made anew would count from 0."""

    def leads(self, now: float) -> bool:
        """Return whether this candidate may write."""
        return now < self.valid_until

    def see(self, record: Record, now: float) -> Candidate:
        """Take in the Lease, from a watch, a read or the answer to a write, in any order."""
        old = self.record
        if old is not None and record.version < old.version:
            return self
        moved = old is None or (old.holder, old.renewed) != (record.holder, record.renewed)
        return replace(
            self,
            record=record,
            transitions=max(self.transitions, record.transitions),
            seen_at=now if moved else self.seen_at,
            valid_until=self.valid_until if record.holder == self.identity else -inf,
        )

    def miss(self) -> Candidate:
        """Take in that there is no Lease: whoever held it may not have heard of that yet."""
        return replace(self, record=None, valid_until=-inf)

    def bid(self, now: float) -> Bid | None:
        """Return what to write now, None if the Lease is someone else's."""
        record, following = self.record, self.transitions + 1
        if record is None:
            free = now >= self._free_at()
            return Bid(Step.CREATE, self.identity, following, None) if free else None
        if record.holder == self.identity:
            return Bid(Step.RENEW, self.identity, record.transitions, record.version)
        if now >= self._free_at():
            return Bid(Step.TAKE, self.identity, following, record.version)
        return None

    def release(self) -> Bid | None:
        """Return the write that lets others take the Lease at once, None if it is not ours."""
        record = self.record
        if record is None or record.holder != self.identity:
            return None
        return Bid(Step.RELEASE, "", record.transitions, record.version)

    def asked(self, now: float) -> Candidate:
        """Note that a bid goes out."""
        return replace(self, tried_at=now)

    def won(self, record: Record, asked_at: float, now: float) -> Candidate:
        """Take in that a bid was accepted; `asked_at` is when it was sent, not answered."""
        after = self.see(record, now)
        if after.record != record:
            return after  # it was someone else's before the answer came
        return replace(after, valid_until=asked_at + self.timing.renew_deadline_s)

    def stopped(self) -> Candidate:
        """Give up leading; the Lease still names this candidate until it is released."""
        return replace(self, valid_until=-inf)

    def next_at(self, jitter: float) -> float:
        """Return when to bid next; `jitter` is from 0 to 1."""
        retry_at = self.tried_at + self.timing.retry_s * (1 - JITTER * jitter)
        if self.record is not None and self.record.holder == self.identity:
            return retry_at
        return max(retry_at, self._free_at())

    def _free_at(self) -> float:
        """Return when the Lease may be taken from whom it names."""
        record = self.record
        if record is not None and not record.holder:
            return -inf
        duration_s = record.duration_s if record is not None else 0
        return self.seen_at + (duration_s or self.timing.duration_s)


def parse(body: Mapping[str, object]) -> Record:
    """Return what a Lease says; fields that are missing or of no use count as empty."""
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
