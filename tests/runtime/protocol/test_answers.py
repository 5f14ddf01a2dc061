"""Answers: audio from outside that the avatar speaks, with events in step."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from tests.runtime.protocol.conftest import FakeDetector, FakeUtterance

from avatar_client.traces import Trace
from avatar_runtime.errors import ProtocolError
from avatar_runtime.protocol import answers as limits
from avatar_runtime.protocol import client_events
from avatar_runtime.protocol.answer import MAX_WAITING_CHARACTERS
from avatar_runtime.protocol.answer_audio import AudioMap, Cut, Part
from avatar_runtime.protocol.answers import Answers
from avatar_runtime.protocol.audio_formats import PCM_24K
from avatar_runtime.protocol.session import Session, SessionLimits
from avatar_runtime.protocol.session_config import Character, ReadOnlyFields, SessionConfig
from avatar_runtime.protocol.spoken_answer import SpokenAnswer
from avatar_runtime.protocol.turn import Step
from localcluster.fuzz import official

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from avatar_runtime.protocol.answer import Answer
    from avatar_runtime.protocol.session_config import SessionConfig as Config
    from avatar_runtime.protocol.session_parts import SessionParts
    from avatar_runtime.protocol.strict_fields import StrictFields

FRAME = bytes(2 * 960)
PART = Part("item_1")
MORE = Part("item_2", 1)


class Puppet:
    """A mode whose answers a test makes."""

    can_receive = True
    has_open_audio = False
    announces_itself = False
    forwards = False
    can_repeat = False

    def __init__(self, parts: SessionParts[Any]) -> None:
        self.parts = parts
        self.answers: Answers[Any] = Answers(parts, self)
        self.speech = self.answers.speech
        self.cuts: list[tuple[str, list[Cut]]] = []
        self.ends: list[tuple[str, Step]] = []

    def describe(self, session: dict[str, object]) -> dict[str, object]:
        return session

    def forward(self, session: Mapping[str, object], event_id: str | None) -> bool:
        return False

    def configure(self, config: Config, now: float) -> None:
        self.speech.config = config

    def handle(
        self,
        event: client_events.ClientEvent,
        fields: StrictFields,
        event_id: str | None,
        now: float,
    ) -> None:
        match event:
            case client_events.CancelResponse():
                self.answers.cancel(event.response_id, now)
            case client_events.ClearOutput():
                self.answers.clear_output(now)

    def listen(self, now: float) -> bool:
        return False

    def check_movable(self) -> None:
        raise AssertionError("this session stays where it is")

    def export(self, now: float) -> dict[str, object]:
        raise AssertionError("this session stays where it is")

    def restore(self, fields: StrictFields, now: float) -> None:
        raise AssertionError("this session stays where it is")

    def on_cut(self, response_id: str, cuts: Sequence[Cut]) -> None:
        self.cuts.append((response_id, list(cuts)))

    def on_end(self, answer: Answer[Any], step: Step, now: float) -> None:
        self.ends.append((answer.id, step))


class Stage:
    """A session whose answers a test makes, with an engine that is always in time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.puppet: Puppet
        self.events: list[dict[str, Any]] = []
        self.trace = Trace(keep_media=True)
        characters = {"anna": Character("anna", 64, 64)}
        self.session: Session[Any] = Session(
            SessionConfig(characters["anna"]),
            characters,
            ReadOnlyFields("sess_0a", "acme/concierge", 1_800_000_000, 25),
            limits=SessionLimits(7200.0, 300.0),
            open_utterance=FakeUtterance,
            open_detector=FakeDetector,
            now=self.now,
            open_mode=self._open,
        )
        self.pull()

    def _open(self, parts: SessionParts[Any]) -> Puppet:
        self.puppet = Puppet(parts)
        return self.puppet

    @property
    def answers(self) -> Answers[Any]:
        return self.puppet.answers

    def open(self, response_id: str = "resp_1") -> Answer[Any]:
        body = {"id": response_id, "object": "realtime.response", "status": "in_progress"}
        return self.answers.open(body, self.now)

    def say(self, answer: Answer[Any], frames: float, part: Part = PART) -> None:
        self.answers.say(answer, bytes(int(960 * frames) * 2), part, self.now)

    def finish(self, answer: Answer[Any], status: str = "completed") -> None:
        self.answers.finish(answer, {"id": answer.id, "status": status, "usage": None}, self.now)

    def pull(self) -> list[str]:
        taken = []
        while (outgoing := self.session.pull(self.now)) is not None:
            event = json.loads(outgoing.message)
            self.trace.receive(event, self.now)
            taken.append(event)
        self.events += taken
        return [event["type"] for event in taken]

    def make(self) -> list[str]:
        for frame in list(self.session.due(self.now)):
            self.session.deliver(
                frame.response_ref, frame.epoch, frame.frame_index, b"jpeg", self.now
            )
        return self.pull()

    def run(self, seconds: float) -> list[str]:
        taken: list[str] = []
        until = self.now + seconds
        while self.now < until:
            self.now += 0.02
            self.session.tick(self.now)
            taken += self.make()
        return taken

    def send(self, kind: str, **fields: Any) -> list[str]:
        self.session.receive(json.dumps({"type": kind, **fields}), self.now)
        return self.pull()

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]


