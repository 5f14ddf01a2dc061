"""Text in, the avatar says it: items, replies, sentences, and every way in which they end."""

from __future__ import annotations

from typing import Any

import pytest
from tests.runtime.protocol.pipeline.table import FRAME, TRANSCRIPT, Table

from avatar_runtime.protocol.pipeline import client_items, reply
from avatar_runtime.protocol.pipeline.dialogue import PipelineOptions


@pytest.fixture(name="table")
def table_without_chat() -> Table:
    return Table()


@pytest.fixture(name="chat")
def table_with_chat() -> Table:
    return Table(PipelineOptions(has_chat=True, instructions="Be brief."))


def test_a_text_becomes_an_item_and_its_sound_a_response(table: Table) -> None:
    events = table.write("Good day.")
    assert [event["type"] for event in events] == [
        "conversation.item.added",
        "conversation.item.done",
    ]
    assert events[0]["item"]["content"] == [{"type": "input_text", "text": "Good day."}]
    assert events[0]["item"]["status"] == "completed"
    events = table.send("response.create", response={"metadata": {"client_event_id": "e1"}})
    assert [event["type"] for event in events] == [
        "response.created",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
    ]
    table.serve()
    table.run(1.0)
    assert table.texts == ["Good day."]
    (done,) = table.of("response.done")
    assert done["response"]["metadata"] == {"client_event_id": "e1"}
    (item,) = done["response"]["output"]
    assert item["content"] == [{"type": "output_audio", "transcript": "Good day."}]
    assert len(table.of("response.output_audio.done")) == 1
    assert len(table.of("response.video.delta")) >= 10
    assert table.trace.violations == []


def test_each_sentence_is_asked_for_as_soon_as_one_of_two_is_complete(table: Table) -> None:
    table.say("One is first. Two is next. Three is last.")
    first, second = table.requests()
    assert (first.text, second.text) == ("One is first.", "Two is next.")  # type: ignore[union-attr]
    assert table.requests() == []
    table.sound(first)
    table.end(first)
    third = table.request()
    assert third.text == "Three is last."


def test_sound_of_a_later_sentence_waits_for_the_one_before(table: Table) -> None:
    table.say("One is first. Two is next.")
    first, second = table.requests()
    table.sound(second, 5)
    table.end(second)
    assert not any(event["type"] == TRANSCRIPT for event in table.run(0.5))
    table.sound(first, 5)
    table.end(first)
    table.run(1.0)
    assert [event["delta"] for event in table.of(TRANSCRIPT)] == ["One is first. ", "Two is next."]
    assert table.ended == ["completed"]
    assert table.trace.violations == []


def test_text_is_reported_with_its_sound(table: Table) -> None:
    table.say("One is first. Two is next.")
    first, second = table.requests()
    table.sound(first, 50)
    table.end(first)
    table.sound(second, 50)
    table.end(second)
    table.pull()
    table.run(3.0)
    kinds = table.kinds()
    at = [index for index, kind in enumerate(kinds) if kind == TRANSCRIPT]
    frames = kinds[at[0] : at[1]].count("response.video.delta")
    assert 48 <= frames <= 50
    assert table.trace.violations == []


def test_sound_leaves_while_the_sentence_is_still_made(table: Table) -> None:
    table.say("A long sentence.")
    request = table.request()
    table.sound(request, 5)
    events = table.run(0.1)
    assert any(event["type"] == "response.video.delta" for event in events)
    assert table.ended == []


def test_marks_without_letters_are_reported_and_not_asked_for(table: Table) -> None:
    table.say("... Hello. \U0001f600 ! Bye.")
    table.serve()
    table.run(2.0)
    assert all(any(map(str.isalpha, text)) for text in table.texts)
    assert len(table.texts) <= 2
    assert (
        "".join(event["delta"] for event in table.of(TRANSCRIPT)) == "... Hello. \U0001f600 ! Bye."
    )


