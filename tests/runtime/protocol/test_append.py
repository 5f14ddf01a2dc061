"""What `input_audio_buffer.append` takes: split samples, and files instead of samples."""

from __future__ import annotations

import base64
import io
import wave
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_runtime.protocol import wav_header

if TYPE_CHECKING:
    from tests.runtime.protocol.conftest import Connect, Event, SessionDriver

SOUND = bytes(range(256)) * 15  # 80 ms at 24 kHz


def spoken(driver: SessionDriver) -> bytes:
    driver.send("input_audio_buffer.commit")
    driver.make()
    return b"".join(
        base64.b64decode(event["delta"])
        for event in driver.events
        if event["type"] == "response.output_audio.delta"
    )


def warnings(events: list[Event]) -> list[tuple[str, str]]:
    return [
        (event["warning"]["code"], event["warning"]["message"])
        for event in events
        if event["type"] == "warning"
    ]


def wav(channels: int = 2, rate: int = 44_100) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(SOUND)
    return file.getvalue()


@given(st.lists(st.integers(0, len(SOUND)), max_size=8))
def test_a_sample_may_be_split_between_appends(connect: Connect, cuts: list[int]) -> None:
    driver = connect()
    edges = [0, *sorted(cuts), len(SOUND)]
    for begin, end in pairwise(edges):
        assert [e for e in driver.append(SOUND[begin:end]) if e["type"] == "error"] == []
    assert spoken(driver) == SOUND
    assert warnings(driver.events) == []


def test_half_a_sample_at_the_end_is_discarded_with_a_warning(connect: Connect) -> None:
    driver = connect()
    driver.append(SOUND + b"x")
    assert spoken(driver) == SOUND
    [(code, message)] = warnings(driver.events)
    assert code == "invalid_audio_length"
    assert message == "the audio ended with half a sample, which was discarded"
    driver.append(SOUND)
    assert spoken(driver) == SOUND * 2  # the next utterance starts with a whole sample


@pytest.mark.parametrize("event", ["input_audio_buffer.clear", "session.update"])
def test_half_a_sample_does_not_outlive_its_audio(connect: Connect, event: str) -> None:
    driver = connect()
    driver.append(b"x")
    if event == "session.update":
        driver.update(audio={"input": {"format": {"type": "audio/pcm", "rate": 16_000}}})
    else:
        driver.send(event)
    driver.append(SOUND)
    assert spoken(driver) == SOUND


def test_a_full_buffer_keeps_no_half_sample(connect: Connect) -> None:
    driver = connect()
    driver.append(b"x")
    for _ in range(3):
        driver.append(bytes(14_400_000))  # 5 minutes; the third does not fit
    assert [e["error"]["code"] for e in driver.events if e["type"] == "error"] == [
        "input_audio_buffer_full"
    ]
    driver.send("input_audio_buffer.commit")
    assert [code for code, _ in warnings(driver.events)] == ["invalid_audio_length"]


def test_the_header_of_a_wav_file_is_a_warning_that_says_what_it_says(connect: Connect) -> None:
    driver = connect()
    events = driver.send(
        "input_audio_buffer.append", audio=base64.b64encode(wav()).decode(), event_id="evt_1"
    )
    [(code, message)] = warnings(events)
    assert code == "wav_header"
    assert message == (
        "audio starts with the header of a WAV file (PCM, 16 bits, 44100 Hz, channels: 2), which is"
        " played as sound; send samples alone, audio/pcm at 24000 Hz"
    )
    assert spoken(driver) == wav()


@given(st.binary(max_size=64))
def test_any_bytes_behind_a_riff_header_are_described(rest: bytes) -> None:
    assert wav_header.describe(b"RIFF\0\0\0\0WAVE" + rest)
    assert wav_header.describe(wav()[: 12 + len(rest)])
    assert wav_header.describe(rest[:3]) is None


@pytest.mark.parametrize(
    ("avatar", "message"),
    [
        ({"disclosure": "none"}, "session.avatar.disclosure is read-only; it stays empty"),
        ({"fps": 30}, "session.avatar.fps is read-only; it stays 25"),
    ],
)
def test_a_read_only_field_says_what_it_stays(
    connect: Connect, avatar: dict[str, object], message: str
) -> None:
    assert [text for _, text in warnings(connect().update(avatar=avatar))] == [message]


def test_a_clear_does_not_shift_the_samples_of_the_utterance_that_is_spoken(
    connect: Connect,
) -> None:
    driver = connect()
    sound = bytes(range(240)) * 40
    driver.append(sound[:4001])
    driver.send("input_audio_buffer.clear")
    driver.append(sound[4001:])
    driver.send("input_audio_buffer.commit")
    driver.run(1.0)
    deltas = [e["delta"] for e in driver.events if e["type"] == "response.output_audio.delta"]
    assert b"".join(map(base64.b64decode, deltas)) == sound