@pytest.fixture
def stage() -> Stage:
    return Stage()


def announce(stage: Stage, answer: Answer[Any], part: Part = PART, kind: str = "audio") -> None:
    item = {"id": part.item_id, "type": "message", "role": "assistant", "content": []}
    added = {"response_id": answer.id, "output_index": part.output_index, "item": item}
    stage.answers.report(answer, "response.output_item.added", added)
    in_conversation = {"item": item, "previous_item_id": None}
    stage.answers.report(answer, "conversation.item.added", in_conversation)
    described = {"type": kind}
    stage.answers.report(
        answer, "response.content_part.added", {**part.ids(answer.id), "part": described}
    )


def text(stage: Stage, answer: Answer[Any], delta: str, part: Part = PART) -> None:
    kind = "response.output_audio_transcript.delta"
    stage.answers.report(answer, kind, {**part.ids(answer.id), "delta": delta})


def tool_call(stage: Stage, answer: Answer[Any], *, complete: bool = True) -> None:
    item = {"id": "call", "type": "function_call", "name": "f", "call_id": "c", "arguments": ""}
    ids = {"response_id": answer.id, "output_index": 1}
    report = stage.answers.report
    report(answer, "response.output_item.added", {**ids, "item": item}, "call")
    if complete:
        done = {**item, "arguments": "{}", "status": "completed"}
        report(answer, "response.output_item.done", {**ids, "item": done}, "call")


def test_events_leave_when_the_audio_before_them_has_left(stage: Stage) -> None:
    answer = stage.open()
    announce(stage, answer)
    assert stage.pull() == [
        "response.created",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
    ]
    text(stage, answer, "at once")
    stage.say(answer, 50)
    text(stage, answer, "after two seconds")
    stage.say(answer, 5)
    assert stage.pull() == ["response.output_audio_transcript.delta"]
    first = stage.make()
    assert first.count("response.video.delta") == 25  # the window
    assert "response.output_audio_transcript.delta" not in first
    later = stage.run(1.1)
    at = later.index("response.output_audio_transcript.delta")
    assert later[:at].count("response.video.delta") in (25, 24)
    assert stage.trace.violations == []


def test_the_last_events_leave_after_the_last_frame(stage: Stage) -> None:
    answer = stage.open()
    announce(stage, answer)
    stage.say(answer, 4.5)
    for kind in ("response.output_audio.done", "response.content_part.done"):
        stage.answers.report(answer, kind, PART.ids(answer.id))
    stage.pull()
    assert stage.make().count("response.video.delta") == 2  # frame 2 needs 120 ms of audio
    stage.finish(answer)
    assert stage.make() == [
        "response.output_audio.delta",
        *["response.video.delta"] * 3,
        "response.output_audio.done",
        "response.video.done",
        "response.content_part.done",
        "response.done",
    ]
    assert stage.puppet.ends == [("resp_1", Step.FINISH)]
    assert stage.trace.violations == []
    received = b"".join(
        base64.b64decode(event["delta"]) for event in stage.of("response.output_audio.delta")
    )
    assert len(received) == 4.5 * 1920


@pytest.mark.parametrize("status", ["completed", "failed", "incomplete"])
def test_an_answer_without_audio_ends_at_once(stage: Stage, status: str) -> None:
    answer = stage.open()
    announce(stage, answer, kind="text")
    stage.finish(answer, status)
    kinds = stage.pull()
    assert kinds[-2:] == ["response.video.done", "response.done"]
    assert stage.of("response.done")[0]["response"]["status"] == status
    assert stage.trace.violations == []


