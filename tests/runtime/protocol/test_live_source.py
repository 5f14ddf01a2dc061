from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from avatar_runtime.protocol.live_source import (
    LIVE_AFTER_S,
    MAX_BEHIND_S,
    OverloadReport,
    SourceClock,
    live_times,
)

START = 1000.0
Arrivals = list[tuple[float, float]]
"""Seconds of audio, and the seconds since the arrival before."""


def heard(arrivals: Arrivals) -> SourceClock:
    clock, now, end_s = SourceClock(), START, 0.0
    for seconds, gap_s in arrivals:
        now += gap_s
        end_s += seconds
        clock.add(end_s, now)
    return clock


def microphone(seconds: float, chunk_s: float = 0.02) -> Arrivals:
    return [(chunk_s, chunk_s)] * round(seconds / chunk_s)


def burst(seconds: float, pace: float = 1e9, chunk_s: float = 0.1) -> Arrivals:
    return [(chunk_s, chunk_s / pace)] * round(seconds / chunk_s)


STOPPED = [*microphone(5), (0.02, 15.0), *burst(15, chunk_s=0.02)]

LIVE = {
    "microphone": microphone(1.1),
    "pieces-of-a-second": microphone(4, 1.0),
    "with-audio-from-before-the-turn": [(0.5, 0.0), *microphone(1.1)],
    "in-pairs": [(0.02, 0.0), *[(0.02, 0.0), (0.02, 0.04)] * 60],
    "a-sound-card-that-is-too-fast": [(0.02, 0.02 * 0.9998)] * 6000,
    "a-sound-card-that-is-too-slow": [(0.02, 0.02 * 1.0002)] * 6000,
    "slower-than-speech": [(0.1, 0.15)] * 20,
    "after-a-pause": [*microphone(2), (0.02, 8.0), *microphone(0.5)],
    "after-a-stall": STOPPED,
}
NOT_LIVE = {
    "nothing": [],
    "the-first-word": microphone(0.4),
    "one-append": [(600.0, 0.0)],
    "one-second-at-once": [(1.0, 0.0)],
    "a-file": burst(20),
    "twice-as-fast": burst(20, pace=2),
    "a-quarter-faster": burst(20, pace=1.25),
    "a-file-after-a-word-and-a-pause": [*burst(1), (0.1, 8.0), *burst(8)],
    "sentences-from-a-voice-model": [(3.0, 5.0)] * 4,
    "a-file-after-the-microphone": [*microphone(2), *burst(2)],
}


@pytest.mark.parametrize("arrivals", LIVE.values(), ids=LIVE)
def test_audio_at_the_pace_of_speech_is_live(arrivals: Arrivals) -> None:
    assert heard(arrivals).is_live


@pytest.mark.parametrize("arrivals", NOT_LIVE.values(), ids=NOT_LIVE)
def test_audio_that_is_faster_or_too_short_is_not_live(arrivals: Arrivals) -> None:
    assert not heard(arrivals).is_live


@given(
    st.lists(st.tuples(st.floats(0.01, 5), st.floats(1.3, 50)), min_size=1, max_size=100),
)
def test_audio_that_is_always_a_third_faster_is_never_live(
    pieces: list[tuple[float, float]],
) -> None:
    assert not heard([(seconds, seconds / pace) for seconds, pace in pieces]).is_live


@given(st.floats(0.01, 1.0), st.lists(st.floats(0.0, 0.05), min_size=200, max_size=200))
def test_a_microphone_is_live_with_any_pieces_and_delays(
    chunk_s: float, delays: list[float]
) -> None:
    """A delay up to 50 ms for each piece; the order stays."""
    clock, last = SourceClock(), START
    for index, delay_s in enumerate(delays, start=1):
        last = max(last, START + index * chunk_s + delay_s)
        clock.add(index * chunk_s, last)
    assert clock.is_live == (199 * chunk_s > LIVE_AFTER_S)


KEEPS_PACE = {
    "nothing-before": ([], 7.0, 0.0, True),
    "after-a-silence": (microphone(2), 5.0, 3.0, True),
    "a-little-early": (microphone(2), 5.0, 2.55, True),
    "too-early": (microphone(2), 5.0, 2.4, False),
    "the-next-word-of-a-file": (burst(2), 3.0, 0.0, False),
    "a-file-after-it-was-spoken": (burst(2), 3.0, 3.0, True),
    "after-a-start-that-was-read-late": (burst(0.7) + microphone(2), 5.7, 3.0, True),
    "a-file-after-a-start-that-was-read-late": (burst(0.7) + microphone(2), 5.7, 2.3, False),
    "after-a-stall-and-its-burst": (STOPPED, 23.0, 2.9, True),
}


@pytest.mark.parametrize("case", KEEPS_PACE.values(), ids=KEEPS_PACE)
def test_later_audio_keeps_the_pace_if_it_is_no_faster_than_speech(
    case: tuple[Arrivals, float, float, bool],
) -> None:
    arrivals, position_s, after_s, keeps = case
    now = START + sum(gap_s for _, gap_s in arrivals) + after_s
    assert heard(arrivals).keeps_pace(position_s, now) is keeps


