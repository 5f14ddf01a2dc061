"""Flow control by acknowledgements: docs/wire-protocol.md, "Flow control"."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_runtime.protocol.credits import Credits

if TYPE_CHECKING:
    from .conftest import Connect, SessionDriver

FRAME = bytes(1920)
FRAME_MS = 40


def of(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] == kind]


def started(connect: Connect, window_ms: int = 400, **options: Any) -> SessionDriver:
    driver = connect(**options)
    flow = {"mode": "ack", "window_ms": window_ms}
    [updated] = driver.update(avatar={"flow": flow})
    assert updated["session"]["avatar"]["flow"] == {**flow, "overrun": "drop"}
    return driver


def say(driver: SessionDriver, frames: int) -> None:
    driver.append(FRAME * frames)
    driver.send("input_audio_buffer.commit")


def ack(driver: SessionDriver, number: int, pts_ms: float) -> list[dict[str, Any]]:
    return driver.send("output_video_buffer.ack", response_id=f"resp_0a_{number}", pts_ms=pts_ms)


def test_the_window_opens_by_acknowledgements_and_by_nothing_else(connect: Connect) -> None:
    driver = started(connect)
    say(driver, 50)
    assert len(of(driver.make(), "response.video.delta")) == 10
    assert of(driver.run(20.0), "response.video.delta") == []
    assert driver.session.next_due() is None
    assert ack(driver, 1, 140) == []
    assert ack(driver, 1, 60) == []  # it goes back
    taken = driver.make()
    assert [frame["frame_index"] for frame in of(taken, "response.video.delta")] == [10, 11, 12]
    assert driver.make() == []
    for pts_ms in range(400, 2000, 400):
        ack(driver, 1, pts_ms)
        driver.make()
    assert of(driver.events, "response.done")[0]["response"]["status"] == "completed"
    assert of(driver.events, "response.video.dropped") == []


def test_playback_stops_by_acknowledgements(connect: Connect) -> None:
    driver = started(connect, 2000)
    driver.append(FRAME * 9 + bytes(960))  # 380 ms: half of the last frame
    driver.send("input_audio_buffer.commit")
    driver.make()
    assert of(driver.events, "response.done")
    assert of(driver.run(30.0), "output_audio_buffer.stopped") == []
    assert of(ack(driver, 1, 379), "output_audio_buffer.stopped") == []
    assert [event["type"] for event in ack(driver, 1, 380)] == [
        "output_audio_buffer.stopped",
        "session.avatar.switch_to_idle",
    ]
    assert ack(driver, 1, 380) == []


def test_the_window_counts_all_responses_and_a_later_one_covers_those_before(
    connect: Connect,
) -> None:
    driver = started(connect)
    say(driver, 6)
    say(driver, 6)
    say(driver, 50)
    # 400 ms in all: six frames of the first response, four of the second.
    assert len(of(driver.run(5.0), "response.video.delta")) == 10
    ack(driver, 1, 240)
    assert len(of(driver.run(5.0), "response.video.delta")) == 6
    stopped = of(ack(driver, 3, 40), "output_audio_buffer.stopped")
    assert [event["response_id"] for event in stopped] == ["resp_0a_2"]
    assert len(of(driver.make(), "response.video.delta")) == 7  # 240 + 40 ms are free


def test_a_response_that_was_acknowledged_before_its_end_stops_with_it(connect: Connect) -> None:
    driver = started(connect)
    driver.append(FRAME * 5 + bytes(960))
    driver.make()  # three frames and their audio
    ack(driver, 1, 120)
    driver.send("input_audio_buffer.commit")
    frames = driver.due()
    for frame in frames:
        driver.deliver(frame)
    # The audio leaves first, and the client is as far as the audio.
    outgoing = driver.session.pull(driver.now)
    assert outgoing is not None
    assert '"response.output_audio.delta"' in outgoing.message
    driver.session.receive(
        '{"type":"output_video_buffer.ack","response_id":"resp_0a_1","pts_ms":220}', driver.now
    )
    driver.pull()
    driver.session.tick(driver.now)
    driver.pull()
    kinds = [event["type"] for event in driver.events]
    assert kinds.index("output_audio_buffer.stopped") > kinds.index("response.done")


def test_an_ack_may_be_as_far_as_the_sound_and_no_further(connect: Connect) -> None:
    driver = started(connect)
    driver.append(FRAME * 8)
    for frame in driver.due():
        driver.deliver(frame)
    while (outgoing := driver.session.pull(driver.now)) is not None:
        if '"response.output_audio.delta"' in outgoing.message:
            break
    answers = [ack_raw(driver, pts_ms) for pts_ms in (240, 240.1)]
    assert answers[0] is None
    assert answers[1] == ("ack_ahead", 240)


def ack_raw(driver: SessionDriver, pts_ms: float) -> tuple[str, object] | None:
    found = of(ack(driver, 1, pts_ms), "error")
    return (found[0]["error"]["code"], found[0]["error"]["limit"]) if found else None


@pytest.mark.parametrize("end", ["response.cancel", "output_audio_buffer.clear"])
def test_a_new_epoch_frees_the_window_and_ignores_the_old_acks(connect: Connect, end: str) -> None:
    driver = started(connect)
    say(driver, 50)
    driver.make()
    ack(driver, 1, 120)
    driver.send(end)
    driver.session.tick(driver.now)
    driver.pull()
    ends = {"response.cancel": "stopped", "output_audio_buffer.clear": "cleared"}
    assert of(driver.events, f"output_audio_buffer.{ends[end]}")
    say(driver, 50)
    frames = of(driver.make(), "response.video.delta")
    assert [frame["frame_index"] for frame in frames if not frame["idle"]] == list(range(10))
    assert ack(driver, 1, 400) == []
    assert driver.make() == []
    ack(driver, 2, 40)
    assert len(driver.make()) > 0


def test_a_new_epoch_ends_what_was_not_played_before_it(connect: Connect) -> None:
    driver = started(connect)
    say(driver, 5)
    say(driver, 50)
    driver.run(1.0)
    driver.send("response.cancel")
    driver.session.tick(driver.now)
    driver.pull()
    stopped = of(driver.events, "output_audio_buffer.stopped")
    assert [event["response_id"] for event in stopped] == ["resp_0a_1", "resp_0a_2"]


def test_a_truncation_frees_the_window(connect: Connect) -> None:
    driver = started(connect)
    say(driver, 10)
    driver.make()
    driver.send(
        "conversation.item.truncate", item_id="item_0a_a1", content_index=0, audio_end_ms=100
    )
    driver.session.tick(driver.now)
    assert of(driver.pull(), "output_audio_buffer.stopped")
    say(driver, 50)
    frames = of(driver.make(), "response.video.delta")
    assert len([frame for frame in frames if not frame["idle"]]) == 10


def test_a_client_that_never_acks_idles_out_with_one_window_in_memory(connect: Connect) -> None:
    driver = started(connect, 1000, idle_timeout_s=60.0)
    say(driver, 25 * 120)
    made = len(of(driver.make(), "response.video.delta"))
    made += len(of(driver.run(59.0, 0.5), "response.video.delta"))
    assert made == 25
    assert driver.session.closing is None
    driver.run(1.0)
    assert driver.session.closing is not None
    assert driver.session.closing.code == 4408
    assert of(driver.events, "response.video.dropped") == []


def test_the_window_alone_drops_no_frame_of_a_live_speaker(connect: Connect) -> None:
    driver = started(connect, 400)
    for _ in range(150):  # six seconds at the pace of speech, and the client plays none of it
        driver.append(FRAME)
        driver.run(0.04, 0.04)
    assert len(of(driver.events, "response.video.delta")) == 10
    for pts_ms in range(200, 5800, 200):
        ack(driver, 1, pts_ms)
        driver.run(0.2, 0.04)
    assert of(driver.events, "response.video.dropped") == []
    assert of(driver.events, "warning") == []
    assert len(of(driver.events, "response.video.delta")) == 148  # 80 ms wait for the future


def test_a_frame_that_has_waited_for_the_client_is_not_late(connect: Connect) -> None:
    driver = started(connect, 400)
    for _ in range(100):
        driver.append(FRAME)
        driver.run(0.04, 0.04)
    ack(driver, 1, 400)
    frames = driver.due()  # they were spoken more than two seconds ago
    assert len(frames) == 10
    assert all(frame.expires is not None and frame.expires > driver.now for frame in frames)
    driver.now += 0.3
    driver.session.tick(driver.now)
    for frame in frames:
        assert driver.deliver(frame)
    driver.pull()
    assert of(driver.events, "response.video.dropped") == []


def test_a_live_speaker_loses_late_frames_also_with_acknowledgements(connect: Connect) -> None:
    driver = started(connect, 1000)
    for count in range(50):
        driver.append(FRAME)
        driver.run(0.04, 0.04)
        ack(driver, 1, max(0, (count - 4) * 40))
    before = len(of(driver.events, "response.video.delta"))
    for _ in range(50):  # the engine stands still for two seconds, the client plays on
        driver.append(FRAME)
        driver.now += 0.04
        driver.due()
        driver.session.tick(driver.now)
        driver.pull()
    assert of(driver.events, "response.video.dropped")[0]["reason"] == "overload"
    assert of(driver.events, "warning")[0]["warning"]["code"] == "overload"
    assert before > 40


def test_what_is_not_played_survives_a_change_of_the_mode(connect: Connect) -> None:
    driver = connect()
    driver.update(avatar={"flow": {"window_ms": 400}})
    say(driver, 100)
    driver.make()
    driver.now += 0.2  # half of the window is played, by the clock
    driver.update(avatar={"flow": {"mode": "ack"}})
    assert len(of(driver.make(), "response.video.delta")) == 5
    assert of(driver.run(5.0), "response.video.delta") == []
    ack(driver, 1, 320)
    assert len(of(driver.make(), "response.video.delta")) == 3
    driver.update(avatar={"flow": {"mode": "clock"}})
    assert of(driver.make(), "response.video.delta") == []
    assert len(of(driver.run(0.4), "response.video.delta")) == 10


def test_the_mode_may_change_while_a_finished_response_plays(connect: Connect) -> None:
    driver = connect()
    say(driver, 10)
    driver.make()
    driver.update(avatar={"flow": {"mode": "ack"}})
    assert of(driver.run(3.0), "output_audio_buffer.stopped") == []
    driver.update(avatar={"flow": {"mode": "clock"}})
    assert of(driver.run(0.3, 0.02), "output_audio_buffer.stopped") == []
    assert of(driver.run(0.14, 0.02), "output_audio_buffer.stopped")


def test_an_acknowledgement_moves_the_credits_forward_and_no_further_than_the_media() -> None:
    counted = Credits(25)
    counted.begin("r1")
    counted.add_frames(10)
    assert counted.ack("r1", 100.0)
    assert counted.unplayed_s == pytest.approx(0.3)
    assert counted.ack("r1", 60.0)
    assert counted.unplayed_s == pytest.approx(0.3)
    assert counted.ack("r1", 1e6)
    assert counted.unplayed_s == 0


def test_the_end_of_the_sound_is_the_end_of_its_frames() -> None:
    counted = Credits(25)
    counted.begin("r1")
    counted.add_frames(10)
    counted.finish("r1", 390.0)
    counted.ack("r1", 389.0)
    assert counted.unplayed_s == pytest.approx(0.011)
    counted.ack("r1", 390.0)
    assert counted.unplayed_s == 0


def test_what_is_discarded_is_played_and_forgotten() -> None:
    counted = Credits(25)
    counted.begin("r1")
    counted.add_frames(10)
    counted.discard()
    assert counted.unplayed_s == 0
    assert not counted.ack("r1", 40.0)
    counted.begin("r2")
    counted.add_frames(5)
    assert counted.played_ms("r1") == counted.played_ms("r2") == 0
    assert counted.unplayed_s == pytest.approx(0.2)


def test_credits_forget_old_responses() -> None:
    counted = Credits(25)
    for number in range(300):
        counted.begin(f"r{number}")
        counted.add_frames(1)
        counted.finish(f"r{number}", 40.0)
    assert not counted.ack("r0", 40.0)
    assert counted.ack("r299", 40.0)
    assert counted.unplayed_s == 0


# What the client does, in any order.
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.integers(1, 60)),
        st.tuples(st.just("wait"), st.integers(1, 30)),
        st.tuples(st.just("play"), st.integers(1, 40)),
        st.tuples(st.just("lag"), st.integers(1, 10)),
        st.tuples(st.just("cancel"), st.just(0)),
        st.tuples(st.just("clear"), st.just(0)),
    ),
    min_size=5,
    max_size=40,
)


@dataclass
class Player:
    """A client that plays what it has got, in frames, and acknowledges it at times of its own."""

    driver: SessionDriver
    epoch: int = 1
    order: list[str] = field(default_factory=list)
    got: dict[str, int] = field(default_factory=dict)
    played: dict[str, int] = field(default_factory=dict)
    frames: dict[str, int] = field(default_factory=dict)

    def take(self, events: list[dict[str, Any]]) -> None:
        for event in events:
            self.epoch = max(self.epoch, event.get("epoch", 0))
            response_id = str(event.get("response_id"))
            match event["type"]:
                case "response.created":
                    self.order.append(event["response"]["id"])
                    self.got[self.order[-1]] = self.played[self.order[-1]] = 0
                    self.frames[self.order[-1]] = 0
                case "response.output_audio.delta":
                    samples = len(base64.b64decode(event["delta"])) // 2
                    self.got[response_id] += samples * 25 // 24000
                case "response.video.delta" if not event["idle"]:
                    self.frames[response_id] += 1
                case "response.video.dropped":
                    pytest.fail(f"dropped: {event}")

    @property
    def unplayed(self) -> int:
        return sum(self.got.values()) - sum(self.played.values())

    def play(self, frames: int) -> None:
        for response_id in self.order:
            step = min(frames, self.got[response_id] - self.played[response_id])
            self.played[response_id] += step
            frames -= step

    def ack(self) -> None:
        """Acknowledge the position, which is in the last response of which something was played."""
        positions = [each for each in self.order if self.played[each]]
        if positions:
            pts_ms = self.played[positions[-1]] * FRAME_MS
            fields = {"response_id": positions[-1], "pts_ms": pts_ms}
            answers = self.driver.send("output_video_buffer.ack", **fields)
            assert of(answers, "error") == []
            self.take(answers)

    def discard(self) -> None:
        self.played = dict(self.got)


@given(window_ms=st.integers(200, 3000), steps=STEPS)
def test_sent_media_stays_within_the_window(
    connect: Connect, window_ms: int, steps: list[tuple[str, int]]
) -> None:
    """What was sent and not played is at most the window; nothing is dropped."""
    driver = started(connect, window_ms)
    player = Player(driver)
    for step, count in steps:
        match step:
            case "say":
                say_to(player, count)
            case "wait":
                player.take(driver.run(count * 0.04, 0.04))
            case "play":
                player.play(count)
                player.ack()
                player.take(driver.make())
            case "lag":  # it plays and acknowledges nothing
                player.play(count)
                player.take(driver.run(count * 0.1, 0.1))
            case "cancel" if driver.session.is_speaking:
                player.take(driver.send("response.cancel"))
                player.discard()
            case "clear":
                player.take(driver.send("output_audio_buffer.clear"))
                player.discard()
        assert player.unplayed * FRAME_MS <= window_ms
    # Whatever happened, a client that goes on playing gets the rest.
    while driver.session.is_speaking:
        before = sum(player.got.values()), sum(player.played.values())
        player.play(5)
        player.ack()
        player.take(driver.make())
        assert before != (sum(player.got.values()), sum(player.played.values()))
    assert player.frames == player.got


def say_to(player: Player, frames: int) -> None:
    player.take(player.driver.append(FRAME * frames))
    player.take(player.driver.send("input_audio_buffer.commit"))
    player.take(player.driver.make())
