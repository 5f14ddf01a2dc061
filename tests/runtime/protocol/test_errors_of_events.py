"""The errors of docs/wire-protocol.md, "Errors": code, param, value and limit."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from avatar_runtime.protocol import client_events

if TYPE_CHECKING:
    from tests.runtime.protocol.conftest import Connect, SessionDriver

RATE = "session.audio.input.format.rate"
KIND = "session.audio.input.format.type"
VAD = "session.audio.input.turn_detection"


def event(kind: str, **fields: Any) -> str:
    return json.dumps({"type": kind, **fields})


def update(**session: Any) -> str:
    return event("session.update", session={"type": "realtime", **session})


def audio(**fmt: Any) -> str:
    return update(audio={"input": {"format": fmt}})


def avatar(**fields: Any) -> str:
    return update(avatar=fields)


def vad(**fields: Any) -> str:
    return update(audio={"input": {"turn_detection": fields}})


def nested(depth: int) -> str:
    return '{"type":"session.update","session":' + '{"a":' * depth + "1" + "}" * (depth + 1)


CASES: dict[str, tuple[str | bytes, dict[str, Any]]] = {
    "not json": ("{", {"code": "invalid_json"}),
    "not an object": ("[1]", {"code": "invalid_json"}),
    "not a number": ('{"type": NaN}', {"code": "invalid_json"}),
    "an infinite number": ('{"type": 1e999}', {"code": "invalid_json"}),
    "a number of many digits": (f'{{"type": {"1" * 101}}}', {"code": "invalid_json"}),
    "half of a surrogate pair": ('{"type": "\\ud800"}', {"code": "invalid_json"}),
    "a surrogate pair in the wrong order": (
        '{"type":"session.update","session":{"type":"realtime","x":["\\uDC00\\uD800"]}}',
        {"code": "invalid_json"},
    ),
    "a raw half of a surrogate pair": ('{"type": "\ud800"}', {"code": "invalid_json"}),
    "no type": ("{}", {"code": "missing_field", "param": "type"}),
    "type is not a string": ('{"type": 7}', {"code": "invalid_type", "param": "type", "value": 7}),
    "unknown event": (
        event("session.destroy"),
        {"code": "unknown_event", "param": "type", "value": "session.destroy"},
    ),
    "wrong json type": (
        event("input_audio_buffer.append", audio=3),
        {"code": "invalid_type", "param": "audio", "value": 3, "limit": "a string"},
    ),
    "missing field": (
        event("input_audio_buffer.append"),
        {"code": "missing_field", "param": "audio"},
    ),
    "missing session": (event("session.update"), {"code": "missing_field", "param": "session"}),
    "missing session type": (
        event("session.update", session={}),
        {"code": "missing_field", "param": "session.type"},
    ),
    "session of another kind": (
        event("session.update", session={"type": "transcription"}),
        {"code": "invalid_value", "param": "session.type", "limit": ["realtime"]},
    ),
    "too deep": (nested(32), {"code": "invalid_value", "limit": 32}),
    "far too deep": ("[" * 90_000, {"code": "invalid_value", "limit": 32}),
    "too many values": (
        '{"type":[' + "1," * 100_001 + "1]}",
        {"code": "invalid_value", "limit": 100_000},
    ),
    "long event id": (
        event("input_audio_buffer.commit", event_id="x" * 513),
        {"code": "invalid_value", "param": "event_id", "value": "x" * 64, "limit": 512},
    ),
    "event id is not a string": (
        event("input_audio_buffer.commit", event_id=1),
        {"code": "invalid_type", "param": "event_id"},
    ),
    "append too large": (
        event("input_audio_buffer.append", audio="A" * (4 * 5 * 1024 * 1024 + 4)),
        {"code": "audio_too_large", "param": "audio", "limit": 15 * 1024 * 1024},
    ),
    "base64 alphabet": (
        event("input_audio_buffer.append", audio="AA*A"),
        {"code": "invalid_base64", "param": "audio", "value": "AA*A"},
    ),
    "base64 padding": (
        event("input_audio_buffer.append", audio="AAA"),
        {"code": "invalid_base64", "param": "audio"},
    ),
    "base64 white space": (
        event("input_audio_buffer.append", audio="AAAA\n"),
        {"code": "invalid_base64", "param": "audio"},
    ),
    "base64 beyond ascii": (
        event("input_audio_buffer.append", audio="ÄAAA"),
        {"code": "invalid_base64", "param": "audio"},
    ),
    "sample rate": (
        audio(type="audio/pcm", rate=44100),
        {"code": "unsupported_sample_rate", "param": RATE, "value": 44100, "limit": [24000, 16000]},
    ),
    "rate of g711": (
        audio(type="audio/pcmu", rate=16000),
        {"code": "unsupported_sample_rate", "param": RATE, "limit": [8000]},
    ),
    "audio format": (
        audio(type="audio/opus"),
        {
            "code": "unsupported_audio_format",
            "param": KIND,
            "value": "audio/opus",
            "limit": ["audio/pcm", "audio/pcmu", "audio/pcma"],
        },
    ),
    "output unlike input": (
        update(audio={"output": {"format": {"type": "audio/pcmu"}}}),
        {"code": "unsupported_audio_format", "param": "session.audio.output.format.type"},
    ),
    "output rate unlike input": (
        update(audio={"output": {"format": {"type": "audio/pcm", "rate": 16000}}}),
        {"code": "unsupported_sample_rate", "param": "session.audio.output.format.rate"},
    ),
    "commit of nothing": (
        event("input_audio_buffer.commit"),
        {"code": "input_audio_buffer_commit_empty"},
    ),
    "response of nothing": (event("response.create"), {"code": "no_input_audio"}),
    "response of the wrong type": (
        event("response.create", response=[]),
        {"code": "invalid_type", "param": "response", "value": "an array"},
    ),
    "cancel of nothing": (event("response.cancel"), {"code": "response_cancel_not_active"}),
    "cancel of another": (
        event("response.cancel", response_id="resp_9"),
        {"code": "response_cancel_not_active", "param": "response_id", "value": "resp_9"},
    ),
    "unknown item": (
        event("conversation.item.retrieve", item_id="item_9"),
        {"code": "item_not_found", "param": "item_id", "value": "item_9"},
    ),
    "unknown avatar": (
        avatar(character="zoe"),
        {
            "code": "avatar_not_found",
            "param": "session.avatar.character",
            "value": "zoe",
            "limit": ["anna", "ben"],
        },
    ),
    "webrtc by field": (
        avatar(output_protocol="webrtc"),
        {"code": "webrtc_unsupported", "param": "session.avatar.output_protocol"},
    ),
    "webrtc by event": (
        event("session.avatar.connect", client_sdp="v=0"),
        {"code": "webrtc_unsupported"},
    ),
    "binary message": (b"\xa7\x01", {"code": "binary_not_enabled", "limit": ["json"]}),
    "quality out of range": (
        avatar(video={"quality": 101}),
        {
            "code": "invalid_value",
            "param": "session.avatar.video.quality",
            "value": 101,
            "limit": [1, 100],
        },
    ),
    "quality is a boolean": (
        avatar(video={"quality": True}),
        {"code": "invalid_type", "param": "session.avatar.video.quality"},
    ),
    "width out of range": (
        avatar(video={"resolution": {"width": 1 << 80, "height": 64}}),
        {
            "code": "invalid_value",
            "param": "session.avatar.video.resolution.width",
            "value": "a huge number",
            "limit": [64, 2048],
        },
    ),
    "height missing": (
        avatar(video={"resolution": {"width": 64}}),
        {"code": "missing_field", "param": "session.avatar.video.resolution.height"},
    ),
    "window out of range": (
        avatar(flow={"window_ms": 100}),
        {
            "code": "invalid_value",
            "param": "session.avatar.flow.window_ms",
            "value": 100,
            "limit": [200, 10000],
        },
    ),
    "audio deltas are not a boolean": (
        avatar(audio_deltas=1),
        {"code": "invalid_type", "param": "session.avatar.audio_deltas"},
    ),
    "modalities": (
        update(output_modalities="text"),
        {"code": "invalid_type", "param": "session.output_modalities", "value": "text"},
    ),
    "turn detection is not an object": (
        update(audio={"input": {"turn_detection": "server_vad"}}),
        {"code": "invalid_type", "param": "session.audio.input.turn_detection"},
    ),
    "turn detection without a type": (
        vad(threshold=0.5),
        {"code": "missing_field", "param": f"{VAD}.type"},
    ),
    "turn detection of another type": (
        vad(type="push_to_talk"),
        {"code": "invalid_value", "param": f"{VAD}.type", "value": "push_to_talk"},
    ),
    "threshold out of range": (
        vad(type="server_vad", threshold=1.1),
        {"code": "invalid_value", "param": f"{VAD}.threshold", "value": 1.1, "limit": [0, 1]},
    ),
    "threshold is not a number": (
        vad(type="server_vad", threshold="high"),
        {"code": "invalid_type", "param": f"{VAD}.threshold", "value": "high"},
    ),
    "prefix padding out of range": (
        vad(type="server_vad", prefix_padding_ms=5001),
        {"code": "invalid_value", "param": f"{VAD}.prefix_padding_ms", "limit": [0, 5000]},
    ),
    "silence duration out of range": (
        vad(type="semantic_vad", silence_duration_ms=99),
        {"code": "invalid_value", "param": f"{VAD}.silence_duration_ms", "limit": [100, 10000]},
    ),
    "idle timeout out of range": (
        vad(type="server_vad", idle_timeout_ms=4999),
        {"code": "invalid_value", "param": f"{VAD}.idle_timeout_ms", "limit": [5000, 30000]},
    ),
    "create response is not a boolean": (
        vad(type="server_vad", create_response=1),
        {"code": "invalid_type", "param": f"{VAD}.create_response"},
    ),
    "interrupt response is not a boolean": (
        vad(type="server_vad", interrupt_response="no"),
        {"code": "invalid_type", "param": f"{VAD}.interrupt_response"},
    ),
    "metadata is not an object": (
        event("response.create", response={"metadata": []}),
        {"code": "invalid_type", "param": "response.metadata"},
    ),
    "metadata with many entries": (
        event("response.create", response={"metadata": dict.fromkeys(map(str, range(17)), "")}),
        {"code": "invalid_value", "param": "response.metadata", "limit": 16},
    ),
    "metadata with a long name": (
        event("response.create", response={"metadata": {"n" * 65: ""}}),
        {"code": "invalid_value", "param": "response.metadata", "limit": 64},
    ),
    "metadata with a long value": (
        event("response.create", response={"metadata": {"id": "v" * 513}}),
        {"code": "invalid_value", "param": "response.metadata.id", "limit": 512},
    ),
    "metadata with a number": (
        event("response.create", response={"metadata": {"id": 7}}),
        {"code": "invalid_type", "param": "response.metadata.id", "value": 7},
    ),
    "ack is not a number": (
        event("output_video_buffer.ack", response_id="r", pts_ms="1"),
        {"code": "invalid_type", "param": "pts_ms"},
    ),
    "ack out of range": (
        event("output_video_buffer.ack", response_id="r", pts_ms=-1),
        {"code": "invalid_value", "param": "pts_ms"},
    ),
    # Parts of the protocol that this version does not support: docs/limits.md lists them.
    "video mode": (
        avatar(video={"mode": "mp4"}),
        {
            "code": "invalid_value",
            "param": "session.avatar.video.mode",
            "limit": ["jpeg", "h264", "fmp4", "none"],
        },
    ),
    "azure's codec": (
        avatar(video={"codec": "vp9"}),
        {"code": "invalid_value", "param": "session.avatar.video.codec", "limit": ["jpeg", "h264"]},
    ),
    "patch": (
        avatar(video={"mode": "h264", "region": "patch"}),
        {
            "code": "invalid_value",
            "param": "session.avatar.video.region",
            "value": "patch",
            "limit": ["full"],
        },
    ),
    "region": (
        avatar(video={"region": "mouth"}),
        {
            "code": "invalid_value",
            "param": "session.avatar.video.region",
            "limit": ["full", "patch"],
        },
    ),
    "crop": (
        avatar(video={"crop": {"top_left": [0, 0], "bottom_right": [500, 300]}}),
        {
            "code": "invalid_value",
            "param": "session.avatar.video.crop.bottom_right",
            "value": [500, 300],
            "limit": [384, 384],
        },
    ),
    "idle": (
        avatar(idle="loop"),
        {"code": "invalid_value", "param": "session.avatar.idle", "limit": ["none", "stream"]},
    ),
    "unknown transport": (
        avatar(transport="webrtc"),
        {
            "code": "invalid_value",
            "param": "session.avatar.transport",
            "limit": ["json", "binary"],
        },
    ),
    "flow mode": (
        avatar(flow={"mode": "credits"}),
        {"code": "invalid_value", "param": "session.avatar.flow.mode", "limit": ["clock", "ack"]},
    ),
    "ack of a message that was not sent": (
        event("output_video_buffer.ack", response_id="r", pts_ms=0, seq=4000),
        {"code": "ack_ahead", "param": "seq", "value": 4000},
    ),
    "ack with a wrong seq": (
        event("output_video_buffer.ack", response_id="r", pts_ms=0, seq="3"),
        {"code": "invalid_type", "param": "seq", "limit": "an integer"},
    ),
    "resume": (
        event("session.resume", token="t", last_seq=1),
        {"code": "resume_not_first", "param": "type", "value": "session.resume"},
    ),
}


@pytest.mark.parametrize(("message", "expected"), CASES.values(), ids=list(CASES))
def test_an_invalid_event_is_reported_and_changes_nothing(
    connect: Connect, message: str | bytes, expected: dict[str, Any]
) -> None:
    driver = connect()
    before = described(driver)
    [answer] = driver.send_raw(message)
    error = answer["error"]
    assert answer["type"] == "error"
    assert error["type"] == "invalid_request_error"
    assert {name: error[name] for name in expected} == expected
    assert error["message"]
    if expected.get("param", "type") not in ("type", "response_id", "item_id", "event_id"):
        assert expected["param"] in error["message"]
    assert described(driver) == before
    assert driver.session.closing is None


def described(driver: SessionDriver) -> dict[str, Any]:
    """Return the session object, by an update that changes nothing."""
    session: dict[str, Any] = driver.update()[0]["session"]
    return session


def test_an_error_repeats_the_id_of_the_event(connect: Connect) -> None:
    [answer] = connect().send("response.cancel", event_id="evt_c7")
    assert answer["error"]["event_id"] == "evt_c7"


def test_a_message_over_the_limit_closes_the_connection(connect: Connect) -> None:
    driver = connect()
    [answer] = driver.send_raw(" " * (client_events.MAX_MESSAGE_BYTES + 1))
    assert answer["error"]["code"] == "message_too_large"
    assert answer["error"]["limit"] == 21 * 1024 * 1024
    assert driver.session.closing is not None
    assert driver.session.closing.code == 1009


def test_the_duration_of_unsent_audio_is_limited(connect: Connect) -> None:
    driver = connect()
    minute = base64.b64encode(bytes(60 * 48_000)).decode()
    for _ in range(10):
        driver.session.receive(event("input_audio_buffer.append", audio=minute), driver.now)
    driver.pull()
    [answer] = driver.append(b"\0\0")
    error = answer["error"]
    assert (error["code"], error["param"]) == ("input_audio_buffer_full", "audio")
    assert (error["value"], error["limit"]) == (600.0, 600)
    driver.make()  # a second of audio is sent, so that there is room again
    assert driver.append(b"\0\0") == []


def test_the_number_of_waiting_utterances_is_limited(connect: Connect) -> None:
    driver = connect()
    for _ in range(64):
        driver.append(b"\0\0")
        driver.send("input_audio_buffer.commit")
    [answer] = driver.append(b"\0\0")
    assert (answer["error"]["code"], answer["error"]["limit"]) == ("input_audio_buffer_full", 64)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"avatar": {"character": "ben"}}, "session.avatar.character"),
        ({"audio": {"input": {"format": {"type": "audio/pcmu"}}}}, "session.audio.input.format"),
    ],
    ids=["character", "format"],
)
def test_character_and_format_cannot_change_while_a_response_is_active(
    connect: Connect, change: dict[str, Any], param: str
) -> None:
    driver = connect()
    driver.append(bytes(1920 * 4))
    [answer] = driver.update(**change)
    assert (answer["error"]["code"], answer["error"]["param"]) == ("response_active", param)
    driver.send("input_audio_buffer.commit")
    driver.make()
    assert driver.update(**change)[0]["type"] == "session.updated"


def test_the_item_of_the_active_response_cannot_be_deleted(connect: Connect) -> None:
    driver = connect()
    driver.append(bytes(1920 * 4))
    [answer] = driver.send("conversation.item.delete", item_id="item_0a_a1")
    assert answer["error"]["code"] == "response_active"


@pytest.mark.parametrize(
    ("item", "content_index", "end_ms", "code", "limit"),
    [
        ("item_0a_a1", 0, 161, "audio_end_out_of_range", 160),
        ("item_0a_a1", 1, 0, "invalid_value", [0, 0]),
        ("item_0a_u1", 0, 0, "invalid_value", None),
        ("item_9", 0, 0, "item_not_found", None),
    ],
    ids=["past the audio", "another part", "of the user", "unknown"],
)
def test_an_invalid_truncation_is_rejected(
    connect: Connect, item: str, content_index: int, end_ms: int, code: str, limit: object
) -> None:
    driver = connect()
    driver.append(bytes(1920 * 4))
    driver.send("input_audio_buffer.commit")
    driver.make()
    [answer] = driver.send(
        "conversation.item.truncate",
        item_id=item,
        content_index=content_index,
        audio_end_ms=end_ms,
    )
    assert (answer["error"]["code"], answer["error"]["limit"]) == (code, limit)


@pytest.mark.parametrize("finished", [False, True], ids=["while spoken", "after its end"])
def test_an_ack_ahead_of_the_media_sent_is_rejected(connect: Connect, finished: bool) -> None:
    driver = connect()
    driver.append(bytes(1920 * 6))
    if finished:
        driver.send("input_audio_buffer.commit")
    driver.make()
    limit = 240 if finished else 160
    [answer] = driver.send("output_video_buffer.ack", response_id="resp_0a_1", pts_ms=limit + 1)
    assert (answer["error"]["code"], answer["error"]["limit"]) == ("ack_ahead", limit)
    assert driver.send("output_video_buffer.ack", response_id="resp_0a_1", pts_ms=limit - 1) == []
    assert driver.send("output_video_buffer.ack", response_id="other", pts_ms=9999) == []


def test_events_over_the_rate_limit_are_dropped(connect: Connect) -> None:
    driver = connect()
    for _ in range(1000):
        driver.session.receive(event("output_video_buffer.request_keyframe"), driver.now)
    [answer] = driver.append(bytes(1920 * 4))
    assert answer["error"]["code"] == "rate_limit_exceeded"
    assert answer["error"]["limit"] == 1000
    assert not driver.session.is_speaking
    driver.now += 1.0
    driver.append(bytes(1920 * 4))
    assert driver.session.is_speaking


def test_too_many_errors_close_the_connection(connect: Connect) -> None:
    driver = connect()
    for _ in range(100):
        driver.session.receive("{", driver.now)
    assert driver.session.closing is None
    driver.session.receive("{", driver.now)
    assert driver.pull()[-1]["error"]["code"] == "too_many_errors"
    assert driver.session.closing is not None
    assert driver.session.closing.code == 1008


def test_an_invalid_event_does_not_change_the_open_utterance(connect: Connect) -> None:
    driver = connect()
    driver.append(bytes(1920 * 2))
    driver.send_raw(event("input_audio_buffer.append", audio="AAA"))
    driver.append(bytes(1920 * 2))
    driver.send("input_audio_buffer.commit")
    done = [e for e in driver.make() if e["type"] == "response.video.done"]
    assert done[0]["audio_samples"] == 960 * 4
