"""The events by which a client follows what it plays."""

from __future__ import annotations

from math import inf
from types import SimpleNamespace
from typing import Any

import pytest

from avatar_runtime.errors import ProtocolError
from avatar_runtime.protocol.audio_formats import A_LAW, FORMATS, MU_LAW, PCM_16K, PCM_24K
from avatar_runtime.protocol.playback import Playback, PlayingResponse


class Outbox:
    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, object]]] = []

    def add(self, kind: str, fields: dict[str, object]) -> None:
        self.sent.append((kind, fields))

    def kinds(self) -> list[str]:
        found = [
            f"{kind.rpartition('.')[2]} {next(iter(fields.values()))}" for kind, fields in self.sent
        ]
        self.sent.clear()
        return found


def playback() -> tuple[Playback, Outbox]:
    outbox = Outbox()
    sender: Any = outbox
    return Playback(25, sender), outbox


def ack(response: str, pts_ms: float) -> Any:
    return SimpleNamespace(response_id=response, pts_ms=pts_ms)


def test_the_first_media_starts_the_audio_and_then_the_avatar() -> None:
    played, outbox = playback()
    assert not played.has_started("r1")
    played.start("r1", 4)
    assert outbox.sent == [
        ("output_audio_buffer.started", {"response_id": "r1", "epoch": 4}),
        ("session.avatar.switch_to_speaking", {"turn_id": "r1"}),
    ]
    assert played.has_started("r1")
    assert not played.has_started("r2")
    assert played.stops_at is None


def test_responses_stop_when_they_are_played_and_the_last_one_ends_the_speech() -> None:
    played, outbox = playback()
    for number in (1, 2):
        played.start(f"r{number}", 1)
        played.finish(PlayingResponse(f"r{number}", 10.0 * number, 400.0))
    outbox.sent.clear()
    assert played.stops_at == 10.0
    played.tick(9.9, 1)
    assert outbox.kinds() == []
    played.tick(10.0, 1)
    assert outbox.kinds() == ["stopped r1"]
    assert played.stops_at == 20.0
    played.tick(20.0, 1)
    assert outbox.kinds() == ["stopped r2", "switch_to_idle r2"]
    assert played.stops_at is None


def test_both_stop_in_one_tick_in_their_order() -> None:
    played, outbox = playback()
    for number in (1, 2):
        played.start(f"r{number}", 1)
        played.finish(PlayingResponse(f"r{number}", 1.0, 400.0))
    outbox.sent.clear()
    played.tick(1.0, 7)
    assert {fields.get("epoch", 7) for _, fields in outbox.sent} == {7}
    assert outbox.kinds() == ["stopped r1", "stopped r2", "switch_to_idle r2"]


def test_a_clear_names_the_last_media_and_ends_the_speech_once() -> None:
    played, outbox = playback()
    played.start("r1", 1)
    played.finish(PlayingResponse("r1", 10.0, 400.0))
    outbox.sent.clear()
    played.clear(2)
    assert outbox.sent == [
        ("output_audio_buffer.cleared", {"response_id": "r1", "epoch": 2}),
        ("session.avatar.switch_to_idle", {"turn_id": "r1"}),
    ]
    outbox.sent.clear()
    played.clear(3)
    assert outbox.kinds() == ["cleared r1"]
    played.tick(99.0, 3)
    assert outbox.kinds() == []


def test_an_ack_of_the_whole_audio_stops_a_response_before_its_time() -> None:
    played, outbox = playback()
    played.start("r1", 1)
    played.finish(PlayingResponse("r1", 10.0, 390.0))
    outbox.sent.clear()
    played.ack(ack("r1", 389.0), 1, None)
    played.ack(ack("unknown", 1e9), 1, None)
    assert outbox.kinds() == []
    played.ack(ack("r1", 390.0), 1, None)
    assert outbox.kinds() == ["stopped r1", "switch_to_idle r1"]
    assert played.stops_at is None


def test_an_ack_must_not_be_ahead_of_the_whole_frames_that_were_sent() -> None:
    played, _ = playback()
    played.finish(PlayingResponse("r1", 10.0, 390.0))
    with pytest.raises(ProtocolError, match=r"^pts_ms is 400\.5; 400 ms were sent$") as error:
        played.check_ended(ack("r1", 400.5))
    assert error.value.code == "ack_ahead"
    played.check_ended(ack("r1", 400.0))
    played.tick(1e9, 1)  # the client has played it; its acks are still checked
    with pytest.raises(ProtocolError) as error:
        played.check_ended(ack("r1", 400.5))
    assert error.value.code == "ack_ahead"
    played.check_ended(ack("r1", 400.0))
    played.check_ack(ack("r1", 120.0), 3)
    with pytest.raises(ProtocolError, match="120 ms were sent"):
        played.check_ack(ack("r1", 120.1), 3)


def test_the_formats_are_those_of_the_protocol() -> None:
    assert FORMATS == (PCM_24K, PCM_16K, MU_LAW, A_LAW)
    assert [(each.kind, each.rate, each.bytes_per_sample) for each in FORMATS] == [
        ("audio/pcm", 24_000, 2),
        ("audio/pcm", 16_000, 2),
        ("audio/pcmu", 8000, 1),
        ("audio/pcma", 8000, 1),
    ]
    assert [each.samples_per_frame(25) for each in FORMATS] == [960, 640, 320, 320]
    assert PCM_16K.describe() == {"type": "audio/pcm", "rate": 16_000}
    assert A_LAW.describe() == {"type": "audio/pcma"}


def test_an_ack_of_a_later_response_stops_those_before_it() -> None:
    played, outbox = playback()
    for number in (1, 2):
        played.start(f"r{number}", 1)
        played.finish(PlayingResponse(f"r{number}", inf, 400.0, 0.0))
    played.start("r3", 1)
    outbox.sent.clear()
    played.ack(ack("r2", 120.0), 1, "r3")
    assert outbox.kinds() == ["stopped r1"]
    played.ack(ack("r1", 400.0), 1, "r3")
    assert outbox.kinds() == []
    played.ack(ack("r3", 0.0), 1, "r3")
    assert outbox.kinds() == ["stopped r2"]
    assert played.stops_at is None


def test_what_was_acknowledged_is_what_was_played() -> None:
    played, _ = playback()
    played.start("r1", 1)
    played.finish(PlayingResponse("r1", inf, 400.0, 100.0))
    played.ack(ack("r1", 250.5), 1, None)
    played.ack(ack("r1", 180.0), 1, None)
    played.release(7.0)
    assert played.stops_at == 7.0
    assert [cut.played_ms(9.0) for cut in played.clear(2)] == [250]


def test_finished_responses_follow_a_change_of_what_counts() -> None:
    played, _ = playback()
    for number in (1, 2):
        played.finish(PlayingResponse(f"r{number}", 10.0 + number, 1000.0))
    played.count_acks(10.5)
    assert played.stops_at == inf
    played.ack(ack("r1", 700.0), 1, None)
    played.count_clock(20.0)
    assert played.stops_at == 19.0
    cut = played.clear(2)
    assert [(each.until, each.played_ms(19.5)) for each in cut] == [(19.0, 1000), (20.0, 500)]
