"""Frames that the engine could not generate in time: reported and counted; audio is sent."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.runtime.protocol.conftest import Connect, SessionDriver

FRAME = bytes(range(256)) * 7 + bytes(128)  # 40 ms at 24 kHz


def speaking(connect: Connect, frames: int) -> SessionDriver:
    driver = connect()
    driver.append(FRAME * frames)
    driver.send("input_audio_buffer.commit")
    return driver


def skip(driver: SessionDriver, *indices: int) -> list[bool]:
    return [driver.session.skip(1, 1, index, driver.now) for index in indices]


def test_skipped_frames_are_reported_once_and_their_audio_is_sent(connect: Connect) -> None:
    driver = speaking(connect, 6)
    frames = driver.due()
    assert skip(driver, 2, 3) == [True, True]
    events = driver.make([frames[i] for i in (0, 1, 4, 5)])

    media = [
        (event["type"].rpartition(".")[0], event.get("frame_index", event.get("first_frame_index")))
        for event in events
        if event["type"] in {"response.video.delta", "response.video.dropped"}
    ]
    assert [index for _, index in media] == [0, 1, 2, 4, 5]
    [dropped] = [e for e in events if e["type"] == "response.video.dropped"]
    assert (dropped["first_frame_index"], dropped["last_frame_index"]) == (2, 3)
    assert dropped["reason"] == "overload"
    sound = b"".join(
        base64.b64decode(e["delta"]) for e in events if e["type"] == "response.output_audio.delta"
    )
    assert sound == FRAME * 6
    [done] = [e for e in events if e["type"] == "response.video.done"]
    assert (done["status"], done["frames"], done["dropped"]) == ("completed", 4, 2)


def test_a_skipped_last_frame_still_completes_the_response(connect: Connect) -> None:
    driver = speaking(connect, 3)
    frames = driver.due()
    driver.make(frames[:2])
    assert skip(driver, 2) == [True]
    events = driver.pull()

    assert [e["type"] for e in events if e["type"].startswith("response.video")] == [
        "response.video.dropped",
        "response.video.done",
    ]


def test_frames_of_another_epoch_and_delivered_frames_cannot_be_skipped(connect: Connect) -> None:
    driver = speaking(connect, 4)
    frames = driver.due()
    driver.make(frames[:1])
    assert skip(driver, 0, 99) == [False, False]
    assert not driver.session.skip(1, 7, 1, driver.now)
    driver.send("response.cancel")
    assert skip(driver, 1) == [False]


def test_skipped_frames_count_as_ahead_of_playback(connect: Connect) -> None:
    driver = connect()
    driver.append(FRAME * 100)
    frames = driver.due()
    assert len(frames) == 25
    assert all(skip(driver, *range(25)))
    driver.pull()
    assert driver.due() == []  # their audio fills the window
    driver.now += 0.08
    assert [frame.frame_index for frame in driver.due()] == [25, 26]


def test_overrun_pause_does_not_allow_dropping(connect: Connect) -> None:
    driver = connect()
    assert driver.session.allows_dropping
    driver.update(avatar={"flow": {"mode": "clock", "window_ms": 1000, "overrun": "pause"}})
    assert not driver.session.allows_dropping
