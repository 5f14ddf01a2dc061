"""The mouth closes within 80 ms after what the avatar says is interrupted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.runtime.protocol.conftest import Connect, SessionDriver

FRAME = bytes(2 * 960)
CLOSES_WITHIN_S = 0.080
WINDOW = 768  # samples of 32 ms at 24 kHz
VOICE, QUIET = b"\x00\x20" * WINDOW, b"\x01\x00" * WINDOW

CLEAR: tuple[str, dict[str, Any]] = ("output_audio_buffer.clear", {})
CANCEL: tuple[str, dict[str, Any]] = ("response.cancel", {})
TRUNCATE: tuple[str, dict[str, Any]] = (
    "conversation.item.truncate",
    {"item_id": "item_0a_a1", "content_index": 0, "audio_end_ms": 200},
)


def speaking(connect: Connect, frames: int, *, commits: bool) -> SessionDriver:
    driver = connect()
    driver.append(FRAME * frames)
    if commits:
        driver.send("input_audio_buffer.commit")
    driver.make()
    return driver


def closes_the_mouth(driver: SessionDriver) -> bool:
    """Return whether one frame of silence is due at once, and leaves when it is there."""
    due = driver.due()
    if not due:
        return False
    [frame] = due
    assert (frame.response_ref, frame.epoch) == (0, driver.session.epoch)
    assert frame.deadline <= driver.now + CLOSES_WITHIN_S
    [event] = driver.make([frame])
    assert (event["type"], event["idle"]) == ("response.video.delta", True)
    assert event["epoch"] == driver.session.epoch
    return True


@pytest.mark.parametrize("trigger", [CANCEL, CLEAR, TRUNCATE], ids=lambda trigger: trigger[0])
def test_the_mouth_closes_after_an_interrupted_response(
    connect: Connect, trigger: tuple[str, dict[str, Any]]
) -> None:
    driver = speaking(connect, 12, commits=False)
    kind, fields = trigger
    driver.send(kind, **fields)
    assert closes_the_mouth(driver)


@pytest.mark.parametrize("trigger", [CLEAR, TRUNCATE], ids=lambda trigger: trigger[0])
@pytest.mark.parametrize("played_s", [0.2, 0.5])
def test_the_mouth_closes_after_a_finished_response_only_while_it_is_played(
    connect: Connect, trigger: tuple[str, dict[str, Any]], played_s: float
) -> None:
    driver = speaking(connect, 12, commits=True)
    assert not driver.session.is_speaking
    driver.now += played_s
    driver.session.tick(driver.now)
    kind, fields = trigger
    driver.send(kind, **fields)
    assert closes_the_mouth(driver) is (played_s < 12 * 0.04)


def test_a_response_that_showed_nothing_leaves_the_mouth_as_it_is(connect: Connect) -> None:
    driver = connect()
    driver.append(FRAME * 12)
    driver.due()
    driver.send("output_audio_buffer.clear")
    assert not closes_the_mouth(driver)


def test_new_speech_stops_what_is_played_although_the_next_answer_is_not_heard(
    connect: Connect,
) -> None:
    driver = connect()
    detection = {
        "type": "server_vad",
        "silence_duration_ms": 100,
        "prefix_padding_ms": 0,
        "interrupt_response": True,
    }
    driver.update(audio={"input": {"turn_detection": detection}})
    driver.append(VOICE * 30 + QUIET * 4)
    driver.make()
    while driver.session.is_speaking:  # two seconds are played, the first one at once
        driver.run(0.02)
    driver.update(audio={"input": {"turn_detection": {**detection, "interrupt_response": False}}})
    driver.now += 0.3
    driver.append(VOICE * 4 + QUIET * 4)  # its frames are not delivered
    driver.update(audio={"input": {"turn_detection": detection}})
    driver.now += 0.3
    events = driver.append(VOICE * 3)
    kinds = [event["type"] for event in events]
    assert "output_audio_buffer.cleared" in kinds
    [done] = [event for event in events if event["type"] == "response.done"]
    assert done["response"]["status_details"]["reason"] == "turn_detected"
    assert driver.due()[0].response_ref == 0
