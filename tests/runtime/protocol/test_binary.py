"""Binary messages: docs/wire-protocol.md, "Binary messages"."""

from __future__ import annotations

import base64
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from avatar_client.binary_media import BinaryMediaReader
from avatar_contracts.binary_messages import NO_FRAME, Flag, Header, Kind, unpack
from avatar_runtime.protocol import media_headers
from avatar_runtime.protocol.audio_formats import PCM_24K
from avatar_runtime.protocol.media import AudioChunk, RawImage
from avatar_runtime.protocol.resume import Resume

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .conftest import Connect, SessionDriver

    Event = dict[str, Any]

FRAME = bytes(range(240)) * 8  # one frame of sound
BINARY = {"transport": "binary"}


def pulled(driver: SessionDriver) -> list[str | bytes]:
    """Return the messages that the session has, as they are sent."""
    taken = []
    while (outgoing := driver.session.pull(driver.now)) is not None:
        message = outgoing.message
        if outgoing.frame is not None and outgoing.frame.encoding is not None:
            message = outgoing.with_access_unit(b"unit %d" % outgoing.frame.frame_index)
        taken.append(message)
    return taken


def send(driver: SessionDriver, kind: str, **fields: Any) -> list[str | bytes]:
    driver.session.receive(json.dumps({"type": kind, **fields}), driver.now)
    return pulled(driver)


def say(driver: SessionDriver, frames: int) -> list[str | bytes]:
    audio = base64.b64encode(FRAME * frames).decode()
    taken = send(driver, "input_audio_buffer.append", audio=audio)
    return taken + send(driver, "input_audio_buffer.commit")


def made(driver: SessionDriver, skipped: tuple[int, ...] = ()) -> list[str | bytes]:
    """Return the messages after all frames that are due; some of them were too late."""
    for due in driver.due():
        if due.frame_index in skipped:
            driver.session.skip(due.response_ref, due.epoch, due.frame_index, driver.now)
        elif due.video.is_encoded_when_sent:
            driver.deliver(due, RawImage(b"planes", due.width, due.height))
        else:
            driver.deliver(due)
    return pulled(driver)


def conversation(
    connect: Connect, mode: str, transport: str, idle: str = "none"
) -> list[str | bytes]:
    """Return what a client with a transport gets in a conversation with all kinds of media."""
    driver = connect()
    avatar = {"transport": transport, "video": {"mode": mode}, "idle": idle, "audio_deltas": True}
    taken = send(driver, "session.update", session={"type": "realtime", "avatar": avatar})
    taken += say(driver, 7)
    taken += made(driver, skipped=(2, 3))
    driver.now += 5.0
    taken += say(driver, 50)
    taken += made(driver)
    taken += send(driver, "response.cancel")
    taken += made(driver)
    for _ in range(10):
        driver.now += 0.5
        driver.session.tick(driver.now)
        taken += made(driver)
    return taken


def events(messages: list[str | bytes]) -> Iterator[Event]:
    reader = BinaryMediaReader()
    reader.observe({"type": "session.created", "session": {"audio": {"output": {"format": {}}}}})
    for message in messages:
        if isinstance(message, bytes):
            event = reader.read(message)
        else:
            event = json.loads(message)
            reader.observe(event)
            if "delta" in event:
                event["data"] = base64.b64decode(event.pop("delta"))
        event.pop("event_id", None)
        yield event


@pytest.mark.parametrize("idle", ["none", "stream"])
@pytest.mark.parametrize("mode", ["jpeg", "h264", "fmp4"])
def test_both_transports_carry_the_same_media(connect: Connect, mode: str, idle: str) -> None:
    as_json, as_binary = (conversation(connect, mode, each, idle) for each in ("json", "binary"))
    assert len(as_json) == len(as_binary)
    for left, right in zip(events(as_json), events(as_binary), strict=True):
        if left["type"] == "session.updated":
            right["session"]["avatar"]["transport"] = "json"
        left.pop("file_ms", None)  # the file itself has it
        assert left == right
    binary = [message for message in as_binary if isinstance(message, bytes)]
    media = ('"response.output_audio.delta"', '"response.video.delta"')
    assert len(binary) == sum(any(kind in str(text) for kind in media) for text in as_json)
    assert not any(kind in str(text) for kind in media for text in as_binary if text not in binary)


