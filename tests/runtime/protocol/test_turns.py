"""Turns that the server detects: docs/wire-protocol.md, "Turn detection"."""

from __future__ import annotations

import base64
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from tests.runtime.protocol.conftest import Connect, Event, SessionDriver

WINDOW = 768  # samples of 32 ms at 24 kHz
VOICE = b"\x00\x20" * WINDOW
QUIET = b"\x01\x00" * WINDOW
STOP = QUIET * 16  # 512 ms, which end a turn with the default of 500 ms


def kinds(events: list[Event]) -> list[str]:
    return [event["type"] for event in events]


def of(events: list[Event], kind: str) -> list[Event]:
    return [event for event in events if event["type"] == kind]


def sound_of(events: list[Event], response: str) -> bytes:
    deltas = of(events, "response.output_audio.delta")
    return b"".join(
        base64.b64decode(delta["delta"]) for delta in deltas if delta["response_id"] == response
    )


EARLY = {"drive": {"start": "append"}}
"""What a client sends that wants the answer while the user still speaks."""


def listening(
    connect: Connect, avatar: dict[str, Any] | None = None, **fields: Any
) -> SessionDriver:
    """Return a session with turn detection whose first events are no longer recorded."""
    driver = connect()
    if avatar is not None:
        driver.update(avatar=avatar)
    driver.update(audio={"input": {"turn_detection": {"type": "server_vad", **fields}}})
    driver.events.clear()
    return driver


def stream(driver: SessionDriver, audio: bytes) -> list[Event]:
    """Append audio at the pace of a microphone, with an engine that is always in time."""
    taken = []
    for start in range(0, len(audio), len(VOICE)):
        taken += driver.append(audio[start : start + len(VOICE)])
        taken += driver.make()
        driver.now += 0.032
        driver.session.tick(driver.now)
    return taken


def test_speech_is_a_turn_with_its_padding_and_its_silence(connect: Connect) -> None:
    driver = listening(connect)
    stream(driver, QUIET * 20 + VOICE * 10 + QUIET * 40)
    events = driver.events
    [started], [stopped] = (
        of(events, f"input_audio_buffer.speech_{what}") for what in ("started", "stopped")
    )
    assert started["audio_start_ms"] == 20 * 32 - 300
    assert stopped["audio_end_ms"] == 30 * 32 + 512
    [committed] = of(events, "input_audio_buffer.committed")
    assert {started["item_id"], stopped["item_id"], committed["item_id"]} == {"item_0a_u1"}
    spoken = sound_of(events, "resp_0a_1")
    assert spoken == QUIET[: 2 * 24 * 288 % len(QUIET)] + spoken[2 * 24 * 288 % len(QUIET) :]
    assert len(spoken) // 2 == (stopped["audio_end_ms"] - started["audio_start_ms"]) * 24
    assert of(events, "response.done")[0]["response"]["status"] == "completed"
    assert not of(events, "error")


ORDER = (
    "input_audio_buffer.speech_started",
    "input_audio_buffer.speech_stopped",
    "input_audio_buffer.committed",
    "conversation.item.added",
    "response.created",
    "output_audio_buffer.started",
    "response.done",
)


def order_of(events: list[Event]) -> list[str]:
    return [kind for kind in kinds(events) if kind in ORDER]


def test_the_answer_follows_the_turn(connect: Connect) -> None:
    driver = listening(connect)
    stream(driver, VOICE * 30)
    assert order_of(driver.events) == ["input_audio_buffer.speech_started"]
    stream(driver, QUIET * 20)
    driver.run(2.0)
    assert order_of(driver.events) == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "response.created",
        "conversation.item.added",
        "output_audio_buffer.started",
        "response.done",
    ]
    assert not of(driver.events, "response.video.dropped")  # nothing was late before


def test_a_client_may_ask_for_an_answer_before_the_turn_ends(connect: Connect) -> None:
    driver = listening(connect, EARLY)
    stream(driver, VOICE * 30)
    stream(driver, QUIET * 20)
    assert order_of(driver.events) == [
        "input_audio_buffer.speech_started",
        "conversation.item.added",
        "response.created",
        "conversation.item.added",
        "output_audio_buffer.started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "response.done",
    ]
    user, answer = of(driver.events, "conversation.item.added")
    assert (user["item"]["role"], answer["previous_item_id"]) == ("user", user["item"]["id"])


