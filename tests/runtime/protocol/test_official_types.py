"""Every event is one of the official client's types, which are checked strictly."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest

from localcluster.fuzz import official
from localcluster.fuzz.violation import Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.runtime.protocol.conftest import Connect, SessionDriver

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
    for _ in range(200):
        driver.append(QUIET)
        driver.make()
        driver.now += 0.032
        driver.session.tick(driver.now)
    driver.send("conversation.item.create", item={"type": "message"})


def turns_of_a_slow_pod(driver: SessionDriver) -> None:
    driver.update(audio={"input": {"turn_detection": VAD}})
    for part in ([VOICE] * 9 + [QUIET] * 18) * 3:
        driver.append(part)
        driver.now += 0.032
    driver.append(VOICE * 9 + QUIET * 18)
    first, *others = driver.due()
    for frame in others:
        driver.session.skip(frame.response_ref, frame.epoch, frame.frame_index, driver.now)
    driver.make([first])
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
        official.check(event["type"], json.dumps(event))


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("response.created", {"response": {"id": 7}}),
        ("input_audio_buffer.committed", {"item_id": None}),
        ("session.avatar.switch_to_somewhere", {}),
        ("error", {"error": "no"}),
    ],
)
def test_another_form_is_noticed(kind: str, fields: dict[str, Any]) -> None:
    event = {"type": kind, "event_id": "event_0a_1", "seq": 1, **fields}
    with pytest.raises(Violation):
        official.check(kind, json.dumps(event))


def test_the_traces_have_every_event_of_drive_mode(connect: Connect) -> None:
    seen = set()
    for play in TRACES.values():
        driver = connect()
        play(driver)
        seen |= {event["type"] for event in driver.events}
    assert seen >= official.OURS | {
        "conversation.item.truncated",
        "input_audio_buffer.cleared",
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.timeout_triggered",
        "output_audio_buffer.cleared",
        "output_audio_buffer.stopped",
    }
