"""Mode bridge: what the client and the upstream say to each other."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from tests.runtime.protocol.bridge.conftest import BridgeDriver

from avatar_runtime.protocol.bridge.link_state import UpstreamFault
from avatar_runtime.protocol.bridge.requests import MAX_WAITING_CHARACTERS

if TYPE_CHECKING:
    from tests.runtime.protocol.bridge.conftest import Connect, Event

FRAME = bytes(2 * 960)


@pytest.fixture
def driver(bridge: Connect) -> BridgeDriver:
    opened = bridge()
    opened.greet()
    return opened


def kinds(events: list[Event]) -> list[str]:
    return [event["type"] for event in events]


def test_the_session_is_created_when_the_upstream_is_connected(bridge: Connect) -> None:
    driver = bridge()
    assert driver.pull() == []
    driver.append(FRAME)
    assert driver.requests() == []
    created, conversation = driver.greet()
    assert created["type"] == "session.created"
    assert created["session"]["id"] == "sess_0a"
    assert created["session"]["model"] == "acme/concierge"
    assert created["session"]["instructions"] == "Be kind."
    assert created["session"]["audio"]["output"]["voice"] == "marin"
    assert created["session"]["avatar"]["character"] == "anna"
    assert "client_secret" not in created["session"]
    assert conversation["type"] == "conversation.created"
    update, append = driver.sent
    assert update["session"] == {
        "type": "realtime",
        "audio": {
            side: {"format": {"type": "audio/pcm", "rate": 24000}} for side in ("input", "output")
        },
    }
    assert append["audio"] == base64.b64encode(FRAME).decode()
    driver.check()


def test_settings_that_are_not_the_avatars_are_forwarded(driver: BridgeDriver) -> None:
    tool = {"type": "function", "name": "look", "parameters": {"type": "object"}}
    got = driver.update(
        instructions="Sing.",
        tools=[tool],
        output_modalities=["audio"],
        audio={
            "input": {"turn_detection": {"type": "semantic_vad", "eagerness": "low"}},
            "output": {"voice": "cedar"},
        },
        avatar={"character": "ben"},
    )
    assert got == []  # the upstream has to answer first
    (update,) = driver.requests()
    assert update["session"] == {
        "type": "realtime",
        "instructions": "Sing.",
        "tools": [tool],
        "output_modalities": ["audio"],
        "audio": {
            "input": {"turn_detection": {"type": "semantic_vad", "eagerness": "low"}},
            "output": {"voice": "cedar"},
        },
    }
    (updated,) = driver.upstream("session.updated", session={**update["session"], "id": "x"})
    assert updated["type"] == "session.updated"
    assert updated["session"]["id"] == "sess_0a"
    assert updated["session"]["instructions"] == "Sing."
    assert updated["session"]["avatar"]["character"] == "ben"
    driver.check()


def test_no_update_is_answered_before_the_session_is_created() -> None:
    driver = BridgeDriver()
    assert driver.update(avatar={"video": {"quality": 50}}) == []
    driver.greet()
    updated = {"type": "realtime", "output_modalities": ["audio"]}
    driver.upstream("session.updated", session=updated)
    kinds = [event["type"] for event in driver.events]
    assert kinds[:2] == ["session.created", "conversation.created"]
    assert kinds.count("session.updated") == 1
    assert driver.of("session.created")[0]["session"]["avatar"]["video"]["quality"] == 50


def test_an_update_of_the_avatar_alone_is_answered_at_once(driver: BridgeDriver) -> None:
    (updated,) = driver.update(avatar={"video": {"quality": 50}})
    assert updated["session"]["avatar"]["video"]["quality"] == 50
    assert driver.requests() == []


def test_an_update_that_the_upstream_refuses_is_an_error_with_the_clients_id(
    driver: BridgeDriver,
) -> None:
    driver.send("session.update", event_id="mine", session={"type": "realtime", "voice": "x"})
    (update,) = driver.requests()
    error = {"type": "invalid_request_error", "code": "invalid_value", "message": "no such voice"}
    (got,) = driver.upstream("error", error={**error, "event_id": update["event_id"]})
    assert got["error"]["event_id"] == "mine"
    driver.lose()
    driver.connect()
    driver.upstream("session.created", session={"type": "realtime"})
    assert "voice" not in driver.requests()[0]["session"]
    driver.check()


def test_an_answer_is_spoken_with_the_events_of_the_upstream(driver: BridgeDriver) -> None:
    driver.respond()
    driver.say("Hel")
    driver.speak(30)
    driver.say("lo")
    driver.speak(12)
    driver.complete()
    driver.run(3.0)
    seen = [kind for kind in kinds(driver.events)[2:] if not kind.endswith(".delta")]
    assert seen == [
        "response.created",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        "output_audio_buffer.started",
        "session.avatar.switch_to_speaking",
        "response.output_audio.done",
        "response.video.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
        "output_audio_buffer.stopped",
        "session.avatar.switch_to_idle",
    ]
    assert len(driver.of("response.video.delta")) == 42
    done = driver.of("response.done")[0]
    assert done["response"]["usage"]["total_tokens"] == 7
    assert done["response"]["conversation_id"] == "conv_0a"
    assert driver.trace.responses["resp_u1"].pcm == FRAME * 42
    driver.check()


def test_the_speech_of_the_user_interrupts_and_the_upstream_learns_what_was_played(
    driver: BridgeDriver,
) -> None:
    driver.respond()
    driver.speak(100)
    driver.complete()
    driver.run(1.0)
    got = driver.upstream(
        "input_audio_buffer.speech_started", audio_start_ms=5000, item_id="item_user"
    )
    order = kinds(got)
    assert order[0] == "input_audio_buffer.speech_started"
    assert [
        kind for kind in order if kind.startswith(("response.done", "output_audio_b", "conv"))
    ] == [
        "conversation.item.done",
        "response.done",
        "output_audio_buffer.cleared",
        "conversation.item.truncated",
    ]
    (truncate,) = driver.requests()
    assert truncate["type"] == "conversation.item.truncate"
    assert truncate["item_id"] == "item_u1"
    assert 900 <= truncate["audio_end_ms"] <= 1000
    assert driver.of("response.done")[0]["response"]["status_details"]["reason"] == "turn_detected"
    assert driver.of("output_audio_buffer.cleared")[0]["epoch"] == 2
    # The upstream's acknowledgement was given already.
    fields = {name: truncate[name] for name in ("item_id", "content_index", "audio_end_ms")}
    assert driver.upstream("conversation.item.truncated", **fields) == []
    driver.check()


def test_no_interruption_if_the_upstream_says_so(bridge: Connect) -> None:
    driver = bridge()
    detection = {"type": "server_vad", "interrupt_response": False}
    driver.greet({"type": "realtime", "audio": {"input": {"turn_detection": detection}}})
    driver.respond()
    driver.speak(50)
    driver.run(0.2)
    started = {"audio_start_ms": 5000, "item_id": "item_user"}
    assert len(driver.upstream("input_audio_buffer.speech_started", **started)) == 1
    assert driver.requests() == []


def test_a_cancel_is_forwarded_and_the_late_events_are_swallowed(driver: BridgeDriver) -> None:
    driver.respond()
    driver.speak(100)
    driver.run(0.5)
    got = driver.send("response.cancel")
    assert kinds(got)[-1] == "response.done"
    assert got[-1]["response"]["status_details"]["reason"] == "client_cancelled"
    cancel, truncate = driver.requests()
    assert (cancel["type"], cancel["response_id"]) == ("response.cancel", "resp_u1")
    assert truncate["type"] == "conversation.item.truncate"
    driver.speak(10)
    driver.complete()
    error = {
        "type": "invalid_request_error",
        "code": "response_cancel_not_active",
        "message": "no active response",
        "event_id": cancel["event_id"],
    }
    assert driver.upstream("error", error=error) == []
    assert kinds(driver.run(1.0)) in (
        ["response.video.delta"],  # the closing frame
        ["response.video.delta", "output_audio_buffer.stopped", "session.avatar.switch_to_idle"],
    )
    driver.check()


def test_a_cancel_of_a_finished_response_is_not_forwarded(driver: BridgeDriver) -> None:
    driver.respond()
    driver.speak(100)
    driver.complete()
    driver.run(0.5)
    driver.send("response.cancel")
    assert kinds(driver.requests()) == ["conversation.item.truncate"]


def test_a_cancel_without_an_answer_is_answered_by_the_upstream(driver: BridgeDriver) -> None:
    assert driver.send("response.cancel", event_id="c1") == []
    (cancel,) = driver.requests()
    assert cancel == {"type": "response.cancel", "event_id": "c1"}


def test_the_client_truncates_what_it_has_played(driver: BridgeDriver) -> None:
    driver.respond()
    driver.speak(100)
    driver.run(1.0)
    item = {"item_id": "item_u1", "content_index": 0}
    (refused,) = driver.send("conversation.item.truncate", **item, audio_end_ms=3990)
    assert refused["error"]["code"] == "audio_end_out_of_range"
    got = driver.send("conversation.item.truncate", **item, audio_end_ms=700)
    assert kinds(got)[-2:] == ["response.done", "conversation.item.truncated"]
    cancel, truncate = driver.requests()
    assert cancel["type"] == "response.cancel"
    assert truncate["audio_end_ms"] == 700
    # Less is told to the upstream, more is not.
    driver.send("conversation.item.truncate", **item, audio_end_ms=600)
    driver.send("conversation.item.truncate", **item, audio_end_ms=650)
    assert [request["audio_end_ms"] for request in driver.requests()] == [600]
    assert len(driver.of("conversation.item.truncated")) == 3
    driver.send("conversation.item.truncate", item_id="other", content_index=0, audio_end_ms=1)
    assert kinds(driver.requests()) == ["conversation.item.truncate"]
    driver.check()


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("conversation.item.create", {"item": {"type": "message", "role": "user", "content": []}}),
        ("conversation.item.retrieve", {"item_id": "x"}),
        ("conversation.item.delete", {"item_id": "x"}),
        ("response.create", {"response": {"metadata": {"a": "b"}, "instructions": "sing"}}),
        ("response.create", {}),
        ("input_audio_buffer.commit", {}),
        ("input_audio_buffer.clear", {}),
    ],
)
def test_events_of_the_client_are_forwarded_as_they_are(
    driver: BridgeDriver, kind: str, fields: dict[str, Any]
) -> None:
    assert driver.send(kind, event_id="e1", **fields) == []
    assert driver.requests() == [{"type": kind, "event_id": "e1", **fields}]


def test_a_response_keeps_the_format_of_the_session(driver: BridgeDriver) -> None:
    output = {"voice": "ash", "format": {"type": "audio/pcmu"}}
    driver.send("response.create", response={"audio": {"output": output}})
    (create,) = driver.requests()
    expected = {"voice": "ash", "format": {"type": "audio/pcm", "rate": 24000}}
    assert create["response"]["audio"]["output"] == expected


def test_a_client_without_video_gets_none_and_the_upstream_no_avatar(driver: BridgeDriver) -> None:
    driver.update(output_modalities=["avatar", "audio"])
    assert driver.requests()[0]["session"]["output_modalities"] == ["audio"]
    driver.upstream("session.updated", session={"type": "realtime"})
    driver.update(avatar={"video": {"mode": "none"}})
    driver.respond()
    driver.speak(10)
    driver.complete()
    driver.run(1.0)
    assert driver.of("response.done")[0]["response"]["status"] == "completed"
    assert [event for event in kinds(driver.events) if "video" in event] == []
    assert driver.trace.responses["resp_u1"].pcm == FRAME * 10


TRANSCRIPTION = "conversation.item.input_audio_transcription"
RELAYED: list[tuple[str, dict[str, Any]]] = [
    ("input_audio_buffer.speech_stopped", {"audio_end_ms": 9, "item_id": "i"}),
    ("input_audio_buffer.committed", {"item_id": "i", "previous_item_id": None}),
    ("input_audio_buffer.cleared", {}),
    (
        "input_audio_buffer.timeout_triggered",
        {"audio_start_ms": 1, "audio_end_ms": 2, "item_id": "i"},
    ),
    (f"{TRANSCRIPTION}.delta", {"item_id": "i", "content_index": 0, "delta": "a"}),
    (
        f"{TRANSCRIPTION}.completed",
        {
            "item_id": "i",
            "content_index": 0,
            "transcript": "a",
            "usage": {"type": "duration", "seconds": 1.5},
        },
    ),
    (
        f"{TRANSCRIPTION}.failed",
        {"item_id": "i", "content_index": 0, "error": {"message": "unclear"}},
    ),
    ("conversation.item.deleted", {"item_id": "i"}),
    (
        "conversation.item.added",
        {
            "previous_item_id": None,
            "item": {"id": "i", "type": "function_call_output", "call_id": "c", "output": "1"},
        },
    ),
    (
        "rate_limits.updated",
        {"rate_limits": [{"name": "tokens", "limit": 9, "remaining": 8, "reset_seconds": 1.5}]},
    ),
    ("mcp_list_tools.in_progress", {"item_id": "i"}),
    ("mcp_list_tools.completed", {"item_id": "i"}),
    ("mcp_list_tools.failed", {"item_id": "i"}),
]


@pytest.mark.parametrize(("kind", "fields"), RELAYED, ids=[kind for kind, _ in RELAYED])
def test_events_of_the_upstream_are_relayed(
    driver: BridgeDriver, kind: str, fields: dict[str, Any]
) -> None:
    (got,) = driver.upstream(kind, **fields)
    assert {name: got[name] for name in fields} == fields
    assert got["type"] == kind
    assert got["event_id"].startswith("event_0a_")
    driver.check()


def test_a_tool_call_is_relayed_without_audio(driver: BridgeDriver) -> None:
    body = {"id": "resp_t", "object": "realtime.response", "status": "in_progress", "output": []}
    driver.upstream("response.created", response=body)
    item = {"id": "call_1", "object": "realtime.item", "type": "function_call", "name": "look"}
    item |= {"call_id": "c1", "arguments": "", "status": "in_progress"}
    ids = {"response_id": "resp_t", "output_index": 0}
    driver.upstream("response.output_item.added", **ids, item=item)
    arguments = {**ids, "item_id": "call_1", "call_id": "c1"}
    kind = "response.function_call_arguments"
    (delta,) = driver.upstream(f"{kind}.delta", **arguments, delta='{"a":')
    assert delta["delta"] == '{"a":'
    driver.upstream(f"{kind}.done", **arguments, arguments='{"a":1}', name="look")
    done = {**item, "arguments": '{"a":1}', "status": "completed"}
    driver.upstream("response.output_item.done", **ids, item=done)
    driver.upstream("response.done", response={**body, "status": "completed", "output": [done]})
    assert driver.of("response.done")[0]["response"]["output"] == [done]
    output = {"type": "function_call_output", "call_id": "c1", "output": "2"}
    driver.send("conversation.item.create", item=output)
    driver.send("response.create")
    assert kinds(driver.requests()) == ["conversation.item.create", "response.create"]
    driver.check()


def test_a_tool_call_survives_an_interruption_of_the_speech_before_it(driver: BridgeDriver) -> None:
    driver.respond()
    driver.speak(100)
    item = {"id": "call_1", "object": "realtime.item", "type": "function_call", "name": "look"}
    item |= {"call_id": "c1", "arguments": "{}", "status": "completed"}
    ids = {"response_id": "resp_u1", "output_index": 1}
    driver.upstream("response.output_item.added", **ids, item={**item, "status": "in_progress"})
    driver.upstream("response.output_item.done", **ids, item=item)
    driver.complete()
    driver.run(0.3)
    driver.upstream("input_audio_buffer.speech_started", audio_start_ms=5, item_id="i")
    assert [event["item"]["id"] for event in driver.of("response.output_item.done")] == [
        "item_u1",
        "call_1",
    ]
    driver.check()


def test_the_loss_of_the_upstream_fails_the_answer_and_the_session_goes_on(
    driver: BridgeDriver,
) -> None:
    driver.respond()
    driver.speak(100)
    driver.run(0.5)
    driver.send("conversation.item.retrieve", item_id="x")
    got = driver.lose()
    assert kinds(got)[0] == "error"
    assert got[0]["error"]["code"] == "upstream_unavailable"
    assert got[-1]["response"]["status"] == "failed"
    assert got[-1]["response"]["status_details"]["error"]["code"] == "upstream_unavailable"
    driver.append(FRAME)
    assert driver.requests() == []
    assert driver.session.closing is None
    driver.connect()
    (warning,) = driver.upstream("session.created", session={"type": "realtime"})
    assert warning["warning"]["code"] == "upstream_reconnected"
    assert kinds(driver.requests()) == ["session.update", "input_audio_buffer.append"]
    driver.respond("resp_u2", "item_u2")
    driver.speak(10, "resp_u2", "item_u2")
    driver.complete("resp_u2", "item_u2")
    driver.run(1.0)
    assert driver.of("response.done")[-1]["response"]["status"] == "completed"
    driver.check()


def test_an_answer_that_the_upstream_has_completed_survives_its_loss(driver: BridgeDriver) -> None:
    driver.respond()
    driver.speak(50)
    driver.complete()
    driver.run(0.3)
    assert kinds(driver.lose()) == ["error"]
    driver.run(3.0)
    assert driver.of("response.done")[0]["response"]["status"] == "completed"


def test_the_settings_are_asked_again_and_their_answer_is_not_forgotten(
    driver: BridgeDriver,
) -> None:
    driver.update(instructions="Sing.")
    driver.requests()
    driver.lose()
    driver.update(voice="cedar")
    driver.connect()
    driver.upstream("session.created", session={"type": "realtime"})
    (update,) = driver.requests()
    assert update["session"]["instructions"] == "Sing."
    assert update["session"]["voice"] == "cedar"
    got = driver.upstream("session.updated", session=update["session"])
    assert kinds(got) == ["session.updated"] * 2


def test_three_failed_tries_end_the_session(bridge: Connect) -> None:
    driver = bridge()
    codes = []
    for _ in range(3):
        assert driver.session.closing is None
        driver.connect()
        codes += [event["error"]["code"] for event in driver.lose()]
    assert driver.session.closing is not None
    assert driver.session.closing.code == 4502
    assert codes == ["upstream_unavailable"] * 2  # the first and the last


@pytest.mark.parametrize("status", [401, 404])
def test_a_refusal_ends_the_session_at_once(bridge: Connect, status: int) -> None:
    driver = bridge()
    driver.connect()
    fault = UpstreamFault("upstream_refused", f"HTTP {status}", is_final=True)
    (error,) = driver.lose(fault)
    assert error["error"]["code"] == "upstream_refused"
    assert driver.session.closing is not None
    assert driver.session.closing.code == 4502


def test_a_slow_upstream_slows_the_client_down(driver: BridgeDriver) -> None:
    size = 0
    while driver.session.can_receive:
        driver.append(FRAME * 25)
        size += 1
    assert size * 64_000 > MAX_WAITING_CHARACTERS
    assert size < 30
    driver.requests()
    assert driver.session.can_receive


def test_the_latency_of_the_upstream_is_measured(driver: BridgeDriver) -> None:
    driver.upstream("input_audio_buffer.speech_stopped", audio_end_ms=5, item_id="i")
    driver.now += 0.4
    driver.respond()
    driver.speak(5)
    driver.speak(5)
    assert driver.bridge.upstream.take_latencies() == [pytest.approx(0.4)]
    assert driver.bridge.upstream.take_latencies() == []


@pytest.mark.parametrize("rates", [(16000, 24000), (24000, 16000)])
def test_audio_is_converted_to_the_rates_of_the_upstream(
    bridge: Connect, rates: tuple[int, int]
) -> None:
    driver = bridge(rates=rates)
    driver.greet()
    formats = driver.sent[0]["session"]["audio"]
    assert formats["input"]["format"]["rate"] == rates[0]
    assert formats["output"]["format"]["rate"] == rates[1]
    driver.append(bytes(2 * 24000))
    driver.send("input_audio_buffer.commit")
    *appends, commit = driver.requests()
    heard = sum(len(base64.b64decode(event["audio"])) for event in appends)
    assert heard == 2 * rates[0]
    assert commit["type"] == "input_audio_buffer.commit"
    driver.respond()
    one_second = base64.b64encode(bytes(2 * rates[1])).decode()
    driver.upstream("response.output_audio.delta", **driver.part(), delta=one_second)
    driver.complete()
    driver.run(2.0)
    assert len(driver.trace.responses["resp_u1"].pcm) == 2 * 24000
    driver.check()


def test_telephony_formats_are_asked_of_the_upstream(bridge: Connect) -> None:
    driver = bridge()
    driver.greet()
    driver.update(audio={"input": {"format": {"type": "audio/pcmu"}}})
    (update,) = driver.requests()
    assert update["session"]["audio"] == {"input": {"format": {"type": "audio/pcmu"}}}


def test_an_error_of_the_upstream_is_relayed_and_cut(driver: BridgeDriver) -> None:
    error = {"type": "invalid_request_error", "code": 7, "message": "x" * 5000, "event_id": "e1"}
    (got,) = driver.upstream("error", error=error)
    assert got["error"]["event_id"] == "e1"
    assert got["error"]["code"] is None
    assert len(got["error"]["message"]) == 1024
    driver.check()


HOSTILE: list[Any] = [
    [],
    7,
    {},
    {"type": 7},
    {"type": "unknown.event", "response_id": "resp_u1"},
    {"type": "response.created"},
    {"type": "response.created", "response": []},
    {"type": "response.created", "response": {"id": 7}},
    {"type": "response.created", "response": {"id": "x" * 600}},
    {"type": "response.created", "response": {"id": "resp_u1"}},
    {"type": "response.done", "response": {"id": "unknown"}},
    {"type": "response.output_audio.delta", "response_id": "resp_u1"},
    {
        "type": "response.output_audio.delta",
        "response_id": "resp_u1",
        "item_id": "item_u1",
        "output_index": True,
        "content_index": 0,
        "delta": "AAAA",
    },
    {
        "type": "response.output_audio.delta",
        "response_id": "unknown",
        "item_id": "item_u1",
        "output_index": 0,
        "content_index": 0,
        "delta": "AAAA",
    },
    {"type": "response.output_item.added", "response_id": "resp_u1", "output_index": 1, "item": {}},
    {"type": "session.created", "session": {"type": "realtime"}},
    {"type": "session.updated", "session": "x"},
    {"type": "error", "error": "x"},
    {"type": "conversation.item.added", "item": None},
    {"type": "rate_limits.updated", "rate_limits": {}},
    {"type": "input_audio_buffer.speech_started", "audio_start_ms": -1, "item_id": "i"},
    {"type": "input_audio_buffer.speech_stopped", "audio_end_ms": 10**50, "item_id": "i"},
]


@pytest.mark.parametrize("event", HOSTILE, ids=[str(event)[:60] for event in HOSTILE])
def test_a_hostile_event_changes_nothing(driver: BridgeDriver, event: Any) -> None:
    driver.respond()
    driver.speak(5)
    before = len(driver.events)
    assert driver.bridge.upstream.receive(json.dumps(event), driver.now) is None
    assert driver.pull() == []
    assert len(driver.events) == before
    driver.complete()
    driver.run(1.0)
    assert driver.of("response.done")[0]["response"]["status"] == "completed"
    driver.check()


def test_audio_that_is_no_base64_fails_the_answer(driver: BridgeDriver) -> None:
    driver.respond()
    driver.upstream("response.output_audio.delta", **driver.part(), delta="!!!")
    assert driver.of("error")[0]["error"]["code"] == "invalid_base64"
    assert driver.of("response.done")[0]["response"]["status"] == "failed"
    assert kinds(driver.requests()) == ["response.cancel"]
    driver.check()


def test_an_upstream_that_sends_only_rubbish_is_left(driver: BridgeDriver) -> None:
    faults = [driver.bridge.upstream.receive("{", driver.now) for _ in range(101)]
    assert faults[:100] == [None] * 100
    assert faults[100] is not None
    assert faults[100].code == "upstream_unavailable"


def test_minutes_of_audio_in_a_burst_are_bounded(driver: BridgeDriver) -> None:
    driver.respond()
    for _ in range(601):
        driver.speak(25)
    assert driver.of("error")[0]["error"]["code"] == "output_audio_buffer_full"
    assert driver.of("response.done")[0]["response"]["status"] == "failed"
    assert "response.cancel" in kinds(driver.requests())


def test_too_many_answers_at_once_are_cancelled(driver: BridgeDriver) -> None:
    for number in range(20):
        driver.respond(f"resp_{number}", f"item_{number}")
        driver.speak(5, f"resp_{number}", f"item_{number}")
    cancelled = [event["response_id"] for event in driver.requests()]
    assert cancelled == [f"resp_{number}" for number in range(16, 20)]


def test_a_beta_upstream_is_translated_both_ways(bridge: Connect) -> None:
    driver = bridge(is_beta=True)
    driver.connect()
    flat = {
        "id": "s",
        "object": "realtime.session",
        "modalities": ["text", "audio"],
        "voice": "alloy",
        "input_audio_format": "pcm16",
        "output_audio_format": "pcm16",
        "turn_detection": {"type": "server_vad", "interrupt_response": True},
        "max_response_output_tokens": "inf",
    }
    driver.upstream("session.created", session=flat)
    (update,) = driver.requests()
    assert update["session"] == {"input_audio_format": "pcm16", "output_audio_format": "pcm16"}
    created = driver.events[0]["session"]
    assert created["audio"]["output"]["voice"] == "alloy"
    assert created["output_modalities"] == ["audio"]
    assert created["max_output_tokens"] == "inf"
    driver.upstream("session.updated", session=flat)
    driver.update(
        output_modalities=["audio"],
        avatar={"character": "anna"},
        max_output_tokens=9,
        audio={"input": {"transcription": {"model": "whisper-1"}}, "output": {"voice": "ash"}},
    )
    (update,) = driver.requests()
    assert update["session"] == {
        "modalities": ["text", "audio"],
        "max_response_output_tokens": 9,
        "input_audio_transcription": {"model": "whisper-1"},
        "voice": "ash",
    }
    content = [{"type": "output_text", "text": "a"}]
    driver.send("conversation.item.create", item={"role": "assistant", "content": content})
    assert driver.requests()[0]["item"]["content"][0]["type"] == "text"
    body = {"id": "resp_b", "object": "realtime.response", "modalities": ["text", "audio"]}
    driver.upstream("response.created", response={**body, "status": "in_progress", "output": []})
    item: Event = {
        "id": "item_b",
        "object": "realtime.item",
        "type": "message",
        "role": "assistant",
    }
    item |= {"role": "assistant", "status": "in_progress", "content": []}
    ids = {"response_id": "resp_b", "output_index": 0}
    driver.upstream("response.output_item.added", **ids, item=item)
    driver.upstream("conversation.item.created", item=item, previous_item_id=None)
    part = {**ids, "item_id": "item_b", "content_index": 0}
    driver.upstream("response.content_part.added", **part, part={"type": "audio"})
    driver.upstream("response.audio_transcript.delta", **part, delta="Hi")
    audio = base64.b64encode(FRAME * 10).decode()
    driver.upstream("response.audio.delta", **part, delta=audio)
    driver.upstream("response.audio.done", **part)
    driver.upstream("response.audio_transcript.done", **part, transcript="Hi")
    driver.upstream("response.content_part.done", **part, part={"type": "audio"})
    said = {**item, "status": "completed", "content": [{"type": "audio", "transcript": "Hi"}]}
    driver.upstream("response.output_item.done", **ids, item=said)
    driver.upstream("response.done", response={**body, "status": "completed", "output": [said]})
    driver.run(1.0)
    seen = kinds(driver.events)
    assert "conversation.item.done" in seen
    assert "response.output_audio_transcript.delta" in seen
    assert driver.trace.responses["resp_b"].pcm == FRAME * 10
    output = driver.of("response.done")[0]["response"]["output"]
    assert output[0]["content"][0]["type"] == "output_audio"
    heard: Event = {"id": "u", "object": "realtime.item", "type": "message", "role": "user"}
    heard |= {"status": "completed", "content": [{"type": "input_audio", "transcript": None}]}
    got = driver.upstream("conversation.item.created", item=heard, previous_item_id=None)
    assert kinds(got) == ["conversation.item.added", "conversation.item.done"]
    driver.check()


def acks(driver: BridgeDriver) -> None:
    driver.update(avatar={"flow": {"mode": "ack", "window_ms": 2000}})


def ack(driver: BridgeDriver, response_id: str, pts_ms: float) -> None:
    driver.send("output_video_buffer.ack", response_id=response_id, pts_ms=pts_ms)


def test_the_upstream_learns_what_the_client_has_acknowledged(driver: BridgeDriver) -> None:
    acks(driver)
    driver.respond()
    driver.speak(100)
    driver.complete()
    driver.run(1.5)  # by the clock, 1.4 s were played
    ack(driver, "resp_u1", 320.5)
    driver.upstream("input_audio_buffer.speech_started", audio_start_ms=5000, item_id="item_user")
    (truncate,) = driver.requests()
    assert (truncate["item_id"], truncate["audio_end_ms"]) == ("item_u1", 320)
    driver.check()


def test_each_answer_that_was_not_played_is_cut_where_its_acknowledgement_says(
    driver: BridgeDriver,
) -> None:
    acks(driver)
    for number in (1, 2):
        driver.respond(f"resp_u{number}", f"item_u{number}")
        driver.speak(10, f"resp_u{number}", f"item_u{number}")
        driver.complete(f"resp_u{number}", f"item_u{number}")
        driver.run(0.2)
    driver.respond("resp_u3", "item_u3")
    driver.speak(10, "resp_u3", "item_u3")
    driver.run(5.0)
    ack(driver, "resp_u1", 400)
    ack(driver, "resp_u2", 120)
    driver.requests()
    driver.send("output_audio_buffer.clear")
    cut = {
        each["item_id"]: each["audio_end_ms"]
        for each in driver.requests()
        if each["type"] == "conversation.item.truncate"
    }
    assert cut == {"item_u2": 120, "item_u3": 0}
    driver.check()