@pytest.mark.parametrize(
    ("avatar", "updates", "start"),
    [
        (None, [None], "append"),
        (None, [{"type": "server_vad"}], "commit"),
        (None, [{"type": "server_vad", "create_response": False}], "commit"),
        (None, [{"type": "server_vad"}, None], "append"),
        ({"character": "anna"}, [{"type": "server_vad"}], "commit"),
        (EARLY, [{"type": "server_vad"}], "append"),
        ({"drive": {"start": "commit"}}, [None], "commit"),
        ({"drive": {"start": "response.create"}}, [{"type": "server_vad"}], "response.create"),
    ],
)
def test_detected_turns_are_answered_at_their_end_unless_the_client_says_when(
    connect: Connect,
    avatar: dict[str, Any] | None,
    updates: list[dict[str, Any] | None],
    start: str,
) -> None:
    driver = connect()
    for detection in updates:
        driver.update(audio={"input": {"turn_detection": detection}})
    if avatar is not None:
        driver.update(avatar=avatar)
    session = of(driver.events, "session.updated")[-1]["session"]
    assert session["avatar"]["drive"] == {"start": start}


def test_a_client_that_ends_its_turns_may_be_answered_at_their_end(connect: Connect) -> None:
    driver = connect()
    driver.update(avatar={"drive": {"start": "commit"}})
    driver.append(VOICE * 10)
    assert driver.make() == []
    driver.send("input_audio_buffer.commit")
    driver.make()
    assert sound_of(driver.events, "resp_0a_1") == VOICE * 10


def test_a_request_in_the_middle_of_a_turn_is_answered_after_it(connect: Connect) -> None:
    driver = listening(connect, create_response=False)
    stream(driver, VOICE * 10)
    assert driver.send("response.create") == []
    stream(driver, VOICE * 10 + STOP)
    driver.run(2.0)
    assert [kind for kind in order_of(driver.events) if kind.startswith("response")] == [
        "response.created",
        "response.done",
    ]
    stopped = of(driver.events, "input_audio_buffer.speech_stopped")[0]
    assert stopped["seq"] < of(driver.events, "response.created")[0]["seq"]


@pytest.mark.parametrize(("avatar", "pause"), [(EARLY, 40), (None, 90)], ids=["early", "default"])
def test_three_turns_of_a_microphone_end_completed(
    connect: Connect, avatar: dict[str, Any] | None, pause: int
) -> None:
    driver = listening(connect, avatar)
    for _ in range(3):
        stream(driver, VOICE * 30 + QUIET * pause)
    done = of(driver.events, "response.done")
    assert [event["response"]["status"] for event in done] == ["completed"] * 3
    assert not of(driver.events, "error")


@pytest.mark.parametrize("voice", [0, 1])
def test_silence_and_a_click_are_no_turn(connect: Connect, voice: int) -> None:
    driver = listening(connect)
    assert stream(driver, QUIET * 20 + VOICE * voice + QUIET * 30) == []
    [error] = driver.send("response.create")
    assert error["error"]["code"] == "no_input_audio"


def test_a_pause_below_the_silence_duration_does_not_end_a_turn(connect: Connect) -> None:
    driver = listening(connect, silence_duration_ms=640)
    stream(driver, VOICE * 5 + QUIET * 19 + VOICE * 5 + QUIET * 19)
    assert not of(driver.events, "input_audio_buffer.speech_stopped")
    stream(driver, QUIET)
    assert of(driver.events, "input_audio_buffer.speech_stopped")


def test_a_high_threshold_hears_nothing(connect: Connect) -> None:
    driver = listening(connect, threshold=0.95)
    assert stream(driver, VOICE * 20 + STOP) == []


def test_a_client_may_commit_what_no_speech_was_found_in(connect: Connect) -> None:
    driver = listening(connect)
    assert driver.append(QUIET * 10) == []
    driver.send("input_audio_buffer.commit")
    driver.send("response.create")
    driver.make()
    assert sound_of(driver.events, "resp_0a_1") == QUIET * 10
    assert kinds(driver.events)[-1] == "response.done"


def test_a_commit_ends_the_turn_that_is_spoken(connect: Connect) -> None:
    driver = listening(connect, prefix_padding_ms=0)
    driver.append(VOICE * 10)
    driver.send("input_audio_buffer.commit")
    driver.make()
    assert sound_of(driver.events, "resp_0a_1") == VOICE * 10
    [error] = driver.send("input_audio_buffer.commit")
    assert error["error"]["code"] == "input_audio_buffer_commit_empty"


def test_at_most_30_s_without_speech_are_kept(connect: Connect) -> None:
    driver = listening(connect)
    for _ in range(3):
        driver.append(QUIET * 500)
    driver.send("input_audio_buffer.commit")
    driver.run(40.0, step=0.5)
    assert len(sound_of(driver.events, "resp_0a_1")) == 30 * 24_000 * 2


