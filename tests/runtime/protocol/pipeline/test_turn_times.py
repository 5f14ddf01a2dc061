"""The legs of a turn are measured, each once, and add up to the time of the turn."""

from __future__ import annotations

import pytest
from tests.runtime.protocol.pipeline.table import Table

from avatar_runtime.protocol.pipeline.dialogue import PipelineOptions
from avatar_runtime.protocol.pipeline.turn_times import Leg, TurnTimes


def taken(table: Table) -> list[tuple[str, float]]:
    return [(leg, round(seconds, 3)) for leg, seconds in table.dialogue.take_latencies()]


def test_the_legs_of_a_spoken_turn_add_up() -> None:
    table = Table(PipelineOptions(has_chat=True, has_transcription=True))
    table.speak(1.0)
    ended_at = table.now
    while not table.of("input_audio_buffer.committed"):
        ended_at = table.now  # the next piece of audio holds the end of the turn
        table.speak(0.1, level=0)
    heard, late_s = table.request(), table.now - ended_at
    assert taken(table) == []
    table.now += 0.2
    table.dialogue.receive_transcript(heard.id, "How are you?")
    thought = table.request()
    assert taken(table) == [("transcription", round(0.2 + late_s, 3))]
    table.now += 0.3
    table.dialogue.receive_text(thought.id, "I am fine. And ", table.now)
    said = table.request()
    assert taken(table) == [("chat", 0.3)]
    table.now += 0.4
    table.sound(said)
    table.sound(said)
    assert taken(table) == [("speech", 0.4), ("upstream", round(0.9 + late_s, 3))]
    table.end(said)
    table.dialogue.receive_text(thought.id, "you?", table.now)
    table.end(thought)
    table.sound(table.request())
    assert taken(table) == []


def test_a_text_that_is_said_has_the_leg_speech_alone() -> None:
    table = Table()
    table.say("Good morning.")
    said = table.request()
    table.now += 0.25
    table.sound(said)
    assert taken(table) == [("speech", 0.25), ("upstream", 0.25)]


def test_a_reply_that_waits_for_another_is_not_measured() -> None:
    table = Table()
    table.say("Good morning.")
    first = table.request()
    table.say("Good night.")
    table.now += 1.0
    table.sound(first)
    table.end(first)
    second = table.request()
    table.sound(second)
    assert taken(table) == [("speech", 1.0), ("upstream", 1.0)]


def test_a_turn_that_fails_has_the_legs_that_have_ended() -> None:
    table = Table(PipelineOptions(has_chat=True))
    table.say("Good morning.")
    thought = table.request()
    table.now += 0.5
    table.dialogue.receive_text(thought.id, "Hello. And ", table.now)
    said = table.request()
    table.fail(said, "speech", 500)
    table.pull()
    assert table.ended == ["failed"]
    assert taken(table) == [("chat", 0.5)]


@pytest.mark.parametrize("has_speech", [False, True], ids=["written", "spoken"])
@pytest.mark.parametrize("has_chat", [False, True], ids=["said", "answered"])
def test_the_legs_are_those_of_the_turn(*, has_speech: bool, has_chat: bool) -> None:
    found: dict[Leg, float] = {}
    times = TurnTimes(
        lambda leg, seconds: found.update({leg: seconds}), 10.0, has_speech=has_speech
    )
    times.begin(11.0 if has_speech else 10.0, has_chat=has_chat)
    times.request_sound(13.0 if has_chat else 11.0)
    times.hear_sound(20.0)
    total = found.pop("upstream")
    assert total == 10.0
    assert found.keys() == {
        "speech",
        *(["transcription"] if has_speech else []),
        *(["chat"] if has_chat else []),
    }
