"""The times of the pacer, exactly."""

from __future__ import annotations

import pytest

from avatar_runtime.protocol.pacing import Pacer
from avatar_runtime.protocol.rate_limit import RateLimiter

NOW = 100.0


def pacer(frames: int = 0) -> Pacer:
    made = Pacer(25)
    made.add_frames(frames, NOW)
    return made


def test_frames_are_played_one_after_another_from_their_arrival() -> None:
    ahead = pacer(5)
    assert ahead.end == pytest.approx(NOW + 0.2)
    ahead.add_frames(5, NOW + 0.1)
    assert ahead.end == pytest.approx(NOW + 0.4)
    ahead.add_frames(0, NOW + 9)
    assert ahead.end == pytest.approx(NOW + 0.4)
    ahead.add_frames(1, NOW + 9)
    assert ahead.end == pytest.approx(NOW + 9.04)
    ahead.remove_frames(3)
    assert ahead.end == pytest.approx(NOW + 8.92)


def test_what_is_discarded_is_not_played() -> None:
    ahead = pacer(5)
    ahead.stop(NOW + 0.1)
    assert ahead.end == NOW + 0.1
    ahead.stop(NOW + 5)
    assert ahead.end == NOW + 0.1


@pytest.mark.parametrize(
    ("frames", "in_flight", "after_s", "fits"),
    [
        (0, 0, 0.0, True),
        (0, 4, 0.0, True),
        (0, 5, 0.0, False),
        (3, 1, 0.0, True),
        (3, 2, 0.0, False),
        (3, 2, 0.04, True),
        (4, 0, 0.0, True),
        (5, 0, 0.0, False),
        (5, 4, 9.0, True),
    ],
)
def test_a_window_of_200_ms_holds_five_frames(
    frames: int, in_flight: int, after_s: float, fits: bool
) -> None:
    assert pacer(frames).fits(200, in_flight, NOW + after_s) is fits


def test_the_window_opens_when_a_frame_was_played() -> None:
    ahead = pacer(5)
    assert ahead.opens_at(200, 0) == pytest.approx(NOW + 0.04)
    assert ahead.opens_at(200, 2) == pytest.approx(NOW + 0.12)
    assert ahead.opens_at(200, 4) == pytest.approx(NOW + 0.2)
    assert ahead.opens_at(200, 5) is None
    opened = ahead.opens_at(200, 0)
    assert opened is not None
    assert ahead.fits(200, 0, opened)


def test_a_frame_is_due_when_it_is_played_but_not_before_its_objective() -> None:
    assert pacer().deadline(0, 0, NOW) == pytest.approx(NOW + 0.15)
    assert pacer().deadline(1, 0, NOW) == pytest.approx(NOW + 0.04)
    assert pacer(3).deadline(0, 0, NOW) == pytest.approx(NOW + 0.15)
    assert pacer(3).deadline(1, 0, NOW) == pytest.approx(NOW + 0.12)
    assert pacer(3).deadline(1, 2, NOW) == pytest.approx(NOW + 0.2)
    assert pacer(5).deadline(0, 1, NOW) == pytest.approx(NOW + 0.24)


def test_events_of_a_window_are_counted_and_rejected_ones_are_not() -> None:
    limiter = RateLimiter(2, 10.0)
    admitted = [limiter.admits(now) for now in (0.0, 1.0, 2.0, 9.9, 10.0, 10.5, 11.0, 20.0)]
    assert admitted == [True, True, False, False, True, False, True, True]
    assert limiter.limit == 2