def test_without_create_response_a_turn_waits_for_its_request(connect: Connect) -> None:
    driver = listening(connect, create_response=False)
    stream(driver, VOICE * 10 + STOP)
    assert not of(driver.events, "response.created")
    events = driver.send("response.create", response={"metadata": {"client_event_id": "e7"}})
    events += driver.make()
    for kind in ("response.created", "response.done"):
        [event] = of(events, kind)
        assert event["response"]["metadata"] == {"client_event_id": "e7"}


def test_new_speech_interrupts_the_response_of_a_live_speaker(connect: Connect) -> None:
    driver = listening(connect)
    stream(driver, VOICE * 10 + STOP)
    held = VOICE * 10 + STOP
    for start in range(0, len(held), len(VOICE)):  # the engine is slow: nothing is delivered
        driver.append(held[start : start + len(VOICE)])
        driver.now += 0.032
    late = driver.due()
    events = driver.append(VOICE)
    driver.now += 0.032
    events += driver.append(VOICE * 2)
    assert kinds(events)[0] == "input_audio_buffer.speech_started"
    [done] = of(events, "response.done")
    assert done["response"]["status_details"]["reason"] == "turn_detected"
    assert not any(driver.deliver(frame) for frame in late)
    assert not [e for e in driver.pull() if e["type"].endswith(".delta")]


def test_without_interrupt_response_the_turns_wait(connect: Connect) -> None:
    driver = listening(connect, interrupt_response=False)
    for _ in range(2):
        for start in range(0, 26):
            driver.append(VOICE if start < 10 else QUIET)
            driver.now += 0.032
    driver.run(5.0)
    done = of(driver.events, "response.done")
    assert [event["response"]["status"] for event in done] == ["completed"] * 2


def test_audio_that_is_faster_than_speech_never_interrupts(connect: Connect) -> None:
    driver = listening(connect)
    driver.append((VOICE * 20 + STOP) * 5)
    driver.run(10.0, step=0.2)
    done = of(driver.events, "response.done")
    assert [event["response"]["status"] for event in done] == ["completed"] * 5


def test_a_cancel_while_the_user_speaks_leaves_the_rest_of_the_turn_unspoken(
    connect: Connect,
) -> None:
    driver = listening(connect, EARLY)
    stream(driver, VOICE * 20)
    driver.send("response.cancel")
    driver.events.clear()
    stream(driver, VOICE * 20 + STOP)
    assert kinds(driver.events) == [
        "response.video.delta",  # closes the mouth
        "output_audio_buffer.stopped",
        "session.avatar.switch_to_idle",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.done",
    ]
    [error] = driver.send("response.create")
    assert error["error"]["code"] == "no_input_audio"


def test_a_silence_after_a_response_is_reported_once(connect: Connect) -> None:
    driver = listening(connect, idle_timeout_ms=5000)
    stream(driver, QUIET * 300)
    assert driver.events == []  # there was no response yet
    stream(driver, VOICE * 10 + STOP)
    driver.events.clear()
    stream(driver, QUIET * 400)
    [timeout] = of(driver.events, "input_audio_buffer.timeout_triggered")
    assert 5000 <= timeout["audio_end_ms"] - timeout["audio_start_ms"] < 5032
    [committed] = of(driver.events, "input_audio_buffer.committed")
    assert committed["item_id"] == timeout["item_id"]
    assert not of(driver.events, "response.created")


def test_semantic_vad_is_served_as_server_vad_and_says_so_once(connect: Connect) -> None:
    driver = connect()
    body = {"input": {"turn_detection": {"type": "semantic_vad", "eagerness": "high"}}}
    updated, replaced, eagerness = driver.update(audio=body)
    assert updated["session"]["audio"]["input"]["turn_detection"] == {
        "type": "server_vad",
        "threshold": 0.5,
        "prefix_padding_ms": 300,
        "silence_duration_ms": 500,
        "idle_timeout_ms": None,
        "create_response": True,
        "interrupt_response": True,
    }
    assert replaced["warning"]["message"] == "semantic_vad is served as server_vad"
    assert eagerness["warning"]["param"].endswith("turn_detection.eagerness")
    assert len(driver.update(audio=body)) == 1


def test_detection_that_is_turned_off_leaves_the_open_turn_to_the_client(
    connect: Connect,
) -> None:
    driver = listening(connect, prefix_padding_ms=0)
    driver.append(VOICE * 10)
    driver.update(audio={"input": {"turn_detection": None}})
    driver.append(QUIET * 40)
    driver.send("input_audio_buffer.commit")
    driver.run(3.0)
    assert sound_of(driver.events, "resp_0a_1") == VOICE * 10 + QUIET * 40