def test_the_flags_of_the_messages(connect: Connect) -> None:
    messages = conversation(connect, "h264", "binary")
    headers = [unpack(message)[0] for message in messages if isinstance(message, bytes)]
    first = [header for header in headers if header.response_ref == 1]
    sound = [header for header in first if header.kind is Kind.OUTPUT_AUDIO]
    assert [header.flags for header in sound][-1] == Flag.LAST
    assert {header.flags for header in sound[:-1]} <= {Flag(0)}
    assert {header.frame_index for header in sound} == {NO_FRAME}
    flags = {h.frame_index: h.flags for h in first if h.kind is Kind.H264}
    assert flags == {
        0: Flag.KEYFRAME,
        1: Flag(0),
        4: Flag.KEYFRAME | Flag.DISCONTINUITY,
        5: Flag(0),
        6: Flag.LAST,
    }
    second = [header for header in headers if header.response_ref == 2]
    assert not any(Flag.LAST in header.flags for header in second)  # it was cancelled
    [idle] = [header for header in headers if Flag.IDLE in header.flags]
    assert (idle.response_ref, idle.offset_samples, idle.epoch) == (0, 0, 2)


def test_only_the_last_piece_of_the_sound_ends_it() -> None:
    turn: Any = SimpleNamespace(format=PCM_24K, samples=1000, has_given_all_audio=True)
    pieces = AudioChunk(0, bytes(1200)), AudioChunk(600, bytes(800))
    flags = [media_headers.audio(piece, turn, 1, 1).flags for piece in pieces]
    assert flags == [Flag(0), Flag.LAST]
    turn.has_given_all_audio = False  # more may come
    assert media_headers.audio(pieces[1], turn, 1, 1).flags == Flag(0)


def test_media_is_binary_from_the_answer_on(connect: Connect) -> None:
    driver = connect()
    say(driver, 50)
    first = made(driver)
    driver.now += 1.0
    for due in driver.due():
        driver.deliver(due)
    session = {"type": "realtime", "avatar": BINARY}
    rest = send(driver, "session.update", session=session)
    assert not any(isinstance(message, bytes) for message in first)
    assert '"session.updated"' in str(rest[0])
    assert isinstance(rest[1], bytes)
    session = {"type": "realtime", "avatar": {"transport": "json"}}
    driver.now += 0.5
    for due in driver.due():
        driver.deliver(due)
    after = send(driver, "session.update", session=session)
    assert not any(isinstance(message, bytes) for message in after)
    numbers = [event["seq"] for event in events(first + rest + after)]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


# What a client sends


def spoken(seq: int, offset_samples: int, audio: bytes = FRAME, **changes: Any) -> bytes:
    fields = {"seq": seq, "offset_samples": offset_samples, **changes}
    return Header(fields.pop("kind", Kind.INPUT_AUDIO), **fields).pack(audio)


def listening(connect: Connect) -> SessionDriver:
    driver = connect()
    driver.update(avatar=BINARY)
    return driver


def test_a_client_may_speak_either_way(connect: Connect) -> None:
    driver = listening(connect)
    driver.send_raw(spoken(1, 0, FRAME * 3))
    driver.append(FRAME[:961])  # a sample may be split between two messages
    driver.send_raw(spoken(2, 960 * 3 + 480, FRAME[961:]))
    driver.send_raw(spoken(3, 960 * 4, b""))
    send(driver, "input_audio_buffer.commit")
    media = [message for message in made(driver) if isinstance(message, bytes)]
    sound = [unpack(message) for message in media]
    said = b"".join(data for header, data in sound if header.kind is Kind.OUTPUT_AUDIO)
    assert said == FRAME * 4


