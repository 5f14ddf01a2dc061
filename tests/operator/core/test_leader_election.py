"""Tests of the leader election: single rules, then all of them in a simulation with faults."""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING

import pytest

from avatar_operator.core import leader_election
from avatar_operator.core.leader_election import Candidate, LeaseUpdate, Record, Step, Timing

if TYPE_CHECKING:
    from collections.abc import Callable

TIMING = Timing()


def record(holder: str, version: int = 5, renewed: str = "r1", transitions: int = 3) -> Record:
    return Record(version, holder, transitions, 4, renewed, "a1")


def test_the_first_candidate_creates_the_lease() -> None:
    assert Candidate("a").next_update(0.0) == LeaseUpdate(Step.CREATE, "a", 0, None)


def test_a_released_lease_is_taken_immediately() -> None:
    candidate = Candidate("a").observe(record(""), 10.0)
    assert candidate.next_update(10.0) == LeaseUpdate(Step.TAKE, "a", 4, 5)
    assert candidate.next_at(0.0) <= 10.0


def test_a_held_lease_expires_after_its_duration_from_the_observation() -> None:
    candidate = Candidate("a").observe(record("b"), 100.0)
    assert candidate.next_at(0.5) == 104.0
    assert candidate.next_update(103.9) is None
    assert candidate.next_update(104.0) == LeaseUpdate(Step.TAKE, "a", 4, 5)


def test_only_a_renewal_extends_the_wait() -> None:
    candidate = Candidate("a").observe(record("b"), 100.0)
    assert candidate.observe(record("b", 6), 103.0).next_update(104.0) is not None
    assert candidate.observe(record("b", 6, "r2"), 103.0).next_update(106.9) is None


def test_the_duration_in_the_lease_is_used() -> None:
    candidate = Candidate("a").observe(replace(record("b"), duration_s=15), 0.0)
    assert candidate.next_update(14.9) is None
    silent = Candidate("a").observe(replace(record("b"), duration_s=0), 0.0)
    assert silent.next_update(4.0) is not None


def test_an_older_version_is_ignored() -> None:
    candidate = Candidate("a").observe(record("b", 7), 1.0)
    assert candidate.observe(record("", 6), 2.0) is candidate


def test_leadership_is_measured_from_the_moment_of_sending() -> None:
    candidate = Candidate("a").observe(record(""), 0.0).attempted(10.0)
    leader = candidate.acquired(record("a", 6), 10.0, 10.9)
    assert leader.leads(12.4)
    assert not leader.leads(12.5)
    assert leader.next_update(10.9) == LeaseUpdate(Step.RENEW, "a", 3, 6)
    assert 10.4 <= leader.next_at(1.0) < leader.next_at(0.0) == 10.5


def test_a_response_older_than_the_known_lease_gives_no_leadership() -> None:
    candidate = Candidate("a").observe(record("b", 8), 5.0)
    assert not candidate.acquired(record("a", 7), 4.9, 5.1).leads(5.1)


def test_observing_another_holder_ends_the_leadership_immediately() -> None:
    leader = Candidate("a").acquired(record("a"), 0.0, 0.1)
    assert leader.leads(1.0)
    assert not leader.observe(record("b", 6), 1.0).leads(1.0)


def test_a_late_holder_renews_if_no_other_candidate_took_the_lease() -> None:
    late = Candidate("a").acquired(record("a"), 0.0, 0.1)
    assert not late.leads(9.0)
    assert late.next_update(9.0) == LeaseUpdate(Step.RENEW, "a", 3, 5)


def test_a_deleted_lease_is_created_again_only_after_its_holder_has_stopped() -> None:
    candidate = Candidate("a").observe(record("b", transitions=9), 100.0).observe_missing()
    assert candidate.next_update(103.9) is None
    assert candidate.next_update(104.0) == LeaseUpdate(Step.CREATE, "a", 10, None)
    leader = Candidate("a").acquired(record("a"), 0.0, 0.1).observe_missing()
    assert not leader.leads(0.2)


def test_only_the_holder_releases() -> None:
    leader = Candidate("a").acquired(record("a"), 0.0, 0.1)
    assert leader.release() == LeaseUpdate(Step.RELEASE, "", 3, 5)
    assert leader.stopped().release() == leader.release()
    assert not leader.stopped().leads(0.2)
    assert Candidate("a").release() is None
    assert Candidate("a").observe(record("b"), 0.0).release() is None


