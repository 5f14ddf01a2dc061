"""A session in mode speech moves to another pod between its answers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.runtime.protocol.conftest import FakeDetector, FakeUtterance
from tests.runtime.protocol.pipeline.table import Table

from avatar_runtime.errors import ProtocolError
from avatar_runtime.protocol.pipeline.dialogue import PipelineOptions
from avatar_runtime.protocol.pipeline.legs import TranscriptionRequest
from avatar_runtime.protocol.session import Session, SessionLimits
from avatar_runtime.protocol.session_config import ReadOnlyFields
from avatar_runtime.protocol.strict_fields import StrictFields

OPTIONS = PipelineOptions(has_chat=True, has_transcription=True, instructions="Be brief.")


def move(table: Table) -> None:
    """Continue the session of a table on another pod, whose clock is 500 s behind."""
    state = json.loads(json.dumps(table.session.export(table.now)))
    table.now -= 500.0
    session: Session[Any] = Session(
        table.session.config,
        {},
        ReadOnlyFields("sess_0b", "acme/concierge", 1_800_000_000, 25),
        limits=SessionLimits(7200.0, 300.0),
        open_utterance=FakeUtterance,
        open_detector=FakeDetector,
        now=table.now,
        open_mode=lambda parts: table._open(parts, OPTIONS),
        continues=table.session.suffix,
    )
    session.restore(StrictFields(state), table.now)
    table.session = session


def refusal(table: Table) -> str:
    """Return why a session cannot move now."""
    with pytest.raises(ProtocolError) as found:
        table.session.export(table.now)
    assert found.value.code == "session_not_movable"
    return found.value.message


def test_the_conversation_goes_on_where_it_was() -> None:
    stayed, moved = Table(OPTIONS), Table(OPTIONS)
    for table in (stayed, moved):
        for text in ("Hello.", "What is new?", "Nothing else?"):
            table.write(text)
            if table is moved:
                move(table)
            table.send("response.create")
            table.run(5, serves=True)
            if table is moved:
                move(table)
    assert moved.messages == stayed.messages
    assert len(moved.messages[-1]) > len(moved.messages[0])
    assert moved.ended == stayed.ended == ["completed"] * 3
    assert moved.kinds() == stayed.kinds()
    numbers = [event["seq"] for event in moved.events]
    assert numbers == list(range(1, len(numbers) + 1))
    assert moved.trace.violations == []


def test_an_utterance_moves_before_it_ends() -> None:
    table = Table(OPTIONS)
    table.speak(1.0)
    move(table)
    table.speak(1.0, level=0)
    table.run(5, serves=True)
    (heard,) = [each for each in table.asked if isinstance(each, TranscriptionRequest)]
    assert len(heard.sound) > 48_000
    assert table.ended == ["completed"]


def test_requests_that_are_under_way_keep_the_session_where_it_is() -> None:
    table = Table(OPTIONS)
    table.say("Hello.")
    assert "requests" in refusal(table)
    table.run(0.2, serves=True)
    refusal(table)
    table.run(10, serves=True)
    move(table)
