"""Who leads: each rule by itself, and all of them together in a small world of bad luck."""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING

import pytest

from avatar_operator.core import leader_election
from avatar_operator.core.leader_election import Bid, Candidate, Record, Step, Timing

if TYPE_CHECKING:
    from collections.abc import Callable

TIMING = Timing()


def record(holder: str, version: int = 5, renewed: str = "r1", transitions: int = 3) -> Record:
    return Record(version, holder, transitions, 4, renewed, "a1")


def test_the_first_candidate_makes_the_lease() -> None:
    assert Candidate("a").bid(0.0) == Bid(Step.CREATE, "a", 0, None)


def test_a_released_lease_is_taken_at_once() -> None:
    candidate = Candidate("a").see(record(""), 10.0)
    assert candidate.bid(10.0) == Bid(Step.TAKE, "a", 4, 5)
    assert candidate.next_at(0.0) <= 10.0


def test_a_held_lease_is_waited_out_from_when_it_was_seen() -> None:
    candidate = Candidate("a").see(record("b"), 100.0)
    assert candidate.next_at(0.5) == 104.0
    assert candidate.bid(103.9) is None
    assert candidate.bid(104.0) == Bid(Step.TAKE, "a", 4, 5)


def test_a_renewal_starts_the_wait_anew_and_another_change_does_not() -> None:
    candidate = Candidate("a").see(record("b"), 100.0)
    assert candidate.see(record("b", 6), 103.0).bid(104.0) is not None
    assert candidate.see(record("b", 6, "r2"), 103.0).bid(106.9) is None


def test_the_duration_that_the_holder_wrote_counts() -> None:
    candidate = Candidate("a").see(replace(record("b"), duration_s=15), 0.0)
    assert candidate.bid(14.9) is None
    silent = Candidate("a").see(replace(record("b"), duration_s=0), 0.0)
    assert silent.bid(4.0) is not None


def test_news_that_is_older_than_what_is_known_changes_nothing() -> None:
    candidate = Candidate("a").see(record("b", 7), 1.0)
    assert candidate.see(record("", 6), 2.0) is candidate


def test_winning_counts_from_when_the_bid_was_sent() -> None:
    candidate = Candidate("a").see(record(""), 0.0).asked(10.0)
    leader = candidate.won(record("a", 6), 10.0, 10.9)
    assert leader.leads(12.4)
    assert not leader.leads(12.5)
    assert leader.bid(10.9) == Bid(Step.RENEW, "a", 3, 6)
    assert 10.4 <= leader.next_at(1.0) < leader.next_at(0.0) == 10.5


def test_an_answer_that_comes_after_someone_else_took_over_wins_nothing() -> None:
    candidate = Candidate("a").see(record("b", 8), 5.0)
    assert not candidate.won(record("a", 7), 4.9, 5.1).leads(5.1)


def test_seeing_someone_else_ends_leading_at_once() -> None:
    leader = Candidate("a").won(record("a"), 0.0, 0.1)
    assert leader.leads(1.0)
    assert not leader.see(record("b", 6), 1.0).leads(1.0)


def test_a_holder_that_was_late_renews_if_nobody_took_over() -> None:
    late = Candidate("a").won(record("a"), 0.0, 0.1)
    assert not late.leads(9.0)
    assert late.bid(9.0) == Bid(Step.RENEW, "a", 3, 5)


def test_a_deleted_lease_is_made_anew_only_when_its_holder_has_stopped() -> None:
    candidate = Candidate("a").see(record("b", transitions=9), 100.0).miss()
    assert candidate.bid(103.9) is None
    assert candidate.bid(104.0) == Bid(Step.CREATE, "a", 10, None)
    leader = Candidate("a").won(record("a"), 0.0, 0.1).miss()
    assert not leader.leads(0.2)


def test_only_the_holder_releases() -> None:
    leader = Candidate("a").won(record("a"), 0.0, 0.1)
    assert leader.release() == Bid(Step.RELEASE, "", 3, 5)
    assert leader.stopped().release() == leader.release()
    assert not leader.stopped().leads(0.2)
    assert Candidate("a").release() is None
    assert Candidate("a").see(record("b"), 0.0).release() is None


@pytest.mark.parametrize(
    ("timing", "request_s"), [(Timing(), 1.0), (Timing(15, 10.0, 2.0), 3.75)], ids=["ours", "usual"]
)
def test_a_last_request_fits_between_the_deadline_and_the_duration(
    timing: Timing, request_s: float
) -> None:
    assert timing.request_timeout_s == request_s
    assert timing.renew_deadline_s < timing.latest_deadline_s
    assert timing.latest_deadline_s + timing.request_timeout_s == timing.duration_s


def test_a_lease_is_parsed_and_what_is_missing_is_empty() -> None:
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


# --- a world in virtual time ---------------------------------------------------------------------


