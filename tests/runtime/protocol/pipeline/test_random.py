"""Random clients and random endpoints: no violation, no crash, and one end for each response."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tests.runtime.protocol.pipeline.table import Table

from avatar_runtime.protocol.pipeline.dialogue import PipelineOptions
from avatar_runtime.protocol.pipeline.legs import ChatRequest, SpeechRequest, TranscriptionRequest

STEPS = 120
TEXTS = ("Hello.", "One is first. Two is next! Three?", "...", "\U0001f600", "no end", "a" * 700)


class Walk:
    """One random session."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        has = [self.chance.random() < 0.7 for _ in range(2)]
        self.table = Table(PipelineOptions(has_chat=has[0], has_transcription=has[1]))
        self.running: list[Any] = []

    def step(self) -> None:
        table, chance = self.table, self.chance
        self.running += table.requests()
        action = chance.randrange(14)
        match action:
            case 0 | 1:
                table.write(chance.choice(TEXTS), chance.choice(("user", "system", "assistant")))
            case 2 | 3:
                response = {"instructions": "Say it."} if chance.random() < 0.3 else {}
                table.send("response.create", response=response)
            case 4:
                table.send("response.cancel")
            case 5:
                table.send("output_audio_buffer.clear")
            case 6:
                items = table.of("conversation.item.added")
                if items:
                    item_id = chance.choice(items)["item"]["id"]
                    end_ms = chance.randrange(3000)
                    fields = {"item_id": item_id, "content_index": 0, "audio_end_ms": end_ms}
                    table.send("conversation.item.truncate", **fields)
            case 7:
                table.speak(0.3, level=chance.choice((0, 5000)))
            case 8:
                table.send(chance.choice(("input_audio_buffer.commit", "input_audio_buffer.clear")))
            case _:
                self.answer()
        table.run(chance.choice((0.02, 0.1, 0.5)))

    def answer(self) -> None:
        """Let one endpoint do something; it may also go on after its request was ended."""
        if not self.running:
            return
        table, chance = self.table, self.chance
        request = chance.choice(self.running)
        ends = chance.random()
        if ends < 0.15:
            self.running.remove(request)
            leg = type(request).__name__.removesuffix("Request").lower()
            table.fail(request, leg, 500)
            return
        match request:
            case SpeechRequest():
                table.sound(request, chance.uniform(0.01, 30))
            case ChatRequest():
                table.dialogue.receive_text(request.id, chance.choice(TEXTS), table.now)
            case TranscriptionRequest():
                text = chance.choice(("", "Hello."))
                table.dialogue.receive_transcript(request.id, text)
                self.running.remove(request)
                return
        if ends < 0.6:
            self.running.remove(request)
            table.end(request)


@pytest.mark.parametrize("seed", range(40))
def test_every_response_ends_once_whatever_happens(seed: int) -> None:
    walk = Walk(seed)
    for _ in range(STEPS):
        walk.step()
    table = walk.table
    for _ in range(200):
        if not (table.session.is_speaking or walk.running or not table.speechless):
            break
        table.run(1.0, serves=True)
        walk.running.clear()
        for request in table.asked:
            if table.dialogue.is_wanted(request.id):
                table.fail(request, "speech")
    table.pull()
    created = [event["response"]["id"] for event in table.of("response.created")]
    done = [event["response"]["id"] for event in table.of("response.done")]
    assert done == created
    assert table.trace.violations == []
    codes = {event["error"]["code"] for event in table.of("error")}
    assert codes <= {
        "no_input_text",
        "too_many_answers",
        "response_cancel_not_active",
        "item_not_found",
        "invalid_value",
        "audio_end_out_of_range",
        "input_audio_buffer_commit_empty",
        "input_audio_buffer_full",
        "speech_failed",
        "chat_failed",
        "transcription_failed",
    }
