from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from avatar_operator.core.flow import LEAST, MOST, SLOW_S, Flow

ANSWERS = st.lists(st.tuples(st.floats(0, 6), st.floats(0, 2)), max_size=200)


@given(ANSWERS)
def test_the_limit_stays_within_its_bounds_and_follows_each_answer(
    answers: list[tuple[float, float]],
) -> None:
    flow, now = Flow(), 0.0
    for seconds, pause_s in answers:
        now += pause_s
        then, flow = flow, flow.after(seconds, now)
        assert LEAST <= flow.limit <= MOST
        if seconds < SLOW_S:
            assert flow.limit >= then.limit
            assert flow.cut_at == then.cut_at
        else:
            assert flow.limit in (then.limit, then.limit / 2, LEAST)


def test_what_was_on_its_way_together_cuts_once() -> None:
    flow = Flow()
    for _ in range(MOST):
        flow = flow.after(5.0, 100.0)
    assert flow.limit == MOST / 2
    assert flow.after(5.0, 104.0).limit == MOST / 2  # asked before the cut
    assert flow.after(1.0, 101.5).limit == MOST / 4


def test_a_server_that_answers_again_gets_all_back() -> None:
    flow = Flow(limit=LEAST, cut_at=0.0)
    answers = 0
    while flow.limit < MOST:
        flow = flow.after(0.02, 1.0)
        answers += 1
    assert answers < MOST * MOST / 2 + MOST  # one more place for each round of the limit
