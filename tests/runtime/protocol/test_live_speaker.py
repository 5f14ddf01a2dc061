"""A microphone in front of a session whose engine is slow, or stops for a while: virtual time."""

from __future__ import annotations

import base64
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.runtime.protocol.conftest import Connect, Event, FakeWindow, SessionDriver

    from avatar_runtime.protocol.frame_flow import FrameDue

RATE = 24_000
FRAME_S = 0.04
BYTES_PER_S = 2 * RATE
NEEDED_S = 0.12  # audio from the start of a frame that the frame needs
START = 1000.0
PATTERN = bytes(range(251)) * 300


@dataclass
class Pod:
    """One session, its speaker, and an engine that takes `frame_s` for each frame.

    It does what the caller of a session does, at the exact times that the session asks for.
    """

    driver: SessionDriver
    frame_s: float
    appended: bytearray = field(default_factory=bytearray)
    arrived_at: list[float] = field(default_factory=list)
    """When each piece of audio arrived, and in `ends` how many bytes there were then."""
    ends: list[int] = field(default_factory=list)
    queue: deque[FrameDue[FakeWindow]] = field(default_factory=deque)
    busy_until: float | None = None
    frames: list[tuple[float, float]] = field(default_factory=list)
    """When each frame left, and the start of the frame in its response, seconds."""
    sound: bytearray = field(default_factory=bytearray)
    longest_wait_s: float = 0.0
    """The longest time for which a sound waited whose frame could be generated."""
    told: int = 0
    """Frames that `response.video.dropped` named."""
    warnings: list[str] = field(default_factory=list)
    ended: list[Event] = field(default_factory=list)

    def hear(self, arrivals: Iterable[tuple[float, float]]) -> Pod:
        """Take audio of some seconds at each of some times, then the commit, and finish."""
        now = self.driver.now
        for seconds, at in arrivals:
            self.run(at)
            now = at
            first = len(self.appended) % 251
            more = PATTERN[first : first + round(seconds * RATE) * 2]
            self.appended += more
            self.arrived_at.append(now)
            self.ends.append(len(self.appended))
            self.read(self.driver.append(more))
            self.collect()
        self.read(self.driver.send("input_audio_buffer.commit"))
        self.run(now + 600.0)
        return self

    def run(self, until: float) -> None:
        """Do what is due before a time."""
        driver, session = self.driver, self.driver.session
        while True:
            next_due = session.next_due()
            times = [session.wakeup(), self.busy_until, None if self.queue else next_due]
            at = max(driver.now, min(time for time in times if time is not None))
            if at > until:
                break
            driver.now = at
            if self.busy_until is not None and self.busy_until <= at:
                self.busy_until = None
                driver.deliver(self.queue.popleft())
            session.tick(at)
            self.read(driver.pull())
            self.collect()
            if self.ended:
                return
        driver.now = max(driver.now, until)

    def collect(self) -> None:
        self.queue.extend(self.driver.due())
        if self.queue and self.busy_until is None:
            self.drop_expired()
            self.busy_until = self.driver.now + self.frame_s
        self.read(self.driver.pull())

    def drop_expired(self) -> None:
        """Drop what would be late, as `Scheduler.expire` does with the frames of one session."""
        now, queue = self.driver.now, self.queue
        while len(queue) > 1 and (queue[0].expires or now + 99) <= now + self.frame_s:
            late = queue.popleft()
            self.driver.session.skip(late.response_ref, late.epoch, late.frame_index, now)

    def read(self, events: list[Event]) -> None:
        now = self.driver.now
        for event in events:
            match event["type"]:
                case "response.output_audio.delta":
                    needed = len(self.sound) + round(NEEDED_S * BYTES_PER_S)
                    piece = min(bisect_left(self.ends, needed), len(self.ends) - 1)
                    self.longest_wait_s = max(self.longest_wait_s, now - self.arrived_at[piece])
                    self.sound += base64.b64decode(event["delta"])
                case "response.video.delta":
                    self.frames.append((now, event["pts_ms"] / 1000))
                case "response.video.dropped":
                    assert event["reason"] == "overload"
                    self.told += event["last_frame_index"] - event["first_frame_index"] + 1
                case "warning":
                    self.warnings.append(event["warning"]["code"])
                case "response.video.done":
                    self.ended.append(event)

    def behind_s(self, since_s: float = 0.0, until_s: float = 1e9) -> list[float]:
        """Return how far each frame that left in a period was behind an exact microphone."""
        return [at - START - pts_s for at, pts_s in self.frames if since_s <= at - START < until_s]

    def check_that_nothing_is_lost(self) -> None:
        assert bytes(self.sound) == bytes(self.appended)
        [done] = self.ended
        assert done["dropped"] == self.told
        assert done["frames"] == len(self.frames)
        assert done["frames"] + done["dropped"] == ceil(len(self.appended) / 2 / (RATE * FRAME_S))


