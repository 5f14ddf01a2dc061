"""Random clients against a session, and an oracle that notices each kind of fault."""

from __future__ import annotations

import base64
import json
from random import Random
from typing import TYPE_CHECKING, Any, Final

import pytest

from avatar_runtime.protocol.dialects import translation
from avatar_runtime.protocol.dialects.beta import Beta
from avatar_runtime.protocol.dialects.voice_live import VoiceLive
from localcluster.fuzz import edge, forms, many, messages, orders, settings
from localcluster.fuzz.oracle import Oracle
from localcluster.fuzz.video import VideoModes
from localcluster.fuzz.violation import Violation

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.runtime.protocol.conftest import Connect

    from avatar_runtime.protocol.dialects.translation import Dialect

    Event = dict[str, Any]

SEED: Final = 1
VOICE: Final = bytes(range(1, 241)) * 40


@pytest.mark.slow
@pytest.mark.parametrize("part", range(2))
def test_fifty_thousand_random_messages_break_no_rule(part: int) -> None:
    total = many.play_many("drive", SEED, 25_000, part, 2)
    assert total.messages >= 25_000
    assert total.slowest_call_s < 2.0
    # The sessions have reached what they are for.
    assert total.kinds["response.done"] > 300
    assert total.kinds["response.video.dropped"] > 50
    assert total.kinds["input_audio_buffer.speech_stopped"] > 20
    assert len(total.errors) >= 18
    assert {1000, 1008, 1012, 4408, 4410} <= set(total.closes)


@pytest.mark.slow
def test_fifteen_thousand_random_messages_to_mode_speech_break_no_rule() -> None:
    total = many.play_many("speech", SEED, 15_000)
    assert total.kinds["response.done"] > 300
    assert total.kinds["response.output_audio_transcript.delta"] > 100
    assert total.kinds["conversation.item.input_audio_transcription.completed"] > 20
    assert total.errors["no_input_text"] > 50
    assert total.errors["speech_failed"] > 20


@pytest.mark.parametrize("mode", many.MODES)
def test_a_session_is_repeated_by_its_number(mode: str) -> None:
    first, second = many.play_one(mode, SEED, 3), many.play_one(mode, SEED, 3)
    assert first.events == second.events
    assert first.kinds == second.kinds


Step = tuple["str | None", "list[Event]"]
"""A message, and the events until the session has nothing to send."""


def trace(connect: Connect) -> list[Step]:
    """Return a session in which each answer occurs."""
    driver = connect()
    steps: list[Step] = [(None, list(driver.events))]

    def send(kind: str, **fields: Any) -> None:
        content = messages.event(kind, event_id=f"evt_{len(steps)}", **fields)
        steps.append((content, driver.send_raw(content)))
        steps.append((None, driver.make()))

    def append() -> None:
        send("input_audio_buffer.append", audio=base64.b64encode(VOICE).decode())

    send("session.update", session={"type": "realtime", "tracing": "auto"})
    append()
    send("input_audio_buffer.commit")
    send("response.create", response={"metadata": {"a": "b"}})
    steps.append((None, driver.run(1.0)))
    append()
    send("response.create", response={"metadata": {"c": "d"}})
    send("response.cancel")
    send("response.cancel")
    append()
    send("output_audio_buffer.clear")
    send("conversation.item.retrieve", item_id="item_0a_u1")
    send("conversation.item.delete", item_id="item_0a_u1")
    send("conversation.item.create", item={})
    append()
    send("input_audio_buffer.clear")
    send("conversation.item.truncate", item_id="item_0a_a1", content_index=0, audio_end_ms=5)
    send("input_audio_buffer.commit")
    send("conversation.item.retrieve", item_id="none")
    steps.append((None, driver.run(2.0)))
    return steps


def judge(steps: list[Step]) -> None:
    """Let the oracle read a whole session, with numbers that fit the places of the events."""
    oracle, seq = Oracle(), 0
    for content, events in steps:
        if content is not None:
            oracle.send(content)
        for event in events:
            seq += 1
            oracle.read(json.dumps({**event, "seq": seq, "event_id": f"event_0a_{seq}"}))
        oracle.check_quiet()
    oracle.check_end()


def changes(steps: list[Step], change: str) -> Iterator[tuple[str, list[Step]]]:
    """Yield the type of each event, and the session with this event changed."""
    for at, (content, events) in enumerate(steps):
        for index, event in enumerate(events):
            copies = {"leave out": [], "repeat": [event, event]}[change]
            changed = [*events[:index], *copies, *events[index + 1 :]]
            yield event["type"], [*steps[:at], (content, changed), *steps[at + 1 :]]


def is_noticed(steps: list[Step]) -> bool:
    try:
        judge(steps)
    except Violation:
        return True
    return False


def test_the_oracle_accepts_a_right_session(connect: Connect) -> None:
    judge(trace(connect))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "unnoticed"),
    # A warning about a field, and the frame that closes the mouth, may be missing.
    [("leave out", {"warning", "response.video.delta"}), ("repeat", set())],
)
def test_the_oracle_notices_each_event_that_is_missing_or_repeated(
    connect: Connect, change: str, unnoticed: set[str]
) -> None:
    found = {kind for kind, steps in changes(trace(connect), change) if not is_noticed(steps)}
    assert found == unnoticed