@pytest.mark.parametrize("samples", range(100, 768, 111))
def test_detection_that_is_turned_off_loses_no_sound(connect: Connect, samples: int) -> None:
    driver = listening(connect, prefix_padding_ms=0)
    sound = VOICE * 10 + QUIET * 15 + QUIET[: 2 * samples]  # a little before the end of the turn
    stream(driver, sound)
    driver.update(audio={"input": {"turn_detection": None}})
    driver.append(VOICE)
    driver.send("input_audio_buffer.commit")
    driver.run(2.0)
    assert sound_of(driver.events, "resp_0a_1") == sound + VOICE


def test_detection_that_is_turned_on_leaves_the_open_turn_to_the_client(
    connect: Connect,
) -> None:
    driver = connect()
    driver.append(QUIET * 10)
    driver.update(audio={"input": {"turn_detection": {"type": "server_vad"}}})
    driver.append(VOICE * 10 + STOP)
    driver.send("input_audio_buffer.commit")
    driver.append(VOICE * 10)
    [started] = of(driver.events, "input_audio_buffer.speech_started")
    assert started["audio_start_ms"] == 36 * 32


def test_too_many_waiting_turns_are_an_error_and_not_a_crash(connect: Connect) -> None:
    driver = listening(connect, create_response=False)
    driver.append((VOICE * 4 + STOP) * 66)
    driver.send("input_audio_buffer.clear")
    codes = [event["error"]["code"] for event in of(driver.events, "error")]
    assert codes
    assert set(codes) == {"input_audio_buffer_full"}
    assert len(of(driver.events, "input_audio_buffer.committed")) == 64


SPEECH = (
    QUIET * 11
    + VOICE[:1000]
    + VOICE * 7
    + STOP
    + QUIET * 5
    + VOICE * 3
    + QUIET * 4
    + VOICE * 9
    + STOP
    + QUIET * 2
    + QUIET[:500]
)


def turns_of(connect: Connect, pieces: list[bytes], step_s: float) -> list[Any]:
    """Return the boundaries and the sound of each turn of the pieces."""
    driver = listening(connect, interrupt_response=False)
    for piece in pieces:
        driver.append(piece)
        driver.make()
        driver.now += step_s
    driver.send("input_audio_buffer.commit")
    driver.run(3.0, step=0.2)
    boundaries = [
        (event["type"], event.get("audio_start_ms"), event.get("audio_end_ms"))
        for event in driver.events
        if "speech_" in event["type"]
    ]
    ids = [event["response"]["id"] for event in of(driver.events, "response.done")]
    return [boundaries, [sound_of(driver.events, response) for response in ids]]


@given(cuts=st.lists(st.integers(0, len(SPEECH) // 2), max_size=40), step=st.floats(0, 0.2))
@settings(max_examples=20)
@pytest.mark.slow
def test_the_pieces_of_the_audio_do_not_change_its_turns(
    connect: Connect, cuts: list[int], step: float
) -> None:
    edges = [0, *sorted(2 * cut for cut in cuts), len(SPEECH)]
    pieces = [SPEECH[a:b] for a, b in pairwise(edges)]
    whole = turns_of(connect, [SPEECH], 0.0)
    assert turns_of(connect, pieces, step) == whole
    assert len(whole[0]) == 4
    assert len(whole[1]) == 3


@pytest.mark.parametrize("detection", [None, {"type": "server_vad"}], ids=["null", "server_vad"])
def test_the_mouth_closes_after_a_cancel_in_a_frame_of_the_new_epoch(
    connect: Connect, detection: dict[str, str] | None
) -> None:
    driver = connect()
    driver.update(audio={"input": {"turn_detection": detection}}, avatar=EARLY)
    stream(driver, VOICE * 20)
    shown = len(of(driver.events, "response.video.delta"))
    driver.session.receive('{"type": "response.cancel"}', driver.now)
    [closing] = driver.due()
    assert closing.deadline - driver.now <= 0.081
    answer = driver.make([closing])
    [frame] = of(answer, "response.video.delta")
    assert kinds(answer).index("response.done") < kinds(answer).index("response.video.delta")
    assert (frame["idle"], frame["response_id"], frame["epoch"]) == (True, None, 2)
    assert of(driver.events, "response.video.done")[0]["frames"] == shown
    assert not driver.due()


def test_a_closing_frame_that_is_late_does_not_close_the_mouth_of_the_next_turn(
    connect: Connect,
) -> None:
    driver = connect()
    driver.append(VOICE * 20)
    driver.make()
    driver.send("response.cancel")
    [closing] = driver.due()
    driver.append(VOICE * 20)
    assert of(driver.make(), "response.video.delta")
    assert not driver.deliver(closing)


def test_a_response_that_was_not_seen_needs_no_closing_frame(connect: Connect) -> None:
    driver = connect()
    driver.append(VOICE * 20)
    driver.send("response.cancel")
    assert not driver.due()
