"""What a player has played that plays the sound of an avatar when it arrives."""

from __future__ import annotations

from typing import Any

import pytest

from avatar_client.options import Options
from avatar_client.playout import Playout

SESSION = {
    "type": "session.updated",
    "session": {
        "audio": {"output": {"format": {"type": "audio/pcm", "rate": 24000}}},
        "avatar": {"fps": 25},
    },
}


def created(name: str) -> dict[str, Any]:
    return {"type": "response.created", "response": {"id": name}}


def sound(pts_ms: float, milliseconds: int) -> dict[str, Any]:
    data = bytes(milliseconds * 48)
    return {"type": "response.output_audio.delta", "pts_ms": pts_ms, "data": data}


def done(status: str = "completed") -> dict[str, Any]:
    return {"type": "response.done", "response": {"status": status}}


@pytest.fixture
def playout() -> Playout:
    made = Playout()
    made.receive(SESSION, 0.0)
    return made


def test_sound_is_played_from_its_arrival_at_its_own_pace(playout: Playout) -> None:
    assert playout.position(1.0) is None
    playout.receive(created("r1"), 1.0)
    assert playout.position(5.0) == ("r1", 0.0)
    playout.receive(sound(0, 400), 5.0)
    assert playout.position(5.25) == ("r1", 250.0)
    assert playout.unplayed_ms == 150
    # Without sound the clock stops; it does not catch up.
    assert playout.position(7.0) == ("r1", 400.0)
    playout.receive(sound(400, 200), 9.0)
    assert playout.position(9.1) == ("r1", 500.0)


def test_the_end_of_a_response_is_returned_once(playout: Playout) -> None:
    playout.receive(created("r1"), 0.0)
    playout.receive(sound(0, 390), 0.0)
    playout.receive(done(), 0.1)
    assert playout.position(9.0) == ("r1", 390.0)
    assert playout.position(9.2) is None


def test_responses_are_played_one_after_another(playout: Playout) -> None:
    for name in ("r1", "r2"):
        playout.receive(created(name), 0.0)
        playout.receive(sound(0, 400), 0.0)
        playout.receive(done(), 0.0)
    assert playout.position(0.3) == ("r1", 300.0)
    assert playout.position(0.5) == ("r2", 100.0)


@pytest.mark.parametrize("end", [done("cancelled"), {"type": "output_audio_buffer.cleared"}])
def test_what_is_cancelled_is_not_played(playout: Playout, end: dict[str, Any]) -> None:
    playout.receive(created("r1"), 0.0)
    playout.receive(sound(0, 400), 0.0)
    playout.receive(end, 0.1)
    assert playout.position(0.2) is None
    assert playout.unplayed_ms == 0


def test_without_sound_the_frames_say_how_long_it_is(playout: Playout) -> None:
    playout.receive(created("r1"), 0.0)
    for index in range(3):
        frame = {"type": "response.video.delta", "pts_ms": index * 40, "idle": False}
        playout.receive(frame, 0.0)
    playout.receive({"type": "response.video.delta", "pts_ms": 0, "idle": True}, 0.0)
    assert playout.position(1.0) == ("r1", 120.0)
    playout.receive({"type": "response.video.done", "audio_ms": 100}, 1.0)
    assert playout.position(2.0) == ("r1", 100)


def test_options_are_the_fields_of_an_update() -> None:
    assert Options().fields() is None
    assert Options(video="h264", resolution=(256, 320)).fields() == {
        "avatar": {"video": {"mode": "h264", "resolution": {"width": 256, "height": 320}}}
    }
    assert Options(region="patch").fields() == {"avatar": {"video": {"region": "patch"}}}
    assert Options(background="alpha").fields() == {"avatar": {"background": "alpha"}}
    assert Options(transport="binary", flow="ack", window_ms=400, audio_deltas=False).fields() == {
        "avatar": {
            "transport": "binary",
            "flow": {"mode": "ack", "window_ms": 400},
            "audio_deltas": False,
        }
    }