def pod(connect: Connect, frame_s: float, window_ms: int = 1000, overrun: str = "drop") -> Pod:
    driver = connect(idle_timeout_s=7200.0)
    flow = {"mode": "clock", "window_ms": window_ms, "overrun": overrun}
    driver.update(avatar={"flow": flow})
    return Pod(driver, frame_s)


def microphone(
    seconds: float, chunk_s: float = 0.02, stop: tuple[float, float] = (0.0, 0.0)
) -> list[tuple[float, float]]:
    """Return pieces of audio and when they arrive.

    `stop` is a period in which nothing is read: what was spoken in it arrives at its end.
    """
    spoken = [START + index * chunk_s for index in range(1, round(seconds / chunk_s) + 1)]
    begin, end = (START + stop_s for stop_s in stop)
    return [(chunk_s, end if begin <= at < end else at) for at in spoken]


def test_a_slow_engine_never_falls_a_second_behind_a_microphone(connect: Connect) -> None:
    slow = pod(connect, 0.09).hear(microphone(20))  # 11.1 frames a second
    assert max(slow.behind_s()) <= 1.0
    assert slow.longest_wait_s <= 1.0
    assert 0.9 < len(slow.frames) / (20 / 0.09) < 1.1
    assert slow.warnings == ["overload"]
    assert slow.told > 250
    slow.check_that_nothing_is_lost()


def test_a_small_window_keeps_the_sound_prompt(connect: Connect) -> None:
    slow = pod(connect, 0.09, window_ms=200).hear(microphone(10))
    assert slow.longest_wait_s <= 0.5 + 2 * 0.02  # the first word may be a file
    assert max(slow.behind_s(2.0)) <= NEEDED_S + 2 * 0.02 + 0.2
    slow.check_that_nothing_is_lost()


def test_a_pod_that_was_stopped_is_back_at_the_microphone(connect: Connect) -> None:
    stopped = pod(connect, 0.005)
    stopped.hear(microphone(30, stop=(5.0, 20.0)))
    assert max(stopped.behind_s(0, 5)) == pytest.approx(0.125)
    assert max(stopped.behind_s(21.0)) == pytest.approx(0.125)
    assert stopped.warnings == ["overload"]
    assert 350 < stopped.told < 380
    stopped.check_that_nothing_is_lost()


def test_a_session_that_drops_nothing_catches_up_and_says_that_it_is_late(connect: Connect) -> None:
    stopped = pod(connect, 0.005, overrun="pause")
    stopped.hear(microphone(30, stop=(5.0, 20.0)))
    assert stopped.told == 0
    assert stopped.warnings == ["overload"]
    assert max(stopped.behind_s(25.0)) <= 0.25
    stopped.check_that_nothing_is_lost()


@pytest.mark.parametrize("pace", [1e9, 3.0, 1.3], ids=["at-once", "three-times", "a-third-faster"])
def test_audio_that_is_faster_than_speech_loses_nothing_on_a_slow_engine(
    connect: Connect, pace: float
) -> None:
    arrivals = [(0.1, START + index * 0.1 / pace) for index in range(100)]
    slow = pod(connect, 0.09).hear(arrivals)
    assert slow.told == 0
    assert slow.warnings == []
    slow.check_that_nothing_is_lost()


