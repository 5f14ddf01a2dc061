"""The caller speaks: utterances, their text, the answer, and interruptions."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from tests.runtime.protocol.pipeline.table import RATE, TRANSCRIPT, Table

from avatar_runtime.protocol.pipeline.dialogue import MAX_TRANSCRIPTIONS, PipelineOptions
from avatar_runtime.protocol.pipeline.heard_audio import MAX_UTTERANCE_S
from avatar_runtime.protocol.pipeline.legs import TranscriptionRequest

TRANSCRIBED = "conversation.item.input_audio_transcription.completed"


@pytest.fixture(name="table")
def table_with_all_endpoints() -> Table:
    return Table(PipelineOptions(has_chat=True, has_transcription=True))


def ask(table: Table, *, serves: bool = True) -> None:
    """Speak for a second, and wait until the end of the turn is detected."""
    table.speak(1.0)
    table.speak(1.0, level=0)
    if serves:
        table.serve()


def test_the_caller_is_heard_thought_about_and_answered(table: Table) -> None:
    ask(table)
    table.run(3.0, serves=True)
    kinds = [kind for kind in table.kinds() if "delta" not in kind]
    assert kinds[2:] == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "response.created",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        TRANSCRIBED,
        "output_audio_buffer.started",
        "session.avatar.switch_to_speaking",
        "response.output_audio.done",
        "response.video.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "response.output_item.done",
        "conversation.item.done",
        "response.done",
        "output_audio_buffer.stopped",
        "session.avatar.switch_to_idle",
    ]
    (transcribed,) = table.of(TRANSCRIBED)
    item_id = table.of("input_audio_buffer.committed")[0]["item_id"]
    assert (transcribed["item_id"], transcribed["transcript"]) == (item_id, "How are you?")
    assert table.messages == [({"role": "user", "content": "How are you?"},)]
    assert table.texts == ["I am fine.", "And you?"]
    assert table.trace.violations == []


def test_the_utterance_is_what_was_spoken(table: Table) -> None:
    ask(table, serves=False)
    request = table.request()
    assert isinstance(request, TranscriptionRequest)
    assert 1.0 <= len(request.sound) / (2 * RATE) <= 2.2
    (transcribed,) = [table.of(TRANSCRIBED)] if table.of(TRANSCRIBED) else [[]]
    assert transcribed == []


def test_an_item_that_was_heard_has_its_transcript(table: Table) -> None:
    ask(table)
    item_id = table.of("input_audio_buffer.committed")[0]["item_id"]
    table.send("conversation.item.retrieve", item_id=item_id)
    (event,) = table.of("conversation.item.retrieved")
    assert event["item"]["content"] == [{"type": "input_audio", "transcript": "How are you?"}]


def test_without_a_chat_endpoint_what_was_heard_is_said() -> None:
    table = Table(PipelineOptions(has_transcription=True))
    ask(table)
    table.run(2.0, serves=True)
    assert table.texts == ["How are you?"]
    assert table.ended == ["completed"]


def test_the_client_may_ask_for_the_answer_itself(table: Table) -> None:
    detection = {"type": "server_vad", "create_response": False}
    audio = {"input": {"turn_detection": detection}}
    table.send("session.update", session={"type": "realtime", "audio": audio})
    ask(table)
    assert table.of("response.created") == []
    table.send("response.create")
    table.run(2.0, serves=True)
    assert table.messages == [({"role": "user", "content": "How are you?"},)]
    assert table.ended == ["completed"]


def test_push_to_talk_is_answered_when_it_is_asked_for(table: Table) -> None:
    audio = {"input": {"turn_detection": None}}
    table.send("session.update", session={"type": "realtime", "audio": audio})
    table.speak(0.5)
    table.send("input_audio_buffer.commit")
    table.send("response.create")
    table.run(3.0, serves=True)
    assert table.ended == ["completed"]
    (error,) = table.send("input_audio_buffer.commit")
    assert error["error"]["code"] == "input_audio_buffer_commit_empty"


def test_a_commit_ends_a_turn_before_the_silence_does(table: Table) -> None:
    table.speak(0.5)
    table.send("input_audio_buffer.commit")
    table.run(3.0, serves=True)
    assert table.ended == ["completed"]


def test_what_is_cleared_is_not_transcribed(table: Table) -> None:
    table.speak(0.5)
    table.send("input_audio_buffer.clear")
    table.speak(1.0, level=0)
    assert table.requests() == []
    assert table.of("input_audio_buffer.cleared") != []


def test_new_speech_interrupts_the_answer_and_its_requests(table: Table) -> None:
    table.answer = "One is first. Two is next. Three is last. Four is more."
    ask(table, serves=False)
    heard = table.request()
    table.dialogue.receive_transcript(heard.id, "Count.")
    chat = table.request()
    table.dialogue.receive_text(chat.id, table.answer, table.now)
    first, second = table.requests()
    table.sound(first, 60)
    table.run(1.0)
    before = len(table.events)
    table.speak(0.5)
    (done,) = table.of("response.done")
    assert done["response"]["status_details"]["reason"] == "turn_detected"
    for request in (chat, first, second):
        assert not table.dialogue.is_wanted(request.id)
    started = next(
        index
        for index, event in enumerate(table.events[before:])
        if event["type"] == "input_audio_buffer.speech_started"
    )
    after = [event["type"] for event in table.events[before + started :]]
    assert "response.output_audio.delta" not in after
    table.speak(1.0, level=0)
    table.run(6.0, serves=True)
    assert table.ended == ["cancelled", "completed"]
    roles = [message["role"] for message in table.messages[-1]]
    assert roles == ["user", "assistant", "user"]
    assert table.trace.violations == []


def test_an_interrupted_utterance_is_still_transcribed(table: Table) -> None:
    ask(table, serves=False)
    first = table.request()
    ask(table, serves=False)
    second = table.request()
    assert table.dialogue.is_wanted(first.id)
    table.dialogue.receive_transcript(first.id, "One.")
    table.dialogue.receive_transcript(second.id, "Two.")
    table.run(3.0, serves=True)
    assert [event["transcript"] for event in table.of(TRANSCRIBED)] == ["One.", "Two."]
    assert [message["content"] for message in table.messages[-1]] == ["One.", "Two."]
    assert table.ended == ["cancelled", "completed"]


def test_a_reply_waits_for_the_text_of_all_utterances(table: Table) -> None:
    audio = {"input": {"turn_detection": None}}
    table.send("session.update", session={"type": "realtime", "audio": audio})
    for _ in range(2):
        table.speak(0.3)
        table.send("input_audio_buffer.commit")
    table.send("response.create")
    first, second = table.requests()
    table.dialogue.receive_transcript(second.id, "Two.")
    assert table.requests() == []
    table.dialogue.receive_transcript(first.id, "One.")
    (request,) = table.requests()
    assert [each["content"] for each in request.messages] == ["One.", "Two."]  # type: ignore[union-attr]


def test_noise_without_words_is_not_answered(table: Table) -> None:
    table.transcript = ""
    ask(table)
    table.run(1.0, serves=True)
    assert table.messages == []
    assert table.ended == ["completed"]
    assert table.of(TRANSCRIPT) == []
    assert table.of("error") == []


def test_a_failed_transcription_is_told_and_ends_the_response(table: Table) -> None:
    ask(table, serves=False)
    table.fail(table.request(), "transcription", 401)
    table.pull()
    (failed,) = table.of("conversation.item.input_audio_transcription.failed")
    assert failed["error"]["code"] == "transcription_failed"
    assert "401" in failed["error"]["message"]
    (error,) = table.of("error")
    assert error["error"]["code"] == "transcription_failed"
    assert table.ended == ["failed"]
    assert table.trace.violations == []
    ask(table)
    table.run(3.0, serves=True)
    assert table.ended == ["failed", "completed"]


def test_an_utterance_has_a_longest_length(table: Table) -> None:
    audio = {"input": {"turn_detection": None}}
    table.send("session.update", session={"type": "realtime", "audio": audio})
    chunk = base64.b64encode(bytes(2 * RATE * 10)).decode()
    answers: list[Any] = []
    for _ in range(MAX_UTTERANCE_S // 10 + 1):
        answers += table.send("input_audio_buffer.append", audio=chunk)
    (error,) = answers
    assert error["error"]["code"] == "input_audio_buffer_full"
    assert error["error"]["limit"] == MAX_UTTERANCE_S


def test_utterances_without_a_text_are_bounded(table: Table) -> None:
    audio = {"input": {"turn_detection": None}}
    table.send("session.update", session={"type": "realtime", "audio": audio})
    for _ in range(MAX_TRANSCRIPTIONS):
        table.speak(0.1)
        table.send("input_audio_buffer.commit")
    assert table.of("error") == []
    table.speak(0.1)
    table.send("input_audio_buffer.commit")
    (error,) = table.of("error")
    assert error["error"]["code"] == "input_audio_buffer_full"
    assert error["error"]["limit"] == MAX_TRANSCRIPTIONS
    # The utterance stays open, so that the client can commit it later.
    assert len(table.of("input_audio_buffer.committed")) == MAX_TRANSCRIPTIONS
    table.serve()
    table.send("input_audio_buffer.commit")
    assert len(table.of("input_audio_buffer.committed")) == MAX_TRANSCRIPTIONS + 1
    assert len(table.of("error")) == 1


def test_the_format_stays_until_an_utterance_has_ended() -> None:
    table = Table(PipelineOptions(has_transcription=True))
    audio = {"input": {"format": {"type": "audio/pcmu"}, "turn_detection": None}}
    detection = {"input": {"turn_detection": None}}
    table.send("session.update", session={"type": "realtime", "audio": detection})
    table.speak(0.1)
    table.send("session.update", session={"type": "realtime", "audio": audio})
    (error,) = table.of("error")
    assert error["error"]["code"] == "response_active"
    table.send("input_audio_buffer.clear")
    table.send("session.update", session={"type": "realtime", "audio": audio})
    assert table.of("session.updated")[-1]["session"]["audio"]["input"]["format"] == {
        "type": "audio/pcmu"
    }