def test_instructions_are_said_where_nothing_thinks(table: Table) -> None:
    table.send("response.create", response={"instructions": "Welcome!"})
    table.serve()
    assert table.texts == ["Welcome!"]


def test_input_of_a_request_is_said_instead_of_the_conversation(table: Table) -> None:
    table.write("Not this.")
    parts = [{"type": "input_text", "text": "But this."}]
    messages = [{"type": "message", "role": "user", "content": parts}]
    table.send("response.create", response={"input": messages})
    table.serve()
    assert table.texts == ["But this."]


def test_all_texts_since_the_last_response_are_said(table: Table) -> None:
    table.write("One.")
    table.write("Two.")
    table.write("A rule.", role="system")
    table.send("response.create")
    table.serve()
    table.run(2.0)
    table.say("Three.")
    table.serve()
    assert table.texts == ["One.", "Two.", "Three."]


def test_a_request_without_text_is_an_error(table: Table, chat: Table) -> None:
    for each in (table, chat):
        (event,) = each.send("response.create")
        assert event["error"]["code"] == "no_input_text"


def test_other_fields_of_a_request_are_warned_about(table: Table) -> None:
    table.write("Hello.")
    events = table.send("response.create", response={"tools": [], "instructions": "Hi."})
    warned = [event["warning"]["param"] for event in events if event["type"] == "warning"]
    assert warned == ["response.tools"]


@pytest.mark.parametrize(
    ("item", "code", "param"),
    [
        ({}, "missing_field", "item.role"),
        ({"role": "tool"}, "invalid_value", "item.role"),
        ({"role": "user"}, "missing_field", "item.content"),
        ({"role": "user", "content": "Hi"}, "invalid_type", "item.content"),
        ({"role": "user", "content": []}, "invalid_value", "item.content"),
        ({"role": "user", "content": [1]}, "invalid_type", "item.content[0]"),
        (
            {"role": "user", "content": [{"type": "input_image"}]},
            "invalid_value",
            "item.content[0].type",
        ),
        (
            {"role": "user", "content": [{"type": "input_text", "text": "x" * 20_000}]},
            "text_too_long",
            "item.content",
        ),
        ({"type": "function_call_output"}, "invalid_value", "item.type"),
        (
            {"id": "", "role": "user", "content": [{"type": "input_text", "text": "x"}]},
            "invalid_value",
            "item.id",
        ),
        (
            {"role": "user", "content": [{"type": "input_text", "text": "x"}] * 65},
            "invalid_value",
            "item.content",
        ),
    ],
)
def test_what_is_no_message_is_refused(
    table: Table, item: dict[str, Any], code: str, param: str
) -> None:
    (event,) = table.send("conversation.item.create", item=item)
    assert (event["error"]["code"], event["error"]["param"]) == (code, param)
    assert len(str(event["error"])) < 1000


def test_an_id_of_the_client_is_kept_and_must_be_new(table: Table) -> None:
    item = {"id": "mine", "role": "user", "content": [{"type": "input_text", "text": "x"}]}
    assert table.send("conversation.item.create", item=item)[0]["item"]["id"] == "mine"
    (event,) = table.send("conversation.item.create", item=item)
    assert event["error"]["param"] == "item.id"


def test_the_conversation_goes_to_the_chat_endpoint(chat: Table) -> None:
    chat.say("How are you?")
    chat.serve()
    chat.run(2.0, serves=True)
    chat.say("Fine.")
    chat.serve()
    prompt = {"role": "system", "content": "Be brief."}
    asked = {"role": "user", "content": "How are you?"}
    answered = {"role": "assistant", "content": "I am fine. And you?"}
    assert chat.messages == [
        (prompt, asked),
        (prompt, asked, answered, {"role": "user", "content": "Fine."}),
    ]
    assert chat.texts[:2] == ["I am fine.", "And you?"]