def test_after_a_stall_the_audio_was_captured_when_it_was_spoken() -> None:
    clock = heard(STOPPED)
    # 5.02 s were spoken when the stall ended, 15 s later: 20.02 s were captured.
    for position_s in (0.0, 4.0, 5.0, 12.0, 20.0):
        assert clock.captured_at(position_s) == pytest.approx(START + position_s, abs=0.021)


def test_audio_after_a_pause_is_captured_when_it_arrives() -> None:
    clock = heard([*microphone(2), (0.02, 8.0), *microphone(1)])
    assert clock.captured_at(1.0) == pytest.approx(START + 1.0)
    assert clock.captured_at(2.5) == pytest.approx(START + 10.48)


@example([(0.01, 0.0), (0.01, 1.0), (0.1, 0.0)], 0.0)
@given(
    st.lists(st.tuples(st.floats(0.001, 2), st.floats(0, 3)), min_size=1, max_size=60),
    st.floats(0, 1, exclude_max=True),
)
def test_audio_is_captured_before_later_audio_arrives(arrivals: Arrivals, share: float) -> None:
    """The clock agrees with the definition, to the 40 ms of a step."""
    clock = heard(arrivals)
    ends: list[tuple[float, float]] = []
    now, end_s = START, 0.0
    for seconds, gap_s in arrivals:
        now, end_s = now + gap_s, end_s + seconds
        ends.append((end_s, now - end_s))

    def defined(position_s: float) -> float:
        return min(offset for end, offset in ends if end >= min(position_s, ends[-1][0]) - 1e-6)

    position_s = share * ends[-1][0]
    clock.forget(position_s)
    offset = clock.captured_at(position_s) - position_s
    assert defined(position_s) - 1e-6 <= offset <= defined(position_s + 0.04) + 1e-6


def test_the_memory_of_a_clock_is_bounded_by_the_audio() -> None:
    clock = heard([(0.0001, 0.001)] * 100_000)  # 10 s of audio in 100,000 pieces
    assert len(clock._arrivals) <= 10 / 0.04 + 1
    clock.forget(9.0)
    assert len(clock._arrivals) <= 1 / 0.04 + 2


def test_a_frame_of_a_microphone_expires_before_it_is_a_second_behind() -> None:
    times = live_times(START + 0.16, lookahead_s=0.16, lead_s=0.02, window_s=1.0)
    assert times.due == pytest.approx(START + 0.33)
    assert times.expires == pytest.approx(START + MAX_BEHIND_S)


def test_a_small_window_limits_how_long_sound_waits() -> None:
    times = live_times(START, lookahead_s=0.16, lead_s=0.02, window_s=0.2)
    assert times.expires == pytest.approx(START + 0.02 + 0.2)


@given(st.floats(0, 30), st.floats(0.12, 1), st.floats(0.2, 10))
def test_what_the_source_sends_at_once_does_not_count_as_late(
    lead_s: float, lookahead_s: float, window_s: float
) -> None:
    times = live_times(START + lookahead_s, lookahead_s, lead_s, window_s)
    assert START + lookahead_s + lead_s < times.due <= times.expires
    assert times.expires <= START + max(MAX_BEHIND_S, lookahead_s + lead_s + 0.3) + 1e-9


def test_an_overload_is_reported_again_only_after_ten_seconds_in_time() -> None:
    report = OverloadReport()
    moments = [0.0, 0.04, 9.0, 18.9, 28.8, 38.9, 39.0]
    assert [report.is_new(START + moment) for moment in moments] == [
        True, False, False, False, False, True, False,
    ]  # fmt: skip


def test_audio_that_waited_for_a_request_is_captured_as_late_as_the_request() -> None:
    clock = heard(microphone(3))
    requested_at = START + 10.0
    clock.restart(requested_at)
    assert not clock.is_live
    for index in range(1, 51):
        clock.add(3.0 + index * 0.02, requested_at + index * 0.02)
    assert clock.is_live
    for position_s in (0.5, 3.0, 3.8):
        times = live_times(clock.captured_at(position_s), 0.16, clock.lead_s, 1.0)
        assert times.due == pytest.approx(requested_at + position_s + 0.15, abs=0.02)


def test_a_restart_leaves_the_pace_to_the_next_turn_as_it_is() -> None:
    clock = heard(microphone(3))
    clock.restart(START + 3.5)
    assert clock.keeps_pace(4.0, START + 4.0)
    assert not clock.keeps_pace(4.6, START + 4.0)


def test_a_restart_before_the_first_audio_changes_nothing() -> None:
    clock = SourceClock()
    clock.restart(START)
    for index in range(1, 60):
        clock.add(index * 0.02, START + 5 + index * 0.02)
    assert clock.is_live
    assert clock.lead_s == pytest.approx(0.02)
