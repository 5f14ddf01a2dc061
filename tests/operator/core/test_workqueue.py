from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from avatar_operator.core.workqueue import FIRST_DELAY_S, LONGEST_DELAY_S, WorkQueue


def test_the_key_that_was_due_first_is_returned_first() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add_after("late", 2.0, now=0.0)
    queue.add_after("early", 1.0, now=0.0)
    assert queue.get(0.5) is None
    assert queue.next_at() == 1.0
    assert [queue.get(3.0), queue.get(3.0), queue.get(3.0)] == ["early", "late", None]


def test_the_earliest_due_time_is_kept() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add_after("a", 5.0, now=0.0)
    queue.add_after("a", 1.0, now=0.0)
    queue.add_after("a", 3.0, now=0.0)
    assert queue.next_at() == 1.0
    assert queue.get(1.0) == "a"
    assert queue.next_at() is None


def test_a_key_that_is_added_while_it_is_processed_is_due_again_when_done() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add_after("a", 0.0, now=0.0)
    assert queue.get(0.0) == "a"
    queue.add_after("a", 1.0, now=0.0)
    assert queue.get(2.0) is None
    queue.done("a")
    assert queue.get(2.0) == "a"


def test_failures_back_off_exponentially() -> None:
    queue: WorkQueue[str] = WorkQueue()
    delays = []
    for _ in range(12):
        queue.add_after("a", 0.0, now=0.0)
        assert queue.get(1000.0) == "a"
        delays.append(queue.fail("a", 0.0, jitter=1.0))
    assert delays[:3] == [0.1, 0.2, 0.4]
    assert delays[-1] == LONGEST_DELAY_S == 30.0


def test_adding_a_failed_key_keeps_its_retry_time_until_its_failures_are_forgotten() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add_after("a", 0.0, now=0.0)
    queue.get(0.0)
    assert queue.fail("a", 10.0, jitter=0.0, at_least_s=5.0) == 5.0
    queue.add_after("a", 11.0, now=0.0)
    assert queue.next_at() == 15.0
    queue.forget("a")
    queue.add_after("a", 11.0, now=0.0)
    assert queue.next_at() == 11.0


def test_success_forgets_the_failures() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for _ in range(3):
        queue.add_after("a", 0.0, now=0.0)
        queue.get(1000.0)
        queue.fail("a", 0.0, jitter=1.0)
    queue.get(1000.0)
    queue.done("a")
    queue.add_after("a", 0.0, now=0.0)
    queue.get(1000.0)
    assert queue.fail("a", 0.0, jitter=1.0) == FIRST_DELAY_S


def test_a_forgotten_key_is_not_due() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add_after("a", 0.0, now=0.0)
    queue.remove("a")
    assert queue.get(1.0) is None


class WorkQueueMachine(RuleBasedStateMachine):
    """Beside a model of a few lines: what is due, and what is in work."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: WorkQueue[int] = WorkQueue()
        self.due: dict[int, float] = {}
        self.in_work: set[int] = set()

    @rule(key=st.integers(0, 3), at=st.floats(0, 100))
    def wake(self, key: int, at: float) -> None:
        self.queue.add_after(key, at, now=0.0)
        self.due[key] = min(at, self.due.get(key, at))

    @rule(now=st.floats(0, 100))
    def count_free(self, now: float) -> None:
        free = {key: at for key, at in self.due.items() if key not in self.in_work}
        taken = self.queue.get(now)
        if taken is None:
            assert all(at > now for at in free.values())
            return
        assert free[taken] == min(free.values()) <= now
        del self.due[taken]
        self.in_work.add(taken)

    @rule(key=st.integers(0, 3))
    def finish(self, key: int) -> None:
        if key in self.in_work:
            self.queue.done(key)
            self.in_work.discard(key)

    @rule(key=st.integers(0, 3))
    def forget(self, key: int) -> None:
        self.queue.remove(key)
        self.due.pop(key, None)

    @invariant()
    def the_next_time_is_known(self) -> None:
        free = [at for key, at in self.due.items() if key not in self.in_work]
        assert self.queue.next_at() == min(free, default=None)


TestWorkQueue = WorkQueueMachine.TestCase