def test_a_sentence_is_spoken_before_the_answer_is_complete(chat: Table) -> None:
    chat.say("How are you?")
    request = chat.request()
    chat.dialogue.receive_text(request.id, "I am fine. And", chat.now)
    assert chat.request().text == "I am fine."


def test_instructions_of_session_and_request_replace_those_of_the_service(chat: Table) -> None:
    chat.send("session.update", session={"type": "realtime", "instructions": "Be kind."})
    chat.say("One.")
    chat.serve()
    chat.run(2.0, serves=True)
    chat.say("Two.", instructions="Be loud.")
    chat.serve()
    assert [messages[0]["content"] for messages in chat.messages] == ["Be kind.", "Be loud."]


def test_the_history_of_a_request_is_bounded() -> None:
    chat = Table(PipelineOptions(has_chat=True, max_history=3))
    for number in range(5):
        chat.say(f"Message {number}.")
        chat.run(2.0, serves=True)
    assert [len(messages) for messages in chat.messages] == [1, 3, 3, 3, 3]
    assert chat.messages[-1][-1]["content"] == "Message 4."


def test_deleted_items_are_not_sent(chat: Table) -> None:
    (added, _) = chat.write("Forget this.")
    chat.send("conversation.item.delete", item_id=added["item"]["id"])
    chat.say("Keep this.")
    chat.serve()
    assert "Forget this." not in str(chat.messages)


@pytest.mark.parametrize("voice", ["verse", None])
def test_the_voice_of_the_session_is_used(table: Table, voice: str | None) -> None:
    if voice:
        audio = {"output": {"voice": voice}}
        table.send("session.update", session={"type": "realtime", "audio": audio})
    table.say("Hello.")
    assert table.request().voice == (voice or "")


def cancel(table: Table) -> None:
    table.send("response.cancel")


def clear(table: Table) -> None:
    table.send("output_audio_buffer.clear")


def truncate(table: Table) -> None:
    item_id = table.of("response.output_item.added")[-1]["item"]["id"]
    table.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=100)


@pytest.mark.parametrize("end", [cancel, clear, truncate])
def test_an_end_stops_the_requests_and_later_sound_is_ignored(table: Table, end: Any) -> None:
    table.say("One is first. Two is next. Three is last.")
    first, second = table.requests()
    table.sound(first, 100)
    table.run(0.5)
    end(table)
    assert table.ended == ["cancelled"]
    assert not table.dialogue.is_wanted(first.id)
    assert not table.dialogue.is_wanted(second.id)
    table.sound(second)
    table.end(first)
    table.end(second)
    assert table.requests() == []
    assert "response.output_audio.delta" not in [event["type"] for event in table.run(0.5)]
    assert len(table.ended) == 1
    assert table.trace.violations == []
    table.say("Again.")
    table.run(2.0, serves=True)
    assert table.ended == ["cancelled", "completed"]


def test_the_conversation_has_what_was_heard(chat: Table) -> None:
    chat.answer = "One two three four five six seven eight nine ten."
    chat.say("Count.")
    request = chat.request()
    chat.dialogue.receive_text(request.id, chat.answer, chat.now)
    chat.end(request)
    sentence = chat.request()
    chat.sound(sentence, 100)
    chat.end(sentence)
    chat.run(2.0)
    cancel(chat)
    chat.say("Go on.")
    chat.serve()
    (heard,) = (each["content"] for each in chat.messages[-1] if each["role"] == "assistant")
    assert heard in ("One two three four", "One two three four five")
    item_id = chat.of("response.output_item.added")[0]["item"]["id"]
    chat.send("conversation.item.retrieve", item_id=item_id)
    (event,) = chat.of("conversation.item.retrieved")
    assert event["item"]["content"][0]["transcript"] == heard