CASES: dict[str, tuple[bytes, str, object, object]] = {
    "too short": (b"\xa7\x01", "message", 2, 32),
    "magic": (b"\x00" + spoken(3, 1920)[1:], "magic", 0, 0xA7),
    "kind of the server": (spoken(3, 1920, kind=Kind.OUTPUT_AUDIO), "kind", 4, 16),
    "flags": (spoken(3, 1920, flags=Flag.LAST), "flags", 2, 0),
    "epoch": (spoken(3, 1920, epoch=1), "epoch", 1, 0),
    "response": (spoken(3, 1920, response_ref=1), "response_ref", 1, 0),
    "frame": (spoken(3, 1920, frame_index=0), "frame_index", 0, NO_FRAME),
    "length": (spoken(3, 1920)[:-1], "payload_length", 1920, 1919),
    "a number twice": (spoken(2, 1920), "seq", 2, 3),
    "a number that was skipped": (spoken(5, 1920), "seq", 5, 3),
    "a kind that is none": (spoken(3, 1920)[:2] + b"\xff" + spoken(3, 1920)[3:], "kind", 255, 16),
    "a flag that is none": (spoken(3, 1920)[:3] + b"\x80" + spoken(3, 1920)[4:], "flags", 128, 0),
    "a position that goes back": (spoken(3, 1919), "offset_samples", 1919, 1920),
    "a position after a gap": (spoken(3, 1921), "offset_samples", 1921, 1920),
    "the last position": (spoken(3, 2**64 - 1), "offset_samples", "a huge number", 1920),
}


@pytest.mark.parametrize(("message", "param", "value", "limit"), CASES.values(), ids=list(CASES))
def test_a_wrong_message_adds_nothing(
    connect: Connect, message: bytes, param: str, value: object, limit: object
) -> None:
    driver = listening(connect)
    driver.send_raw(spoken(1, 0))
    driver.send_raw(spoken(2, 960))
    [answer] = driver.send_raw(message)
    error = answer["error"]
    assert error["code"] == "invalid_binary_frame"
    assert (error["param"], error["value"], error["limit"]) == (param, value, limit)
    assert param == "message" or f"; must be {limit}" in error["message"]
    follows = 6 if value == 5 else 3  # after a gap, the numbers go on
    assert driver.send_raw(spoken(follows, 1920)) == []
    driver.session.receive('{"type":"input_audio_buffer.commit"}', driver.now)
    sound = [unpack(each)[0] for each in made(driver) if isinstance(each, bytes)]
    assert len([header for header in sound if header.kind is Kind.JPEG]) == 3


def test_audio_that_is_too_large_is_refused_and_the_next_message_is_not(connect: Connect) -> None:
    driver = listening(connect)
    size = 15 * 1024 * 1024 + 2
    [answer] = driver.send_raw(spoken(1, 0, bytes(size)))
    assert (answer["error"]["code"], answer["error"]["value"]) == ("audio_too_large", size)
    assert driver.send_raw(spoken(2, size // 2))[0]["type"] == "conversation.item.added"
    answer = driver.send_raw(bytes(21 * 1024 * 1024 + 1))[0]
    assert answer["error"]["code"] == "message_too_large"
    assert driver.session.closing is not None
    assert driver.session.closing.code == 1009


def test_without_the_transport_a_binary_message_is_refused(connect: Connect) -> None:
    driver = listening(connect)
    driver.update(avatar={"transport": "json"})
    [answer] = driver.send_raw(spoken(1, 0))
    assert answer["error"]["code"] == "binary_not_enabled"


def test_audio_that_the_rate_limit_refuses_was_sent(connect: Connect) -> None:
    driver = listening(connect)
    refused: list[dict[str, Any]] = []
    sent = 0
    while not refused:
        answers = driver.send_raw(spoken(sent + 1, sent, b"\0\0"))
        refused = [event for event in answers if event["type"] == "error"]
        sent += 1
    assert [event["error"]["code"] for event in refused] == ["rate_limit_exceeded"]
    driver.now += 1.0
    assert driver.send_raw(spoken(sent + 1, sent, b"\0\0")) == []
    resumed = json.loads(driver.session.resumed(Resume("token", 30_000), 5))
    assert resumed["input_samples"] == sent + 1
