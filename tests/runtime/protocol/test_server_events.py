"""The complete bodies of the events of a session: no field is missing, added or different."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest

from avatar_runtime.protocol import conversation
from avatar_runtime.protocol.server_events import compact_number

if TYPE_CHECKING:
    from tests.runtime.protocol.conftest import Connect, Event, SessionDriver

AUDIO = bytes(range(256)) * 15  # 2 frames of 1920 bytes at 24 kHz
PCM = {"type": "audio/pcm", "rate": 24000}
PART = {"type": "audio", "transcript": ""}
ITEM_PART = {"type": "output_audio", "transcript": ""}
IDS = {"response_id": "resp_0a_1", "item_id": "item_0a_a1", "output_index": 0, "content_index": 0}


def item(status: str, content: list[dict[str, Any]], role: str = "assistant") -> dict[str, Any]:
    return {
        "id": f"item_0a_{role[0]}1",
        "object": "realtime.item",
        "type": "message",
        "status": status,
        "role": role,
        "content": content,
    }


def response(
    status: str, output: list[dict[str, Any]], details: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {
        "id": "resp_0a_1",
        "object": "realtime.response",
        "status": status,
        "status_details": details,
        "output": output,
        "conversation_id": "conv_0a",
        "output_modalities": ["audio"],
        "audio": {"output": {"format": PCM}},
        "metadata": None,
        "usage": None,
    }


def bodies(events: list[Event]) -> list[tuple[str, dict[str, Any]]]:
    """Return the type and the body of events, without the number that each of them has."""
    return [
        (e["type"], {k: v for k, v in e.items() if k not in ("type", "event_id", "seq")})
        for e in events
    ]


def opened(connect: Connect) -> SessionDriver:
    """Return a session whose first two events are no longer recorded."""
    driver = connect()
    driver.events.clear()
    return driver


def test_each_event_has_the_next_number_and_an_id_of_the_session(connect: Connect) -> None:
    driver = connect()
    driver.append(AUDIO)
    driver.send("input_audio_buffer.commit")
    driver.make()
    numbers = [(event["seq"], event["event_id"]) for event in driver.events]
    assert numbers == [(n, f"event_0a_{n}") for n in range(1, len(driver.events) + 1)]
    assert driver.events[1]["conversation"] == {"id": "conv_0a", "object": "realtime.conversation"}


def test_the_start_of_a_response_has_all_fields(connect: Connect) -> None:
    driver = opened(connect)
    assert bodies(driver.append(AUDIO)) == [
        (
            "conversation.item.added",
            {"item": item("in_progress", [], "user"), "previous_item_id": None},
        ),
        (
            "response.created",
            {"response": response("in_progress", []), "response_ref": 1, "epoch": 1},
        ),
        (
            "response.output_item.added",
            {"response_id": "resp_0a_1", "output_index": 0, "item": item("in_progress", [])},
        ),
        (
            "conversation.item.added",
            {"item": item("in_progress", []), "previous_item_id": "item_0a_u1"},
        ),
        ("response.content_part.added", {**IDS, "part": PART}),
    ]


def test_a_commit_has_all_fields(connect: Connect) -> None:
    driver = opened(connect)
    driver.append(AUDIO)
    user = item("completed", [{"type": "input_audio", "transcript": None}], "user")
    added = {"item": user, "previous_item_id": None}
    assert bodies(driver.send("input_audio_buffer.commit")) == [
        (
            "input_audio_buffer.committed",
            {"item_id": "item_0a_u1", "previous_item_id": None},
        ),
        ("conversation.item.done", added),
    ]


def test_the_media_and_the_end_of_a_response_have_all_fields(connect: Connect) -> None:
    driver = opened(connect)
    driver.append(AUDIO)
    driver.send("input_audio_buffer.commit")
    video = {
        "response_id": "resp_0a_1",
        "item_id": "item_0a_a1",
        "output_index": 0,
        "codec": "jpeg",
        "mode": "jpeg",
        "epoch": 1,
        "keyframe": True,
        "idle": False,
    }
    spoken = item("completed", [ITEM_PART])
    assert bodies(driver.make()) == [
        ("output_audio_buffer.started", {"response_id": "resp_0a_1", "epoch": 1}),
        ("session.avatar.switch_to_speaking", {"turn_id": "resp_0a_1"}),
        (
            "response.output_audio.delta",
            {
                **IDS,
                "epoch": 1,
                "pts_ms": 0,
                "offset_samples": 0,
                "delta": base64.b64encode(AUDIO).decode(),
            },
        ),
        *(
            (
                "response.video.delta",
                {
                    **video,
                    "frame_index": index,
                    "offset_samples": 960 * index,
                    "pts_ms": 40 * index,
                    "delta": base64.b64encode(b"jpeg %d" % index).decode(),
                },
            )
            for index in (0, 1)
        ),
        ("response.output_audio.done", IDS),
        (
            "response.video.done",
            {
                "response_id": "resp_0a_1",
                "item_id": "item_0a_a1",
                "output_index": 0,
                "epoch": 1,
                "status": "completed",
                "frames": 2,
                "dropped": 0,
                "audio_samples": 1920,
                "audio_ms": 80,
                "video_ms": 80,
            },
        ),
        ("response.content_part.done", {**IDS, "part": PART}),
        (
            "response.output_item.done",
            {"response_id": "resp_0a_1", "output_index": 0, "item": spoken},
        ),
        ("conversation.item.done", {"item": spoken, "previous_item_id": "item_0a_u1"}),
        (
            "response.done",
            {"response": response("completed", [spoken]), "response_ref": 1, "epoch": 1},
        ),
    ]


def test_the_end_of_playback_has_all_fields(connect: Connect) -> None:
    driver = opened(connect)
    driver.append(AUDIO)
    driver.send("input_audio_buffer.commit")
    driver.make()
    driver.now += 0.08
    driver.session.tick(driver.now)
    assert bodies(driver.pull()) == [
        ("output_audio_buffer.stopped", {"response_id": "resp_0a_1", "epoch": 1}),
        ("session.avatar.switch_to_idle", {"turn_id": "resp_0a_1"}),
    ]


@pytest.mark.parametrize(
    ("end", "status", "details"),
    [
        pytest.param(
            lambda driver: driver.send("response.cancel"),
            "cancelled",
            {"type": "cancelled", "reason": "client_cancelled", "error": None},
            id="cancel",
        ),
        pytest.param(
            lambda driver: driver.session.fail(1, 1, driver.now) or driver.pull(),
            "failed",
            {
                "type": "failed",
                "reason": None,
                "error": {"type": "server_error", "code": "internal_error"},
            },
            id="fail",
        ),
        pytest.param(
            lambda driver: driver.session.end(4410, "over", driver.now) or driver.pull(),
            "failed",
            {
                "type": "failed",
                "reason": None,
                "error": {"type": "server_error", "code": "session_ended"},
            },
            id="abort",
        ),
    ],
)
def test_an_early_end_is_described_by_its_cause(
    connect: Connect, end: Any, status: str, details: dict[str, Any]
) -> None:
    driver = connect()
    driver.append(AUDIO)
    done = end(driver)[-1]
    assert done["type"] == "response.done"
    assert done["response"] == response(status, [item("incomplete", [ITEM_PART])], details)
    assert done["response_ref"] == 1


def test_dropped_frames_have_all_fields(connect: Connect) -> None:
    driver = opened(connect)
    driver.append(AUDIO)
    driver.send("input_audio_buffer.commit")
    first, second = driver.due()
    assert driver.session.skip(1, 1, first.frame_index, driver.now)
    [dropped] = [e for e in driver.make([second]) if e["type"] == "response.video.dropped"]
    assert bodies([dropped]) == [
        (
            "response.video.dropped",
            {
                "response_id": "resp_0a_1",
                "first_frame_index": 0,
                "last_frame_index": 0,
                "reason": "overload",
            },
        )
    ]


def test_an_error_has_all_fields(connect: Connect) -> None:
    driver = opened(connect)
    message = "pts_ms is -1; must be 0 to 86400000"
    fields = {"event_id": "evt_1", "response_id": "r", "pts_ms": -1}
    assert bodies(driver.send("output_video_buffer.ack", **fields)) == [
        (
            "error",
            {
                "error": {
                    "type": "invalid_request_error",
                    "code": "invalid_value",
                    "message": message,
                    "param": "pts_ms",
                    "event_id": "evt_1",
                    "value": -1,
                    "limit": [0, 86_400_000],
                }
            },
        )
    ]


def test_item_events_have_all_fields(connect: Connect) -> None:
    driver = opened(connect)
    driver.append(AUDIO)
    driver.send("input_audio_buffer.commit")
    driver.make()
    ids = {"item_id": "item_0a_a1"}
    assert bodies(driver.send("conversation.item.retrieve", **ids)) == [
        ("conversation.item.retrieved", {"item": item("completed", [ITEM_PART])})
    ]
    cut = {**ids, "content_index": 0, "audio_end_ms": 40}
    truncated = [("conversation.item.truncated", cut)]
    assert bodies(driver.send("conversation.item.truncate", **cut)) == truncated
    [error] = driver.send("conversation.item.truncate", **{**cut, "audio_end_ms": 41})
    assert error["error"]["limit"] == 40
    deleted = [("conversation.item.deleted", ids)]
    assert bodies(driver.send("conversation.item.delete", **ids)) == deleted


def test_the_audio_of_an_item_is_counted_in_milliseconds_sent(connect: Connect) -> None:
    driver = connect()
    driver.append(bytes(1920 * 25 * 3))
    driver.send("input_audio_buffer.commit")
    while driver.session.is_speaking:
        driver.run(0.1)
    [error] = driver.send(
        "conversation.item.truncate", item_id="item_0a_a1", content_index=0, audio_end_ms=3001
    )
    assert (error["error"]["code"], error["error"]["limit"]) == ("audio_end_out_of_range", 3000)


def test_the_oldest_items_of_a_long_conversation_are_forgotten(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "MAX_ITEMS", 4)
    driver = connect()
    for _ in range(3):
        driver.append(AUDIO)
        driver.send("input_audio_buffer.commit")
        driver.make()
    for kept, answer in (("a1", "error"), ("u1", "error"), ("a2", "conversation.item.retrieved")):
        [event] = driver.send("conversation.item.retrieve", item_id=f"item_0a_{kept}")
        assert event["type"] == answer


@pytest.mark.parametrize(
    ("number", "expected"), [(40.0, "40"), (0.0, "0"), (41.66666, "41.667"), (0.5, "0.5")]
)
def test_numbers_are_integers_or_have_three_decimals(number: float, expected: str) -> None:
    assert str(compact_number(number)) == expected