def test_answers_are_spoken_one_after_the_other(stage: Stage) -> None:
    first, second = stage.open(), stage.open("resp_2")
    stage.say(second, 10)
    stage.finish(second)
    stage.say(first, 10)
    stage.pull()
    stage.run(0.5)
    assert [event["response"]["id"] for event in stage.of("response.created")] == ["resp_1"]
    stage.finish(first)
    stage.run(1.0)
    assert [event["response"]["id"] for event in stage.of("response.done")] == ["resp_1", "resp_2"]
    assert [event["response_ref"] for event in stage.of("response.done")] == [1, 2]
    assert stage.trace.violations == []


def test_a_cancel_ends_what_is_announced_and_tells_what_was_played(stage: Stage) -> None:
    answer = stage.open()
    announce(stage, answer)
    text(stage, answer, "Good ")
    stage.say(answer, 100)
    text(stage, answer, "day")
    stage.run(0.5)
    kinds = stage.send("response.cancel")
    assert kinds == [
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.video.done",
        "response.content_part.done",
        "response.output_item.done",
        "conversation.item.done",
        "response.done",
    ]
    assert stage.puppet.ends == [("resp_1", Step.CANCEL)]
    (ended,) = stage.of("response.done")
    assert ended["epoch"] == 2
    assert ended["response"]["status"] == "cancelled"
    assert ended["response"]["status_details"]["reason"] == "client_cancelled"
    (item,) = ended["response"]["output"]
    assert item["status"] == "incomplete"
    assert item["content"] == [{"type": "output_audio", "transcript": "Good "}]
    ((response_id, (cut,)),) = stage.puppet.cuts
    assert (response_id, cut.part) == ("resp_1", PART)
    assert 440 <= cut.audio_end_ms <= 500
    stage.say(answer, 10)
    text(stage, answer, "too late")
    stage.finish(answer)
    assert "response.output_audio.delta" not in stage.run(0.5)
    assert stage.trace.violations == []


def test_an_interruption_ends_what_is_still_played(stage: Stage) -> None:
    answer = stage.open()
    stage.say(answer, 20)
    stage.finish(answer)
    stage.run(0.1)
    assert len(stage.of("response.done")) == 1
    stage.answers.interrupt(stage.now)
    assert stage.pull() == ["output_audio_buffer.cleared", "session.avatar.switch_to_idle"]
    assert stage.session.epoch == 2
    ((_, (cut,)),) = stage.puppet.cuts
    assert 60 <= cut.audio_end_ms <= 100


def test_an_interruption_ends_all_answers(stage: Stage) -> None:
    first = stage.open()
    stage.say(first, 30)
    second = stage.open("resp_2")
    stage.say(second, 30)
    stage.run(0.2)
    stage.answers.interrupt(stage.now)
    stage.pull()
    statuses = [event["response"]["status_details"] for event in stage.of("response.done")]
    assert [details["reason"] for details in statuses] == ["turn_detected"] * 2
    assert {response_id for response_id, _ in stage.puppet.cuts} == {"resp_1", "resp_2"}
    assert stage.trace.violations == []
    assert stage.answers.is_empty


def test_a_waiting_answer_is_cancelled_by_its_id(stage: Stage) -> None:
    first, second = stage.open(), stage.open("resp_2")
    stage.say(first, 5)
    stage.pull()
    assert stage.send("response.cancel", response_id="resp_2") == []
    stage.say(second, 5)
    stage.finish(first)
    stage.run(0.5)
    statuses = [event["response"]["status"] for event in stage.of("response.done")]
    assert statuses == ["completed", "cancelled"]
    assert stage.send("response.cancel", response_id="resp_9") == ["error"]
    assert stage.trace.violations == []


def test_clear_output_ends_all_answers(stage: Stage) -> None:
    stage.say(stage.open(), 30)
    stage.open("resp_2")
    stage.run(0.2)
    kinds = stage.send("output_audio_buffer.clear")
    assert kinds.count("response.done") == 2
    assert "output_audio_buffer.cleared" in kinds


@pytest.mark.parametrize("is_started", [True, False])
def test_a_failure_ends_one_answer(stage: Stage, is_started: bool) -> None:
    first = stage.open()
    second = stage.open("resp_2")
    stage.say(first, 30)
    stage.run(0.2)
    failing = first if is_started else second
    stage.answers.fail(failing, {"type": "server_error", "code": "upstream_unavailable"}, stage.now)
    stage.finish(second if is_started else first)
    stage.run(2.0)
    ends = {event["response"]["id"]: event["response"] for event in stage.of("response.done")}
    assert len(ends) == 2
    assert ends[failing.id]["status"] == "failed"
    assert ends[failing.id]["status_details"]["error"]["code"] == "upstream_unavailable"
    assert stage.trace.violations == []