@pytest.mark.parametrize("leg", ["chat", "speech"])
def test_a_failed_leg_ends_the_response_and_is_named(chat: Table, leg: str) -> None:
    chat.say("How are you?")
    request = chat.request()
    if leg == "speech":
        chat.dialogue.receive_text(request.id, "I am fine. And ", chat.now)
        request = chat.request()
        chat.sound(request, 5)
        chat.run(0.1)
    chat.fail(request, leg, 503)
    chat.pull()
    (error,) = chat.of("error")
    assert error["error"]["type"] == "server_error"
    assert error["error"]["code"] == f"{leg}_failed"
    assert error["error"]["message"] == f"the {leg} endpoint answered with status 503"
    (done,) = chat.of("response.done")
    assert done["response"]["status"] == "failed"
    details = {"type": "server_error", "code": f"{leg}_failed"}
    assert done["response"]["status_details"]["error"] == details
    assert chat.requests() == []
    assert chat.trace.violations == []
    chat.say("Again?")
    chat.run(3.0, serves=True)
    assert chat.ended == ["failed", "completed"]


def test_replies_are_made_one_after_the_other(chat: Table) -> None:
    chat.say("One?")
    chat.say("Two?")
    request = chat.request()
    assert chat.requests() == []
    chat.end(request)
    chat.run(5.0, serves=True)
    assert chat.ended == ["completed", "completed"]
    assert chat.trace.violations == []


def test_too_many_replies_are_refused(table: Table) -> None:
    for _ in range(16):
        table.say("Hello.")
    assert table.of("error") == []
    table.say("Hello.")
    (error,) = table.of("error")
    assert error["error"]["code"] == "too_many_answers"


def test_an_empty_answer_is_a_response_without_sound(chat: Table) -> None:
    chat.answer = ""
    chat.say("Hm?")
    chat.serve()
    chat.run(0.5)
    assert chat.ended == ["completed"]
    assert chat.texts == []
    assert chat.trace.violations == []


def test_no_more_sound_is_asked_for_than_can_be_spoken_soon(table: Table) -> None:
    table.say("One is first. Two is next. Three is last. Four is more.")
    first, second = table.requests()
    table.sound(first, reply.MAX_AHEAD_S * 25)
    assert not table.dialogue.has_room
    table.end(first)
    assert table.requests() == []
    table.run(3.0)
    assert table.dialogue.has_room
    assert len(table.requests()) == 1
    assert table.dialogue.is_wanted(second.id)


def test_audio_without_a_transcription_endpoint_is_warned_about_once(table: Table) -> None:
    for _ in range(3):
        table.speak(0.1)
    (event,) = table.of("warning")
    assert event["warning"]["code"] == "unsupported_in_mode"
    assert event["warning"]["param"] == "audio"


def test_the_longest_text_is_said(table: Table) -> None:
    text = "word " * (client_items.MAX_TEXT // 5)
    table.say(text)
    table.run(60.0, serves=True)
    assert "".join(event["delta"] for event in table.of(TRANSCRIPT)) == text
    assert table.ended == ["completed"]
    assert len(FRAME) == 1920


@pytest.mark.parametrize("name", ["a1", "u1", "t1"])
def test_ids_of_the_session_are_not_for_the_client(table: Table, name: str) -> None:
    content = [{"type": "input_text", "text": "Hello."}]
    item = {"type": "message", "role": "user", "id": f"item_0a_{name}", "content": content}
    [error] = table.send("conversation.item.create", item=item)
    assert (error["error"]["code"], error["error"]["param"]) == ("invalid_value", "item.id")
    table.say("Hello.")
    table.run(2.0, serves=True)
    assert table.ended == ["completed"]


def test_the_end_of_a_cut_item_names_the_item_that_is_before_it_now(table: Table) -> None:
    table.write("Be kind.", "system")
    table.say("Hello.")
    table.run(0.02)
    first, last, _ = [event["item"]["id"] for event in table.of("conversation.item.added")]
    table.send("conversation.item.delete", item_id=last)
    table.send("response.cancel")
    done = table.of("conversation.item.done")[-1]
    assert done["item"]["role"] == "assistant"
    assert done["previous_item_id"] == first