@pytest.mark.parametrize(
    ("timing", "request_s"), [(Timing(), 1.0), (Timing(15, 10.0, 2.0), 3.75)], ids=["ours", "usual"]
)
def test_a_last_request_fits_between_the_deadline_and_the_duration(
    timing: Timing, request_s: float
) -> None:
    assert timing.request_timeout_s == request_s
    assert timing.renew_deadline_s < timing.latest_deadline_s
    assert timing.latest_deadline_s + timing.request_timeout_s == timing.duration_s


def test_a_lease_is_parsed_and_missing_fields_are_empty() -> None:
    body = {
        "metadata": {"resourceVersion": "77"},
        "spec": {
            "holderIdentity": "x",
            "leaseTransitions": 2,
            "leaseDurationSeconds": 4,
            "renewTime": "2026-01-01T00:00:00.000001Z",
            "acquireTime": "2026-01-01T00:00:00.000000Z",
        },
    }
    renewed, acquired = "2026-01-01T00:00:00.000001Z", "2026-01-01T00:00:00.000000Z"
    assert leader_election.parse(body) == Record(77, "x", 2, 4, renewed, acquired)
    assert leader_election.parse({"metadata": {"resourceVersion": "1"}}) == Record(
        1, "", 0, 0, "", ""
    )


@dataclass
class Server:
    """An API server with one Lease and optimistic concurrency."""

    record: Record | None = None
    versions: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def write(self, update: LeaseUpdate, timing: Timing, stamp: str) -> Record | None:
        """Return what was stored, None for a conflict."""
        version = self.record.version if self.record is not None else None
        if update.version != version:
            return None
        self.record = Record(
            next(self.versions), update.holder, update.transitions, timing.duration_s, stamp, ""
        )
        return self.record


@dataclass
class Process:
    """A candidate whose clock has an offset and runs slightly fast or slow."""

    candidate: Candidate
    offset: float
    rate: float
    stopped_until: float = -inf  # suspended, or with a blocked event loop
    dead: bool = False
    waiting: int = 0  # number of the request in flight, 0 if none

    def clock(self, now: float) -> float:
        return self.offset + now * self.rate


