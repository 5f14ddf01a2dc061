"""The frames that a session streams between responses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from avatar_runtime.protocol import idle_stream
from avatar_runtime.protocol.media import RawImage
from avatar_runtime.protocol.resume import Resume
from avatar_runtime.protocol.session_config import Character

if TYPE_CHECKING:
    from tests.runtime.protocol.conftest import Connect, Event, SessionDriver

FRAME = bytes(2 * 960)
RAW = RawImage(bytes(64 * 64 * 3 // 2), 64, 64)


def streaming(connect: Connect, mode: str = "jpeg", **limits: float) -> SessionDriver:
    driver = connect(Character("anna", 64, 64), **limits)
    [updated] = driver.update(avatar={"idle": "stream", "video": {"mode": mode}})
    assert updated["session"]["avatar"]["idle"] == "stream"
    return driver


def videos(events: list[Event]) -> list[Event]:
    return [event for event in events if event["type"] == "response.video.delta"]


def test_a_session_gets_none_unless_it_asks(connect: Connect) -> None:
    driver = connect()
    assert driver.run(1.0) == []
    assert driver.session.next_due() is None


def test_they_come_at_the_frame_rate_without_numbers(connect: Connect) -> None:
    driver = streaming(connect)
    events = driver.run(2.0, step=0.01)
    assert len(events) == pytest.approx(50, abs=1)
    assert events == videos(events)
    first = {key: value for key, value in events[0].items() if key != "event_id"}
    assert first == {
        "type": "response.video.delta",
        "response_id": None,
        "item_id": None,
        "output_index": 0,
        "codec": "jpeg",
        "mode": "jpeg",
        "epoch": 1,
        "frame_index": 0,
        "offset_samples": 0,
        "pts_ms": 0,
        "keyframe": True,
        "idle": True,
        "delta": "anBlZyAw",
    }
    assert len({event["event_id"] for event in events}) == len(events)
    seq = driver.events[-len(events) - 1]["seq"]
    assert driver.update()[0]["seq"] == seq + 1


def test_the_caller_is_told_when_the_next_one_is_due(connect: Connect) -> None:
    driver = streaming(connect)
    times = []
    for _ in range(50):
        at = driver.session.next_due()
        assert at is not None
        driver.now = max(driver.now, at)
        [frame] = driver.due()
        assert frame.response_ref == idle_stream.REF
        assert driver.due() == []
        assert driver.session.next_due() is None  # one at a time
        driver.make([frame])
        times.append(driver.now)
    assert times[-1] - times[0] == pytest.approx(49 / 25)


def test_none_comes_while_the_client_plays_a_response(connect: Connect) -> None:
    driver = streaming(connect)
    driver.run(0.5)
    driver.append(FRAME * 20)
    driver.send("input_audio_buffer.commit")
    spoken = driver.make()
    assert len([event for event in videos(spoken) if not event["idle"]]) == 20
    driver.pull()
    assert not videos(driver.run(0.7))
    assert videos(driver.run(0.3))


def test_they_fill_the_wait_for_the_first_frame_of_a_response(connect: Connect) -> None:
    driver = streaming(connect)
    driver.append(FRAME * 20)
    driver.send("input_audio_buffer.commit")
    first, *waiting = driver.due()
    assert waiting
    idle = driver.make([first])
    for _ in range(10):  # the engine is slow
        driver.now += 0.04
        idle += driver.make([f for f in driver.due() if f.response_ref == idle_stream.REF])
    assert len(videos(idle)) >= 10
    assert all(event["idle"] for event in idle)
    late = driver.due()
    shown = videos(driver.make([*waiting, *late]))
    assert not any(event["idle"] for event in shown)


def test_a_response_goes_on_where_the_avatar_is(connect: Connect) -> None:
    driver = streaming(connect)
    positions = []
    for _ in range(30):
        driver.now += 0.04
        frames = driver.due()
        positions += [frame.source_frame for frame in frames]
        driver.make(frames)
    assert positions == list(range(len(positions)))
    driver.append(FRAME * 12)
    driver.send("input_audio_buffer.commit")
    spoken = [frame for frame in driver.due() if frame.response_ref > 0]
    assert spoken[0].source_frame == positions[-1] + 1
    driver.make(spoken)
    driver.now += 1.0
    assert driver.due()[0].source_frame == spoken[-1].source_frame + 1


def test_a_client_that_does_not_read_gets_no_more_than_one(connect: Connect) -> None:
    driver = streaming(connect)
    for _ in range(100):
        driver.now += 0.04
        for frame in driver.due():
            driver.deliver(frame)
    assert len(driver.pull()) == 1


@pytest.mark.parametrize("fate", ["fail", "skip", "lost by a cancel"])
def test_the_stream_survives_a_frame_that_does_not_come(connect: Connect, fate: str) -> None:
    driver = streaming(connect)
    [frame] = driver.due()
    match fate:
        case "fail":
            driver.session.fail(frame.response_ref, frame.epoch, driver.now)
        case "skip":
            assert driver.session.skip(
                frame.response_ref, frame.epoch, frame.frame_index, driver.now
            )
        case _:
            driver.send("output_audio_buffer.clear")
    assert not driver.deliver(frame)
    assert len(videos(driver.run(idle_stream.RETRY_S + 1.0))) == pytest.approx(
        50 if fate == "lost by a cancel" else 25, abs=1
    )
    assert not [event for event in driver.events if event["type"] == "error"]


def test_they_do_not_keep_an_idle_session_open(connect: Connect) -> None:
    driver = streaming(connect, idle_timeout_s=5.0)
    driver.run(5.1)
    assert driver.session.closing is not None
    assert driver.session.closing.code == 4408


def test_they_stop_when_the_client_asks(connect: Connect) -> None:
    driver = streaming(connect)
    waiting = driver.due()
    driver.update(avatar={"idle": "none"})
    assert driver.make(waiting) == []
    assert driver.run(1.0) == []


def test_a_session_with_sound_only_gets_none(connect: Connect) -> None:
    driver = streaming(connect)
    driver.update(avatar={"video": {"mode": "none"}})
    assert driver.run(1.0) == []


def test_in_h264_a_client_that_comes_back_can_decode_the_next_one(connect: Connect) -> None:
    driver = streaming(connect, "h264")

    def shown() -> Event:
        driver.now += 0.04
        [frame] = driver.due()
        driver.deliver(frame, RAW)
        outgoing = driver.session.pull(driver.now)
        assert outgoing is not None
        assert outgoing.seq == 0
        event: Event = json.loads(outgoing.message)
        return event

    assert [shown()["keyframe"] for _ in range(3)] == [True, False, False]
    driver.session.resumed(Resume("token", 30_000), 5)  # what had no number is not sent again
    assert [shown()["keyframe"] for _ in range(3)] == [True, False, False]


def test_in_h264_they_depend_on_each_other_and_a_response_starts_anew(connect: Connect) -> None:
    driver = streaming(connect, "h264")

    def shown(seconds: float) -> list[Event]:
        events = []
        until = driver.now + seconds
        while driver.now < until:
            driver.now += 0.01
            for frame in driver.due():
                driver.deliver(frame, RAW)
            while (outgoing := driver.session.pull(driver.now)) is not None:
                events.append(json.loads(outgoing.message))
        return videos(events)

    idle = shown(3.9)
    keyframes = [number for number, event in enumerate(idle) if event["keyframe"]]
    assert keyframes == [0, 50]
    driver.session.receive(
        json.dumps({"type": "input_audio_buffer.append", "audio": "AAAA" * 640 * 20}), driver.now
    )
    driver.session.receive(json.dumps({"type": "input_audio_buffer.commit"}), driver.now)
    events = shown(1.5)
    first = next(n for n, event in enumerate(events) if not event["idle"])
    spoken, again = events[first : first + 20], events[first + 20 :]
    assert not any(event["idle"] for event in spoken)
    assert [event["keyframe"] for event in spoken] == [True] + [False] * 19
    assert all(event["idle"] for event in again)
    assert [event["keyframe"] for event in again] == [True] + [False] * (len(again) - 1)