def test_a_pause_of_the_speaker_is_no_delay_of_the_pod(connect: Connect) -> None:
    before = microphone(5)
    after = [(seconds, at + 13.0) for seconds, at in microphone(5)]
    paused = pod(connect, 0.02).hear([*before, *after])
    assert paused.told == 0
    assert paused.warnings == []
    paused.check_that_nothing_is_lost()


@pytest.mark.parametrize("asks_after_s", [2.0, 5.0], ids=["in-the-turn", "after-the-turn"])
def test_what_waits_for_a_request_is_not_late_before_it(
    connect: Connect, asks_after_s: float
) -> None:
    waiting = pod(connect, 0.02)
    detection = {"type": "server_vad", "create_response": False}
    waiting.driver.update(audio={"input": {"turn_detection": detection}})
    waiting.driver.events.clear()
    spoken = b"\x00\x20" * 480 * 200 + b"\x01\x00" * 480 * 100  # 4 s of speech, 2 s of silence
    for index in range(300):
        at = START + (index + 1) * 0.02
        waiting.run(at)
        waiting.arrived_at.append(at)
        waiting.ends.append((index + 1) * 960)
        waiting.read(waiting.driver.append(spoken[index * 960 : (index + 1) * 960]))
        if at == pytest.approx(START + asks_after_s):
            waiting.read(waiting.driver.send("response.create"))
        waiting.collect()
    waiting.run(START + 20.0)
    [done] = waiting.ended
    assert (done["dropped"], waiting.told, waiting.warnings) == (0, 0, [])
    assert done["frames"] == len(waiting.frames) > 100


@pytest.mark.parametrize("chunk_s", [0.02, 0.1, 0.5, 1.0])
def test_a_fast_engine_drops_nothing_whatever_the_pieces(connect: Connect, chunk_s: float) -> None:
    for window_ms in (200, 1000):
        fast = pod(connect, 0.01, window_ms).hear(microphone(20, chunk_s))
        assert fast.told == 0
        fast.check_that_nothing_is_lost()


@pytest.mark.slow
@pytest.mark.parametrize("speed", [1.0, 0.9998, 1.0002], ids=["exact", "slow", "fast"])
def test_twenty_minutes_of_one_utterance_end_as_they_began(connect: Connect, speed: float) -> None:
    """`speed` is the clock of the speaker's sound card by that of the pod."""
    arrivals = [(0.04, START + index * 0.04 / speed) for index in range(1, 30_001)]
    long = pod(connect, 0.01).hear(arrivals)
    behind = [at - START - pts_s / speed for at, pts_s in long.frames]
    assert long.told == 0
    assert long.warnings == []
    assert behind[-30:-10] == pytest.approx(behind[10:30], abs=0.02)
    long.check_that_nothing_is_lost()


@pytest.mark.slow
@settings(max_examples=20, phases=[Phase.explicit, Phase.generate])
@given(
    frame_s=st.floats(0.001, 0.5),
    window_ms=st.integers(200, 3000),
    chunk_ms=st.sampled_from([20, 60, 100]),
    stop=st.tuples(st.floats(2, 4), st.floats(0, 6)),
)
def test_sound_waits_no_longer_than_the_window_and_is_never_lost(
    connect: Connect, frame_s: float, window_ms: int, chunk_ms: int, stop: tuple[float, float]
) -> None:
    arrivals = microphone(6, chunk_ms / 1000, (stop[0], stop[0] + stop[1]))
    heard = pod(connect, frame_s, window_ms).hear(arrivals)
    chunk_s, window_s = chunk_ms / 1000, window_ms / 1000
    allowed_s = max(min(window_s, 0.9 - NEEDED_S), chunk_s + min(window_s, 0.3))
    # Until half a second has arrived, the source may be a file.
    assert heard.longest_wait_s <= max(allowed_s + 0.04, 0.5 + 2 * chunk_s) + 1e-6
    heard.check_that_nothing_is_lost()