@dataclass
class Server:
    """The API server: one Lease, compared by version."""

    record: Record | None = None
    versions: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def write(self, bid: Bid, timing: Timing, stamp: str) -> Record | None:
        """Return what was stored, None for a conflict."""
        version = self.record.version if self.record is not None else None
        if bid.version != version:
            return None
        self.record = Record(
            next(self.versions), bid.holder, bid.transitions, timing.duration_s, stamp, ""
        )
        return self.record


@dataclass
class Process:
    """A candidate with a clock of its own, which is off, and runs a little fast or slow."""

    candidate: Candidate
    offset: float
    rate: float
    stopped_until: float = -inf  # as by SIGSTOP or a stalled loop
    dead: bool = False
    waiting: int = 0  # the request that it waits for, 0 if none

    def clock(self, now: float) -> float:
        return self.offset + now * self.rate


class World:
    """Processes and a server that answer late, twice, or never."""

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

    def awake(self, process: Process, act: Callable[[], None]) -> bool:
        """Return whether a process runs now; if it is stopped, it acts when it goes on."""
        if process.dead:
            return False
        if process.stopped_until > self.now:
            self.after(process.stopped_until - self.now, act)
            return False
        return True

    def step(self, process: Process) -> None:
        """One turn of the campaign's loop, as `Leadership` has it."""
        if not self.awake(process, lambda: self.step(process)):
            return
        clock = process.clock(self.now)
        due = process.candidate.next_at(self.random.random())
        if not process.waiting and clock >= due:
            bid = process.candidate.bid(clock)
            if bid is not None:
                self.send(process, bid, clock)
        wait_s = 0.05 if due - clock < 0.05 else min(0.5, due - clock)
        self.after(wait_s, lambda: self.step(process))

    def send(self, process: Process, bid: Bid, asked_at: float) -> None:
        process.candidate = process.candidate.asked(asked_at)
        process.waiting = number = next(self.requests)
        lost = not self.fair and self.random.random() < 0.1
        answered = self.fair or self.random.random() > 0.1

        def arrive() -> None:
            stored = self.server.write(bid, TIMING, f"{bid.holder} {number}")
            if stored is not None:
                self.tell(stored)
            if answered:
                self.after(self.delay_s(), lambda: answer(stored))

        def answer(stored: Record | None) -> None:
            if not self.awake(process, lambda: answer(stored)) or process.waiting != number:
                return
            process.waiting = 0
            clock = process.clock(self.now)
            if stored is not None:
                process.candidate = process.candidate.won(stored, asked_at, clock)
            elif self.server.record is not None:
                process.candidate = process.candidate.see(self.server.record, clock)
            else:
                process.candidate = process.candidate.miss()

        def give_up() -> None:
            if self.awake(process, give_up) and process.waiting == number:
                process.waiting = 0

        if not lost:
            self.after(self.delay_s(), arrive)  # even after it was given up
        self.after(TIMING.request_timeout_s, give_up)

    def tell(self, stored: Record) -> None:
        """Let the watches tell, late, out of order, or not at all."""
        for process in self.processes:
            if self.fair or self.random.random() > 0.2:
                self.after(self.delay_s(), lambda p=process: hear(p))  # type: ignore[misc]

        def hear(process: Process) -> None:
            if self.awake(process, lambda: hear(process)):
                process.candidate = process.candidate.see(stored, process.clock(self.now))

    def misfortune(self) -> None:
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
            self.after(self.random.uniform(1, 8), self.misfortune)

    def release(self, process: Process) -> None:
        """A clean stop: it leads no more, then says so, then starts anew."""
        process.candidate = process.candidate.stopped()
        bid = process.candidate.release()
        process.dead = True
        self.processes.remove(process)
        if bid is not None:
            self.after(self.delay_s(), lambda: self.arrive(bid))
        self.start()

    def arrive(self, bid: Bid) -> None:
        self.server.write(bid, TIMING, "released")

    def leaders(self) -> list[Process]:
        """Return those that would let a write through, stopped ones included."""
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
def test_two_never_lead_at_once_and_no_epoch_has_two_leaders(hundred: int) -> None:
    led_s, terms = 0.0, 0
    for seed in range(100 * hundred, 100 * hundred + 100):
        world = World(seed)
        world.after(3.0, world.misfortune)
        world.run(60.0)
        epochs = [epoch for epoch, _ in world.terms]
        assert len(epochs) == len(set(epochs)), f"seed {seed}"
        led_s += world.led_s
        terms += len(epochs)
    assert led_s > 100 * 60 * 0.1  # else it says nothing that nobody led twice
    assert terms > 200


@pytest.mark.slow
def test_after_a_kill_on_a_good_network_another_one_leads_within_the_duration() -> None:
    waits = []
    for seed in range(300):
        world = World(seed, processes=2)
        world.fair = True
        world.run(8.0 + world.random.random())
        (leader,) = world.leaders()
        leader.dead = True
        world.processes.remove(leader)
        killed_at = world.now
        while not world.leaders():
            world.run(world.events[0][0])
        waits.append(world.now - killed_at)
    assert max(waits) < 4.3  # 4 s, 2 % of a slow clock, a poll, and two messages
    assert min(waits) > 3.0