@pytest.mark.parametrize("complete", [True, False])
def test_a_complete_tool_call_is_not_lost_with_the_audio(stage: Stage, complete: bool) -> None:
    answer = stage.open()
    stage.say(answer, 100)
    tool_call(stage, answer, complete=complete)
    stage.run(0.2)
    stage.answers.interrupt(stage.now)
    kinds = stage.pull()
    assert ("response.output_item.done" in kinds) == complete
    (ended,) = stage.of("response.done")
    assert [item["id"] for item in ended["response"]["output"]] == ["call"] * complete


def test_too_many_answers_too_much_audio_and_too_many_events_are_refused(stage: Stage) -> None:
    answer = stage.open()
    for number in range(limits.MAX_ANSWERS - 1):
        stage.open(f"resp_{number + 2}")
    with pytest.raises(ProtocolError, match="16 answers wait"):
        stage.open("one too many")
    second = bytes(2 * 24000 * 60)
    for _ in range(10):
        stage.answers.say(answer, second, PART, stage.now)
    with pytest.raises(ProtocolError, match=r"600\.0 s of answers wait"):
        stage.answers.say(answer, bytes(2), PART, stage.now)
    large = {"delta": "x" * (MAX_WAITING_CHARACTERS // 2)}
    stage.answers.report(answer, "response.output_text.delta", large)
    with pytest.raises(ProtocolError, match="too large"):
        stage.answers.report(answer, "response.output_text.delta", large)


def test_the_engine_ends_an_answer_that_it_cannot_draw(stage: Stage) -> None:
    stage.say(stage.open(), 30)
    (frame, *_) = list(stage.session.due(stage.now))
    stage.session.fail(frame.response_ref, frame.epoch, stage.now)
    stage.pull()
    assert stage.puppet.ends == [("resp_1", Step.FAIL)]
    assert stage.of("response.done")[0]["response"]["status"] == "failed"


def test_audio_of_several_parts_keeps_their_ids(stage: Stage) -> None:
    answer = stage.open()
    stage.say(answer, 2.5)
    stage.say(answer, 4.5, MORE)
    stage.finish(answer)
    stage.run(0.2)
    sent = [
        (event["item_id"], event["offset_samples"])
        for event in stage.of("response.output_audio.delta")
    ]
    assert sent == [("item_1", 0), ("item_2", 3 * 960)]
    assert stage.trace.violations == []


def test_cuts_are_counted_in_each_part() -> None:
    audio = AudioMap(PCM_24K, 25)
    audio.add(PART, 24000)
    audio.add(MORE, 24000)
    assert audio.cuts(400) == [Cut(PART, 400), Cut(MORE, 0)]
    assert audio.cuts(1500) == [Cut(MORE, 500)]
    assert audio.cuts(2000) == []
    for number in range(300):
        part = Part(f"item_{number}")
        if number < 254:
            audio.add(part, 960)
        else:
            with pytest.raises(ProtocolError, match="256 times"):
                audio.add(part, 960)


def test_a_spoken_answer_has_the_events_of_a_response(stage: Stage) -> None:
    parts = stage.puppet.parts
    spoken = SpokenAnswer(stage.answers, parts, 1, {"id": "7"}, stage.now)
    spoken.say_text("Hello")
    spoken.say(FRAME * 10, stage.now)
    spoken.say_text(" there")
    spoken.say(FRAME * 5, stage.now)
    spoken.finish(stage.now)
    spoken.finish(stage.now)
    stage.run(1.0)
    spoken.end(Step.FINISH)
    kinds = [event["type"] for event in stage.events if "delta" not in event["type"]][2:]
    assert kinds == [
        "response.created",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        "output_audio_buffer.started",
        "session.avatar.switch_to_speaking",
        "response.output_audio.done",
        "response.video.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "response.output_item.done",
        "conversation.item.done",
        "response.done",
        "output_audio_buffer.stopped",
        "session.avatar.switch_to_idle",
    ]
    (done,) = stage.of("response.done")
    assert done["response"]["metadata"] == {"id": "7"}
    assert done["response"]["output"][0]["content"][0]["transcript"] == "Hello there"
    assert parts.conversation.get("item_0a_a1").audio_ms == 600
    assert stage.trace.violations == []
    for event in stage.events:
        official.check(event["type"], json.dumps(event))
