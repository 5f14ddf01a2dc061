"""The order of frames over all sessions, what is given up, and that nobody starves."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_runtime.batching import buckets
from avatar_runtime.batching.frames import AudioWindow, FrameRequest
from avatar_runtime.batching.scheduler import FIRST_BATCH, FIRST_LEAD_S, TOO_LATE_S, Scheduler

NOW = 50.0


def request(session: str, index: int, deadline: float, epoch: int = 1) -> FrameRequest:
    window = AudioWindow(index, 0, memoryview(b""), 0, 0, silent=False)
    return FrameRequest(session, 1, epoch, index, deadline, "anna", index, window, 80, 64, 64)


def taken(queue: Scheduler, limit: int, now: float = NOW) -> list[tuple[str, int]]:
    return [(e.request.session, e.request.frame_index) for e in queue.take(limit, now)]


def given_up(queue: Scheduler, limit: int, now: float = NOW) -> list[tuple[str, int]]:
    return [(r.session, r.frame_index) for r in queue.shed(limit, now)]


def test_sessions_share_a_batch_by_deadline() -> None:
    queue = Scheduler()
    for index in range(1, 4):
        queue.offer(request("far ahead", index, 52.0 + index), NOW)
    queue.offer(request("dry", 7, 50.04), NOW)
    queue.offer(request("half", 3, 53.5), NOW)
    assert taken(queue, 3) == [("dry", 7), ("far ahead", 1), ("half", 3)]
    assert taken(queue, 4) == [("far ahead", 2), ("far ahead", 3)]
    assert taken(queue, 4) == []


def test_equal_deadlines_are_taken_in_order_of_arrival() -> None:
    queue = Scheduler()
    for session in "cab":
        queue.offer(request(session, 1, 51.0), NOW)
    assert taken(queue, 3) == [("c", 1), ("a", 1), ("b", 1)]


def test_a_first_frame_is_taken_at_once_and_in_a_small_batch() -> None:
    queue = Scheduler()
    for index in range(1, 20):
        queue.offer(request("a", index, 50.01 + index / 25), NOW)
    queue.offer(request("new", 0, 50.15), NOW)
    assert taken(queue, 16) == [("new", 0), ("a", 1), ("a", 2), ("a", 3)]
    assert len(taken(queue, 16)) == 16


def test_only_frames_later_than_its_lead_go_before_a_first_one() -> None:
    queue = Scheduler()
    queue.offer(request("new", 0, 50.15), NOW)
    queue.offer(request("late", 9, NOW - FIRST_LEAD_S + 0.01), NOW)
    queue.offer(request("later", 9, NOW - FIRST_LEAD_S - 0.01), NOW)
    assert taken(queue, 3) == [("later", 9), ("new", 0), ("late", 9)]


def test_late_sessions_alternate_and_the_most_behind_is_first() -> None:
    queue = Scheduler()
    for index in range(1, 5):
        queue.offer(request("far behind", index, 48.0 + index / 25), NOW)
    queue.offer(request("behind", 5, 49.9), NOW)
    queue.offer(request("behind", 6, 49.94), NOW)
    queue.offer(request("in time", 7, 50.5), NOW)
    assert taken(queue, 4) == [
        ("far behind", 1),
        ("behind", 5),
        ("far behind", 2),
        ("behind", 6),
    ]
    assert taken(queue, 4) == [("far behind", 3), ("far behind", 4), ("in time", 7)]


@pytest.mark.parametrize(
    ("waiting", "first", "second"),
    [(3, 2, 1), (5, 4, 1), (7, 7, 0), (11, 11, 0), (13, 12, 1), (14, 14, 0), (17, 16, 1)],
)
def test_a_device_that_pads_gets_full_buckets(waiting: int, first: int, second: int) -> None:
    queue = Scheduler(pads=True)
    for index in range(waiting):
        queue.offer(request("a", index + 1, 51.0 + index), NOW)
    assert [len(queue.take(64, NOW)) for _ in range(2)] == [first, second]


def test_a_full_queue_rejects_requests_and_reports_its_size() -> None:
    queue = Scheduler(bound=2)
    assert queue.offer(request("a", 0, 51.0), NOW)
    assert queue.offer(request("a", 1, 51.0), NOW)
    assert not queue.offer(request("a", 2, 51.0), NOW)
    assert (queue.statistics().waiting, queue.statistics().room) == (2, 0)


def test_a_cancel_removes_older_epochs_of_that_session_only() -> None:
    queue = Scheduler()
    queue.offer(request("a", 1, 51.0, epoch=1), NOW)
    queue.offer(request("a", 1, 51.1, epoch=2), NOW)
    queue.offer(request("b", 1, 51.2, epoch=1), NOW)
    assert queue.cancel("a", 2) == 1
    assert [(e.request.session, e.request.epoch) for e in queue.take(9, NOW)] == [
        ("a", 2),
        ("b", 1),
    ]
    assert queue.statistics().waiting == 0


def test_a_request_keeps_its_time_of_arrival() -> None:
    queue = Scheduler()
    queue.offer(request("a", 0, 51.0), NOW)
    assert queue.take(1, NOW + 1)[0].since == NOW


def overloaded() -> Scheduler:
    queue = Scheduler()
    for index in range(4):  # the first of them is the response's first
        queue.offer(request("a", index, 48.0 + index / 25), 47.85)
        queue.offer(request("b", index + 5, 47.9 + index / 25), 47.9)
        queue.offer(request("c", index + 5, 50.1 + index / 25), NOW)
    return queue


def test_overload_sheds_the_oldest_frames_of_the_sessions_most_behind() -> None:
    queue = overloaded()
    assert queue.cancel("a", 9) == 4
    assert given_up(queue, 2) == [("b", 5), ("b", 6)]
    assert given_up(queue, 2) == []  # the next batch holds what is left of the late ones


def test_the_first_frame_and_the_last_waiting_one_are_never_shed() -> None:
    queue = overloaded()
    assert given_up(queue, 0) == [("b", 5), ("b", 6), ("b", 7)]
    assert taken(queue, 2) == [("a", 0), ("b", 8)]
    assert given_up(queue, 0) == [("a", 1), ("a", 2)]


def test_a_session_that_prefers_late_frames_loses_none() -> None:
    queue = Scheduler()
    for index in range(1, 9):
        queue.offer(request("a", index, 40.0), NOW, droppable=False)
    assert given_up(queue, 1) == []


def test_frames_that_are_a_little_late_are_kept() -> None:
    queue = Scheduler()
    for index in range(1, 40):
        queue.offer(request("a", index, NOW - TOO_LATE_S + 0.01), NOW)
    assert given_up(queue, 1) == []


offers = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.integers(1, 3), st.floats(49, 52)),
    max_size=40,
)  # session, frame index, epoch, deadline


def filled(offered: list[tuple[str, int, int, float]], *, pads: bool = False) -> Scheduler:
    queue = Scheduler(pads=pads)
    for session, index, epoch, deadline in offered:
        queue.offer(request(session, index, deadline, epoch), NOW)
    return queue


@given(offered=offers, limit=st.integers(1, 8), epoch=st.integers(1, 4), pads=st.booleans())
def test_no_request_is_lost_or_duplicated(
    offered: list[tuple[str, int, int, float]], limit: int, epoch: int, pads: bool
) -> None:
    queue = filled(offered, pads=pads)
    thrown = queue.cancel("a", epoch)
    left: list[FrameRequest] = []
    while batch := queue.take(limit, NOW):
        assert len(batch) <= limit
        left += [entry.request for entry in batch]
    stale = [own for session, _, own, _ in offered if session == "a" and own < epoch]
    assert thrown == len(stale)
    kept = Counter(o for o in offered if not (o[0] == "a" and o[2] < epoch))
    assert Counter((r.session, r.frame_index, r.epoch, r.deadline) for r in left) == kept


@given(offered=offers, limit=st.integers(1, 8))
def test_frames_in_time_leave_earliest_deadline_first(
    offered: list[tuple[str, int, int, float]], limit: int
) -> None:
    queue = filled([(s, i, e, d + 3) for s, i, e, d in offered if i > 0])
    order: list[float] = []
    while batch := queue.take(limit, NOW):
        order += [entry.due for entry in batch]
    assert order == sorted(order)


@given(offered=offers, limit=st.integers(1, 8), pads=st.booleans())
def test_a_batch_is_as_large_as_it_may_be(
    offered: list[tuple[str, int, int, float]], limit: int, pads: bool
) -> None:
    queue = filled(offered, pads=pads)
    while waiting := queue.statistics().waiting:
        batch = queue.take(limit, NOW)
        room = min(limit, waiting)
        starts = any(e.request.frame_index == 0 for e in batch)
        least = buckets.within(room) if pads else room
        assert len(batch) >= (min(least, FIRST_BATCH) if starts else least) > 0


@given(offered=offers, limit=st.integers(1, 8))
def test_late_sessions_get_equal_shares_of_a_batch(
    offered: list[tuple[str, int, int, float]], limit: int
) -> None:
    queue = filled([(s, i + 1, e, d - 3) for s, i, e, d in offered])
    waiting = Counter(session for session, *_ in offered)
    batch = queue.take(limit, NOW)
    shares = Counter(entry.request.session for entry in batch)
    unserved = [shares[session] for session in waiting if shares[session] < waiting[session]]
    if unserved:
        assert max(shares.values()) - min(unserved) <= 1


@given(behind=st.floats(0, 2), sessions=st.integers(1, 12), limit=st.sampled_from([1, 2, 4, 8]))
def test_no_frame_waits_longer_than_those_due_before_it_take(
    behind: float, sessions: int, limit: int
) -> None:
    """Others keep offering at 25 frames a second each; a batch takes 40 ms."""
    queue = Scheduler()
    queue.offer(request("mine", 1, NOW - behind), NOW)
    now, waited = NOW, 0
    while True:
        for other in range(sessions):
            queue.offer(request(f"other {other}", waited + 1, now), now)
        if ("mine", 1) in taken(queue, limit, now):
            break
        now, waited = now + 0.04, waited + 1
    assert waited <= -(-(sessions + 1) // limit)


@given(sessions=st.integers(8, 24), limit=st.sampled_from([4, 8, 12, 16, 24, 32]))
def test_saturating_sessions_fill_nine_tenths_of_the_buckets(sessions: int, limit: int) -> None:
    """Each keeps eight frames in flight; every fiftieth frame begins a response."""
    queue = Scheduler(pads=True)
    sent = dict.fromkeys(range(sessions), 0)
    now, paid, made = NOW, 0, 0

    def ask(session: int) -> None:
        index = sent[session] % 50
        queue.offer(request(str(session), index, now + 0.15 + index / 25), now)
        sent[session] += 1

    for session in sent:
        sent[session] = session * 7  # they do not begin together
        for _ in range(8):
            ask(session)
    for _ in range(60):
        batch = queue.take(limit, now)
        made += len(batch)
        paid += buckets.around(len(batch))
        now += 0.02
        for entry in batch:
            ask(int(entry.request.session))
    assert made / paid >= 0.9


def expired(queue: Scheduler, service_s: float, now: float = NOW) -> list[tuple[str, int]]:
    return [(r.session, r.frame_index) for r in queue.expire(now, service_s)]


def live(queue: Scheduler, session: str, indices: range, first_expires: float) -> None:
    for place, index in enumerate(indices):
        deadline = first_expires - 0.5 + place / 25
        queue.offer(request(session, index, deadline), NOW, expires=first_expires + place / 25)


def test_frames_that_expire_before_their_batch_ends_are_removed() -> None:
    queue = Scheduler()
    live(queue, "a", range(5, 10), NOW + 0.1)
    live(queue, "b", range(1, 3), NOW + 1.0)
    assert expired(queue, 0.2) == [("a", 5), ("a", 6), ("a", 7)]
    assert queue.statistics().waiting == 4
    assert expired(queue, 0.0) == []


def test_the_last_frame_of_a_session_is_tried_until_it_has_expired() -> None:
    queue = Scheduler()
    live(queue, "a", range(5, 8), NOW + 0.1)
    assert expired(queue, 9.0) == [("a", 5), ("a", 6)]
    assert expired(queue, 9.0, NOW + 0.17) == []
    assert expired(queue, 9.0, NOW + 0.19) == [("a", 7)]
    assert taken(queue, 4) == []


def test_frames_that_do_not_expire_wait() -> None:
    queue = Scheduler()
    queue.offer(request("file", 1, NOW - 60), NOW)
    assert expired(queue, 9.0) == []
