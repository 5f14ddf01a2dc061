"""Every event is one of the official client's types, which are checked strictly."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter, ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.runtime.protocol.conftest import Connect, SessionDriver

OFFICIAL: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)
OURS: Final = frozenset(
    {
        "warning",
        "response.video.delta",
        "response.video.done",
        "response.video.dropped",
        "session.avatar.switch_to_speaking",
        "session.avatar.switch_to_idle",
    }
)
"""Events that the official client does not know; docs/wire-protocol.md lists them."""
VOICE = b"\x00\x20" * 768
QUIET = bytes(2 * 768)
VAD = {"type": "semantic_vad", "eagerness": "low", "idle_timeout_ms": 5000}


def push_to_talk(driver: SessionDriver) -> None:
    driver.append(VOICE * 20)
    driver.send("input_audio_buffer.commit")
    driver.send("response.create", response={"metadata": {"id": "1"}, "instructions": "sing"})
    driver.run(2.0)
    driver.send("conversation.item.retrieve", item_id="item_0a_u1")
    driver.send("conversation.item.retrieve", item_id="item_0a_a1")
    driver.send("conversation.item.delete", item_id="item_0a_u1")


def interruptions(driver: SessionDriver) -> None:
    for kind in ("response.cancel", "output_audio_buffer.clear", "response.cancel"):
        driver.append(VOICE * 20)
        driver.make()
        driver.send(kind)
    driver.append(VOICE * 20)
    driver.make()
    item = "item_0a_a4"
    driver.send("conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=40)
    driver.send("input_audio_buffer.clear")


def server_vad(driver: SessionDriver) -> None:
    driver.update(audio={"input": {"turn_detection": VAD}}, instructions="be kind")
    for _ in range(2):
        for part in [QUIET] * 9 + [VOICE] * 9 + [QUIET] * 30:
            driver.append(part)
            driver.make()
            driver.now += 0.032
            driver.session.tick(driver.now)
    driver.append(QUIET * 200)
    driver.send("conversation.item.create", item={"type": "message"})


def turns_of_a_slow_pod(driver: SessionDriver) -> None:
    driver.update(audio={"input": {"turn_detection": VAD}})
    for part in ([VOICE] * 9 + [QUIET] * 18) * 3:
        driver.append(part)
        driver.now += 0.032
    driver.append(VOICE * 9 + QUIET * 18)
    frames = driver.due()
    driver.make(frames[:2])
    for frame in frames[2:4]:
        driver.session.skip(frame.response_ref, frame.epoch, frame.frame_index, driver.now)
    driver.run(4.0)


def failures(driver: SessionDriver) -> None:
    driver.append(VOICE * 20)
    frame = driver.due()[0]
    driver.session.fail(frame.response_ref, frame.epoch, driver.now)
    driver.send("nonsense", event_id="evt_1")
    driver.append(VOICE * 20)
    driver.session.end(4410, "over", driver.now)
    driver.pull()


TRACES: Final[Mapping[str, Callable[[SessionDriver], None]]] = {
    "push to talk": push_to_talk,
    "interruptions": interruptions,
    "server vad": server_vad,
    "turns of a slow pod": turns_of_a_slow_pod,
    "failures": failures,
}


@pytest.mark.parametrize("play", TRACES.values(), ids=list(TRACES))
def test_every_event_has_an_official_type(
    connect: Connect, play: Callable[[SessionDriver], None]
) -> None:
    driver = connect()
    play(driver)
    for event in driver.events:
        if event["type"] not in OURS:
            try:
                OFFICIAL.validate_json(json.dumps(event), strict=True)
            except ValidationError:
                pytest.fail(f"no official type has this form: {event}")


def test_the_traces_have_every_event_of_drive_mode(connect: Connect) -> None:
    seen = set()
    for play in TRACES.values():
        driver = connect()
        play(driver)
        seen |= {event["type"] for event in driver.events}
    assert seen >= OURS | {
        "conversation.item.truncated",
        "input_audio_buffer.cleared",
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.timeout_triggered",
        "output_audio_buffer.cleared",
        "output_audio_buffer.stopped",
    }
