"""Random clients and random upstreams on both sides of a bridge."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from localcluster.fuzz import many
from localcluster.fuzz.bridge_oracle import BridgeOracle
from localcluster.fuzz.violation import Violation

if TYPE_CHECKING:
    from tests.runtime.protocol.bridge.conftest import Event

CREATED: Event = {"type": "response.created", "response": {"id": "r", "status": "in_progress"}}
DONE: Event = {"type": "response.done", "response": {"id": "r", "status": "completed"}, "epoch": 1}
SOUND: Event = {
    "type": "response.output_audio.delta",
    "response_id": "r",
    "offset_samples": 0,
    "epoch": 1,
    "delta": "AAAA",
}
FRAME: Event = {
    "type": "response.video.delta",
    "response_id": "r",
    "frame_index": 0,
    "epoch": 1,
    "idle": False,
}


@pytest.mark.slow
def test_twelve_thousand_messages_of_both_sides_break_no_rule() -> None:
    total = many.play_many("bridge", 1, 12_000)
    assert total.messages >= 12_000
    assert total.kinds["response.done"] > 200
    assert total.kinds["response.done"] == total.kinds["response.created"]
    assert total.kinds["input_audio_buffer.speech_started"] > 50
    assert total.kinds["error"] > 100


def judge(events: list[Event]) -> None:
    oracle = BridgeOracle()
    for seq, event in enumerate(events, 1):
        oracle.read(json.dumps({**event, "seq": seq}))
    oracle.check_end()


def test_the_oracle_accepts_an_answer() -> None:
    judge([CREATED, SOUND, FRAME, DONE])


@pytest.mark.parametrize(
    "events",
    [
        [CREATED, SOUND, FRAME],
        [CREATED, CREATED, DONE],
        [CREATED, DONE, DONE],
        [CREATED, DONE, SOUND],
        [CREATED, SOUND, SOUND, DONE],
        [CREATED, FRAME, FRAME, DONE],
        [CREATED, {**FRAME, "frame_index": 1}, DONE],
        [CREATED, {**DONE, "epoch": 2}, {**SOUND, "epoch": 1}],
        [CREATED, {**SOUND, "epoch": 2}, DONE],
        [DONE],
    ],
)
def test_the_oracle_notices_what_is_wrong(events: list[Event]) -> None:
    with pytest.raises(Violation):
        judge(events)