class Simulation:
    """Processes and a server whose messages are delayed, reordered or lost."""

    def __init__(self, seed: int, processes: int = 3) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.server = Server()
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.order = itertools.count()
        self.requests = itertools.count(1)
        self.named = itertools.count()
        self.terms: set[tuple[int, str]] = set()
        self.led_s = 0.0
        self.fair = False
        self.processes: list[Process] = []
        for _ in range(processes):
            self.start()

    def start(self) -> Process:
        candidate = Candidate(f"p{next(self.named)}", TIMING)
        rate = self.random.uniform(0.98, 1.02)
        process = Process(candidate, self.random.uniform(-1e6, 1e6), rate)
        self.processes.append(process)
        self.after(self.random.uniform(0, 1), lambda: self.step(process))
        return process

    def after(self, delay_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(self.events, (self.now + delay_s, next(self.order), act))

    def delay_s(self) -> float:
        if self.fair:
            return self.random.uniform(0, 0.02)
        return self.random.choice([0.0, 0.01, 0.3, 0.9, 2.0, 5.0, 20.0]) * self.random.random()

    def is_running(self, process: Process, act: Callable[[], None]) -> bool:
        """Return whether a process runs now; a suspended process runs `act` when it resumes."""
        if process.dead:
            return False
        if process.stopped_until > self.now:
            self.after(process.stopped_until - self.now, act)
            return False
        return True

    def step(self, process: Process) -> None:
        """One iteration of the loop in `LeaderElector`."""
        if not self.is_running(process, lambda: self.step(process)):
            return
        clock = process.clock(self.now)
        due = process.candidate.next_at(self.random.random())
        if not process.waiting and clock >= due:
            update = process.candidate.next_update(clock)
            if update is not None:
                self.send(process, update, clock)
        wait_s = 0.05 if due - clock < 0.05 else min(0.5, due - clock)
        self.after(wait_s, lambda: self.step(process))

    def send(self, process: Process, update: LeaseUpdate, sent_at: float) -> None:
        process.candidate = process.candidate.attempted(sent_at)
        process.waiting = number = next(self.requests)
        is_lost = not self.fair and self.random.random() < 0.1
        is_answered = self.fair or self.random.random() > 0.1

        def arrive() -> None:
            stored = self.server.write(update, TIMING, f"{update.holder} {number}")
            if stored is not None:
                self.notify(stored)
            if is_answered:
                self.after(self.delay_s(), lambda: respond(stored))

        def respond(stored: Record | None) -> None:
            if not self.is_running(process, lambda: respond(stored)) or process.waiting != number:
                return
            process.waiting = 0
            clock = process.clock(self.now)
            if stored is not None:
                process.candidate = process.candidate.acquired(stored, sent_at, clock)
            elif self.server.record is not None:
                process.candidate = process.candidate.observe(self.server.record, clock)
            else:
                process.candidate = process.candidate.observe_missing()

        def time_out() -> None:
            if self.is_running(process, time_out) and process.waiting == number:
                process.waiting = 0

        if not is_lost:
            self.after(self.delay_s(), arrive)  # even after the timeout
        self.after(TIMING.request_timeout_s, time_out)

    def notify(self, stored: Record) -> None:
        """Send a watch event to all processes, late, out of order, or not at all."""
        for process in self.processes:
            if self.fair or self.random.random() > 0.2:
                self.after(self.delay_s(), lambda p=process: deliver(p))  # type: ignore[misc]

        def deliver(process: Process) -> None:
            if self.is_running(process, lambda: deliver(process)):
                process.candidate = process.candidate.observe(stored, process.clock(self.now))

    def inject_fault(self) -> None:
        process = self.random.choice(self.processes)
        match self.random.randrange(4):
            case 0:
                process.dead = True
                self.processes.remove(process)
                self.start()
            case 1:
                process.stopped_until = self.now + self.random.uniform(0.1, 15)
            case 2:
                self.release(process)
            case 3:
                pass
        if not self.fair:
            self.after(self.random.uniform(1, 8), self.inject_fault)

    def release(self, process: Process) -> None:
        """A clean shutdown: stop leading, release the Lease, and start a new process."""
        process.candidate = process.candidate.stopped()
        update = process.candidate.release()
        process.dead = True
        self.processes.remove(process)
        if update is not None:
            self.after(self.delay_s(), lambda: self.arrive(update))
        self.start()

    def arrive(self, update: LeaseUpdate) -> None:
        self.server.write(update, TIMING, "released")

    def leaders(self) -> list[Process]:
        """Return the processes that would allow a write, suspended ones included."""
        return [p for p in self.processes if p.candidate.leads(p.clock(self.now))]

    def run(self, until: float) -> None:
        while self.events and self.events[0][0] <= until:
            before = self.leaders()
            at, _, act = heapq.heappop(self.events)
            self.led_s += (at - self.now) * bool(before)
            self.now = at
            act()
            leaders = self.leaders()
            assert len(leaders) <= 1, [p.candidate for p in leaders]
            for process in leaders:
                assert process.candidate.record is not None
                self.terms.add((process.candidate.record.transitions, process.candidate.identity))


@pytest.mark.slow
@pytest.mark.parametrize("hundred", range(20))
def test_two_candidates_never_lead_at_once_and_no_epoch_has_two_leaders(hundred: int) -> None:
    led_s, terms = 0.0, 0
    for seed in range(100 * hundred, 100 * hundred + 100):
        simulation = Simulation(seed)
        simulation.after(3.0, simulation.inject_fault)
        simulation.run(60.0)
        epochs = [epoch for epoch, _ in simulation.terms]
        assert len(epochs) == len(set(epochs)), f"seed {seed}"
        led_s += simulation.led_s
        terms += len(epochs)
    assert led_s > 100 * 60 * 0.1  # otherwise the test proves nothing
    assert terms > 200


@pytest.mark.slow
def test_after_a_kill_another_candidate_leads_within_the_lease_duration() -> None:
    waits = []
    for seed in range(300):
        simulation = Simulation(seed, processes=2)
        simulation.fair = True
        simulation.run(8.0 + simulation.random.random())
        (leader,) = simulation.leaders()
        leader.dead = True
        simulation.processes.remove(leader)
        killed_at = simulation.now
        while not simulation.leaders():
            simulation.run(simulation.events[0][0])
        waits.append(simulation.now - killed_at)
    assert max(waits) < 4.3  # 4 s, 2 % of a slow clock, a retry, and two messages
    assert min(waits) > 3.0
