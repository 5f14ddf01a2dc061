from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from avatar_runtime.batching.frames import FrameRequest
from avatar_runtime.batching.scheduler import Scheduler
from avatar_runtime.batching.windows import AudioWindow

NOW = 50.0


def request(session: str, index: int, deadline: float, epoch: int = 1) -> FrameRequest:
    window = AudioWindow(index, 0, memoryview(b""), 0, 0, silent=False)
    return FrameRequest(session, 1, epoch, index, deadline, "anna", index, window, 80, 64, 64)


def taken(scheduler: Scheduler, limit: int) -> list[tuple[str, int]]:
    return [(e.request.session, e.request.frame_index) for e in scheduler.take(limit)]


def test_sessions_ride_together_by_deadline() -> None:
    scheduler = Scheduler()
    for index in range(3):
        scheduler.offer(request("far ahead", index, 52.0 + index), NOW)
    scheduler.offer(request("new", 0, 50.15), NOW)
    scheduler.offer(request("dry", 7, 50.04), NOW)
    assert taken(scheduler, 4) == [("dry", 7), ("new", 0), ("far ahead", 0), ("far ahead", 1)]
    assert taken(scheduler, 4) == [("far ahead", 2)]
    assert taken(scheduler, 4) == []


def test_equal_deadlines_leave_in_the_order_they_came() -> None:
    scheduler = Scheduler()
    for session in "cab":
        scheduler.offer(request(session, 0, 51.0), NOW)
    assert taken(scheduler, 3) == [("c", 0), ("a", 0), ("b", 0)]


def test_a_full_queue_refuses_and_tells_how_full_it_is() -> None:
    scheduler = Scheduler(bound=2)
    assert scheduler.offer(request("a", 0, 51.0), NOW)
    assert scheduler.offer(request("a", 1, 51.0), NOW)
    assert not scheduler.offer(request("a", 2, 51.0), NOW)
    assert (scheduler.statistics().waiting, scheduler.statistics().room) == (2, 0)


def test_a_cancel_throws_away_older_epochs_of_that_session_alone() -> None:
    scheduler = Scheduler()
    scheduler.offer(request("a", 0, 51.0, epoch=1), NOW)
    scheduler.offer(request("a", 0, 51.1, epoch=2), NOW)
    scheduler.offer(request("b", 0, 51.2, epoch=1), NOW)
    assert scheduler.cancel("a", 2) == 1
    assert [(e.request.session, e.request.epoch) for e in scheduler.take(9)] == [("a", 2), ("b", 1)]


def test_a_request_remembers_since_when_it_waits() -> None:
    scheduler = Scheduler()
    scheduler.offer(request("a", 0, 51.0), NOW)
    assert scheduler.take(1)[0].since == NOW


offers = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 3), st.floats(0, 10)), max_size=40
)


@given(offered=offers, limit=st.integers(1, 8), epoch=st.integers(1, 4))
def test_nothing_is_lost_or_doubled_and_order_is_by_deadline(
    offered: list[tuple[str, int, float]], limit: int, epoch: int
) -> None:
    scheduler = Scheduler()
    for index, (session, own, deadline) in enumerate(offered):
        scheduler.offer(request(session, index, deadline, own), NOW)
    thrown = scheduler.cancel("a", epoch)
    left: list[FrameRequest] = []
    while batch := scheduler.take(limit):
        assert len(batch) <= limit
        left += [entry.request for entry in batch]
    assert [r.deadline for r in left] == sorted(r.deadline for r in left)
    stale = {i for i, (session, own, _) in enumerate(offered) if session == "a" and own < epoch}
    assert thrown == len(stale)
    assert {r.frame_index for r in left} == set(range(len(offered))) - stale
    assert len(left) + thrown == len(offered)