WRONG: Final[Mapping[str, tuple[str, Event]]] = {
    "an old epoch": ("response.video.delta", {"epoch": 0}),
    "an epoch that nothing has announced": ("response.output_audio.delta", {"epoch": 9}),
    "a frame too far": ("response.video.delta", {"frame_index": 1}),
    "a frame at another time": ("response.video.delta", {"pts_ms": 1}),
    "a frame at another sample": ("response.video.delta", {"offset_samples": 1}),
    "a gap in the sound": ("response.output_audio.delta", {"offset_samples": 960}),
    "another sound": ("response.output_audio.delta", {"delta": "AAAA"}),
    "media of another response": ("response.video.delta", {"response_id": "resp_0a_9"}),
    "a frame that was not counted": ("response.video.done", {"frames": 99}),
    "samples that were not counted": ("response.video.done", {"audio_samples": 1}),
    "an item in another place": ("conversation.item.done", {"previous_item_id": "item_x"}),
    "a number as text": ("input_audio_buffer.committed", {"item_id": 1}),
    "no official event": ("input_audio_buffer.cleared", {"type": "input_audio_buffer.gone"}),
    "a response out of turn": ("response.created", {"response_ref": 2}),
    "an error for nobody": ("error", {"error": {"type": "x", "code": "x", "event_id": "evt_999"}}),
}


@pytest.mark.parametrize(("kind", "fields"), WRONG.values(), ids=list(WRONG))
def test_the_oracle_notices_a_wrong_field(connect: Connect, kind: str, fields: Event) -> None:
    steps = trace(connect)
    first = next(event for _, events in steps for event in events if event["type"] == kind)
    first.update(fields)
    assert is_noticed(steps)


@pytest.mark.parametrize("dialect", [Beta(), VoiceLive()], ids=["beta", "azure"])
def test_each_random_update_means_the_same_in_an_older_form(dialect: Dialect) -> None:
    is_azure = isinstance(dialect, VoiceLive)
    for number in range(500):
        update = {"type": "session.update", "session": settings.update(Random(number), 0.0)}
        text = json.dumps(forms.beta(update, is_azure=is_azure))
        assert json.loads(translation.to_ga(dialect, text)) == update


def test_the_edge_notices_an_event_that_is_not_in_the_form_of_the_client(connect: Connect) -> None:
    events = [event for _, events in trace(connect) for event in events]
    right, wrong = edge.Edge(Beta()), edge.Edge(_NoTranslation())
    noticed = set()
    for event in events:
        text = json.dumps(event, separators=(",", ":"))
        right.read(text, official_only=False)
        try:
            wrong.read(text, official_only=False)
        except Violation:
            noticed.add(event["type"])
    assert noticed >= {
        *("session.created", "session.updated", "conversation.item.added"),
        *("conversation.item.done", "response.created", "response.done"),
        *("response.output_audio.delta", "response.output_audio.done"),
    }


class _NoTranslation(Beta):
    """A form of which the server translates nothing."""

    def from_ga(self, event: Mapping[str, object]) -> Mapping[str, object]:
        return event


def silent(steps: list[Step]) -> list[Step]:
    """Return the session as if its client had said that it wants sound only, and got video."""
    changed = json.loads(json.dumps(steps))
    for _, events in changed:
        for event in events:
            if "session" in event:
                event["session"]["avatar"]["video"]["mode"] = "none"
    return [(content, events) for content, events in changed]


def test_the_oracle_notices_video_that_nobody_wants(connect: Connect) -> None:
    assert is_noticed(silent(trace(connect)))


CREATED: Final = {"type": "response.created", "response": {"id": "r"}}
ITEM: Final = {"id": "i", "content": [{"transcript": "Hi."}]}
ANSWER: Final[tuple[Event, ...]] = (
    CREATED,
    {"type": "response.output_item.added", "item": ITEM},
    {"type": "conversation.item.added", "item": ITEM},
    {"type": "response.content_part.added"},
    {"type": "response.output_audio_transcript.delta", "delta": "Hi."},
    {"type": "response.output_audio.delta"},
    {"type": "response.output_audio.done"},
    {"type": "response.video.done"},
    {"type": "response.output_audio_transcript.done", "transcript": "Hi."},
    {"type": "response.content_part.done"},
    {"type": "response.output_item.done", "item": ITEM},
    {"type": "conversation.item.done", "item": ITEM},
    {"type": "response.done", "response": {"status": "completed", "output": [ITEM]}},
)


def follow(events: Sequence[Event]) -> None:
    order = orders.Steps(VideoModes())
    for event in events:
        order.read(event)
    order.read(CREATED)


def test_the_order_of_mode_speech_accepts_an_answer_and_one_that_is_cut_at_once() -> None:
    cut = {"type": "response.done", "response": {"status": "cancelled", "output": []}}
    follow([*ANSWER, *ANSWER])
    follow([CREATED, {"type": "response.video.done"}, cut])
    other = {"type": "conversation.item.added", "item": {"id": "other"}}
    follow([*ANSWER[:5], other, *ANSWER[5:]])


@pytest.mark.parametrize("left_out", [n for n in range(len(ANSWER)) if n != 5])
def test_the_order_of_mode_speech_notices_what_is_missing(left_out: int) -> None:
    with pytest.raises(Violation):
        follow([*ANSWER[:left_out], *ANSWER[left_out + 1 :]])


@pytest.mark.parametrize("again", [n for n in range(len(ANSWER)) if n != 5])
def test_the_order_of_mode_speech_notices_what_comes_again(again: int) -> None:
    with pytest.raises(Violation):
        follow([*ANSWER[: again + 1], *ANSWER[again:]])
