"""Sessions that want sound only: no frames are made for them and no event speaks of video."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.runtime.protocol.conftest import Connect, Event, SessionDriver

FRAME = bytes(2 * 960)
SOUND = bytes(range(256)) * 150  # 800 ms at 24 kHz
NONE: dict[str, Any] = {"avatar": {"video": {"mode": "none"}}}
JPEG: dict[str, Any] = {"avatar": {"video": {"mode": "jpeg"}}}


def speak(driver: SessionDriver, sound: bytes = SOUND) -> list[Event]:
    """Return the events of one utterance; the test fails if a frame is due."""
    events = driver.append(sound)
    events += driver.send("input_audio_buffer.commit")
    for _ in range(100):
        assert driver.due() == []
        events += driver.pull()
        driver.now += 0.02
        driver.session.tick(driver.now)
    return events


def kinds(events: list[Event]) -> set[str]:
    return {event["type"] for event in events}


@pytest.mark.parametrize("update", [NONE, {"output_modalities": ["audio"]}], ids=["mode", "oai"])
def test_the_sound_comes_back_without_a_frame(connect: Connect, update: dict[str, Any]) -> None:
    driver = connect()
    driver.update(**update)
    events = speak(driver)
    sound = b"".join(
        base64.b64decode(event["delta"])
        for event in events
        if event["type"] == "response.output_audio.delta"
    )
    assert sound == SOUND
    (done,) = [event for event in events if event["type"] == "response.done"]
    assert done["response"]["status"] == "completed"
    assert {"output_audio_buffer.started", "output_audio_buffer.stopped"} <= kinds(events)
    assert not [kind for kind in kinds(events) if "video" in kind or "avatar" in kind]
    numbers = [event["seq"] for event in driver.events]
    assert numbers == list(range(1, len(numbers) + 1))


def test_sound_alone_keeps_the_pace_of_the_window(connect: Connect) -> None:
    driver = connect()
    driver.update(**NONE)
    driver.append(FRAME * 100)
    driver.send("input_audio_buffer.commit")
    assert driver.due() == []
    events = driver.pull()
    sent = sum(
        len(base64.b64decode(event["delta"])) // 2
        for event in events
        if event["type"] == "response.output_audio.delta"
    )
    assert 24000 <= sent <= 24000 + 960
    assert "response.done" not in kinds(events)
    assert driver.session.next_due() is not None


@pytest.mark.parametrize(
    ("updates", "mode"),
    [
        ([], "jpeg"),
        ([{"instructions": "x"}], "jpeg"),
        ([{"output_modalities": ["audio"]}], "none"),
        ([{"output_modalities": ["audio", "avatar"]}], "jpeg"),
        ([{"output_modalities": ["audio"]}, {"output_modalities": ["audio", "avatar"]}], "jpeg"),
        ([{"output_modalities": ["audio"], "avatar": {"character": "anna"}}], "jpeg"),
        ([{"output_modalities": ["audio"]}, {"avatar": {"character": "anna"}}], "jpeg"),
        ([{"avatar": {"character": "anna"}}, {"output_modalities": ["audio"]}], "jpeg"),
        ([NONE], "none"),
        ([NONE, {"avatar": {"character": "anna"}}], "none"),
        ([NONE, {"output_modalities": ["audio"]}], "none"),
        ([NONE, JPEG], "jpeg"),
    ],
)
def test_who_asks_for_video_gets_it(
    connect: Connect, updates: list[dict[str, Any]], mode: str
) -> None:
    driver = connect()
    shown = driver.events[0]["session"]
    for update in updates:
        (shown,) = [
            event["session"]
            for event in driver.update(**update)
            if event["type"] == "session.updated"
        ]
    assert shown["avatar"]["video"]["mode"] == mode
    driver.append(FRAME * 10)
    assert bool(driver.due()) is (mode == "jpeg")


def test_only_clients_that_never_named_the_avatar_get_official_events_only(
    connect: Connect,
) -> None:
    driver = connect()
    assert not driver.session.official_only
    driver.update(output_modalities=["audio"])
    assert driver.session.official_only
    driver.update(**NONE)
    assert not driver.session.official_only


def test_a_response_keeps_its_video_until_it_ends(connect: Connect) -> None:
    driver = connect()
    driver.append(FRAME * 10)
    assert driver.make()
    driver.update(**NONE)
    driver.append(FRAME * 10)
    driver.send("input_audio_buffer.commit")
    driver.run(2.0)
    (done,) = [event for event in driver.events if event["type"] == "response.video.done"]
    assert done["frames"] + done["dropped"] == 20
    driver.events.clear()
    speak(driver)
    assert not [kind for kind in kinds(driver.events) if "video" in kind]


def test_the_avatar_stops_to_speak_when_a_response_without_video_follows(
    connect: Connect,
) -> None:
    driver = connect()
    driver.append(FRAME * 10)
    driver.send("input_audio_buffer.commit")
    driver.make()
    driver.update(**NONE)
    driver.append(FRAME * 10)  # its sound starts while the client still plays the first response
    driver.send("input_audio_buffer.commit")
    driver.run(2.0)
    kinds = [event["type"] for event in driver.events]
    assert kinds.count("output_audio_buffer.started") == 2
    switches = [event for event in driver.events if "switch_to" in event["type"]]
    assert [(event["type"], event["turn_id"]) for event in switches] == [
        ("session.avatar.switch_to_speaking", "resp_0a_1"),
        ("session.avatar.switch_to_idle", "resp_0a_1"),
    ]


def test_a_cancel_without_video_sends_no_closing_frame(connect: Connect) -> None:
    driver = connect()
    driver.update(**NONE)
    driver.append(FRAME * 20)
    assert driver.due() == []
    driver.pull()
    events = driver.send("response.cancel")
    assert driver.due() == []
    assert not [kind for kind in kinds(events + driver.pull()) if "video" in kind]
    (done,) = [event for event in events if event["type"] == "response.done"]
    assert done["response"]["status"] == "cancelled"


LOUD, QUIET = b"\x00\x20" * 768, bytes(2 * 768)  # windows of 32 ms


@pytest.mark.parametrize(
    ("update", "begins_early"),
    [
        ({}, False),
        ({"output_modalities": ["audio"]}, False),
        (NONE, False),
        (JPEG, False),
        ({"avatar": {"drive": {"start": "append"}}}, True),
    ],
    ids=["default", "never named the avatar", "sound only", "video", "asks for it"],
)
def test_a_detected_turn_is_answered_after_it_with_and_without_video(
    connect: Connect, update: dict[str, Any], begins_early: bool
) -> None:
    driver = connect()
    driver.update(audio={"input": {"turn_detection": {"type": "server_vad"}}}, **update)
    events: list[Event] = []
    for part in [LOUD] * 40 + [QUIET] * 40:
        events += driver.append(part)
        driver.now += 0.032
        driver.session.tick(driver.now)
        events += driver.make()
    events += driver.run(3.0)
    order = [event["type"] for event in events]
    stopped = order.index("input_audio_buffer.speech_stopped")
    assert (order.index("response.created") < stopped) is begins_early
    assert order.index("input_audio_buffer.committed") > stopped
    (done,) = [event for event in events if event["type"] == "response.done"]
    assert done["response"]["status"] == "completed"
    sound = b"".join(
        base64.b64decode(event["delta"])
        for event in events
        if event["type"] == "response.output_audio.delta"
    )
    assert sound.startswith(LOUD * 40)
