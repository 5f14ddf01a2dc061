from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from avatar_operator.core.workqueue import FIRST_DELAY_S, LONGEST_DELAY_S, Agenda


def test_the_key_that_is_due_longest_comes_first() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.wake("late", 2.0)
    agenda.wake("early", 1.0)
    assert agenda.take(0.5) is None
    assert agenda.next_at() == 1.0
    assert [agenda.take(3.0), agenda.take(3.0), agenda.take(3.0)] == ["early", "late", None]


def test_the_earliest_wish_counts() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.wake("a", 5.0)
    agenda.wake("a", 1.0)
    agenda.wake("a", 3.0)
    assert agenda.next_at() == 1.0
    assert agenda.take(1.0) == "a"
    assert agenda.next_at() is None


def test_a_key_in_work_is_due_again_when_it_is_finished() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.wake("a", 0.0)
    assert agenda.take(0.0) == "a"
    agenda.wake("a", 1.0)
    assert agenda.take(2.0) is None
    agenda.finish("a")
    assert agenda.take(2.0) == "a"


def test_failures_are_tried_less_and_less_often() -> None:
    agenda: Agenda[str] = Agenda()
    delays = []
    for _ in range(12):
        agenda.wake("a", 0.0)
        assert agenda.take(1000.0) == "a"
        delays.append(agenda.fail("a", 0.0, jitter=1.0))
    assert delays[:3] == [FIRST_DELAY_S, FIRST_DELAY_S * 2, FIRST_DELAY_S * 4]
    assert delays[-1] == LONGEST_DELAY_S


def test_news_does_not_shorten_the_delay_of_a_failure_but_a_pardon_does() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.wake("a", 0.0)
    agenda.take(0.0)
    assert agenda.fail("a", 10.0, jitter=0.0, at_least_s=5.0) == 5.0
    agenda.wake("a", 11.0)
    assert agenda.next_at() == 15.0
    agenda.pardon("a")
    agenda.wake("a", 11.0)
    assert agenda.next_at() == 11.0


def test_success_forgets_the_failures() -> None:
    agenda: Agenda[str] = Agenda()
    for _ in range(3):
        agenda.wake("a", 0.0)
        agenda.take(1000.0)
        agenda.fail("a", 0.0, jitter=1.0)
    agenda.take(1000.0)
    agenda.finish("a")
    agenda.wake("a", 0.0)
    agenda.take(1000.0)
    assert agenda.fail("a", 0.0, jitter=1.0) == FIRST_DELAY_S


def test_a_forgotten_key_is_not_due() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.wake("a", 0.0)
    agenda.forget("a")
    assert agenda.take(1.0) is None


class AgendaMachine(RuleBasedStateMachine):
    """Beside a model of a few lines: what is due, and what is in work."""

    def __init__(self) -> None:
        super().__init__()
        self.agenda: Agenda[int] = Agenda()
        self.due: dict[int, float] = {}
        self.in_work: set[int] = set()

    @rule(key=st.integers(0, 3), at=st.floats(0, 100))
    def wake(self, key: int, at: float) -> None:
        self.agenda.wake(key, at)
        self.due[key] = min(at, self.due.get(key, at))

    @rule(now=st.floats(0, 100))
    def count_free(self, now: float) -> None:
        free = {key: at for key, at in self.due.items() if key not in self.in_work}
        taken = self.agenda.take(now)
        if taken is None:
            assert all(at > now for at in free.values())
            return
        assert free[taken] == min(free.values()) <= now
        del self.due[taken]
        self.in_work.add(taken)

    @rule(key=st.integers(0, 3))
    def finish(self, key: int) -> None:
        if key in self.in_work:
            self.agenda.finish(key)
            self.in_work.discard(key)

    @rule(key=st.integers(0, 3))
    def forget(self, key: int) -> None:
        self.agenda.forget(key)
        self.due.pop(key, None)

    @invariant()
    def the_next_time_is_known(self) -> None:
        free = [at for key, at in self.due.items() if key not in self.in_work]
        assert self.agenda.next_at() == min(free, default=None)


TestAgenda = AgendaMachine.TestCase
