"""An answer whose identifiers and events are the session's own: one message with one audio part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic

from avatar_runtime.protocol import server_events
from avatar_runtime.protocol.answer_audio import Part
from avatar_runtime.protocol.conversation import Item
from avatar_runtime.protocol.media import W
from avatar_runtime.protocol.turn import Step

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_runtime.protocol.answer import Answer
    from avatar_runtime.protocol.answers import Answers
    from avatar_runtime.protocol.session_parts import SessionParts


class SpokenAnswer(Generic[W]):
    """Adds to an answer the events of a response, as mode drive sends them."""

    def __init__(
        self,
        answers: Answers[W],
        parts: SessionParts[W],
        number: int,
        metadata: Mapping[str, str] | None,
        now: float,
    ) -> None:
        """Open the answer. `number` tells its identifiers apart from those of other answers.

        Raises:
            ProtocolError: too many answers wait.
        """
        self.item = Item(f"item_{parts.suffix}_a{number}", "assistant", "in_progress")
        self._answers = answers
        self._conversation = parts.conversation
        self._conversation_id = f"conv_{parts.suffix}"
        self._metadata = metadata
        self._id = f"resp_{parts.suffix}_{number}"
        self._audio = answers.speech.config.format
        self._part = Part(self.item.id)
        self.answer: Answer[W] = answers.open(self._describe("in_progress", []), now)
        described = self.item.describe()
        added = {"response_id": self._id, "output_index": 0, "item": described}
        self._report("response.output_item.added", added)
        answers.report(self.answer, "conversation.item.added", self._add_item)
        self._report_part("response.content_part.added", part=server_events.PART)

    @property
    def is_open(self) -> bool:
        """Whether sound and text can be added."""
        return self.answer.is_open

    def say(self, audio: bytes, now: float) -> None:
        """Add whole samples in the format of the session.

        Raises:
            ProtocolError: too much audio waits; nothing is added.
        """
        self._answers.say(self.answer, audio, self._part, now)

    def say_text(self, delta: str) -> None:
        """Add the text of the sound that is added next.

        Raises:
            ProtocolError: too many events wait.
        """
        self.item.transcript += delta
        self._report_part("response.output_audio_transcript.delta", delta=delta)

    def finish(self, now: float) -> None:
        """Complete the answer: its last events leave after the last frame."""
        if not self.is_open:
            return
        text = self.item.transcript
        self._report_part("response.output_audio.done")
        self._report_part("response.output_audio_transcript.done", transcript=text)
        part = {**server_events.PART, "transcript": text}
        self._report_part("response.content_part.done", part=part)
        described = Item(
            self.item.id, "assistant", "completed", transcript=self.item.transcript
        ).describe()
        done = {"response_id": self._id, "output_index": 0, "item": described}
        self._report("response.output_item.done", done)
        self._answers.report(self.answer, "conversation.item.done", self._end_item)
        self._answers.finish(self.answer, self._describe("completed", [described]), now)

    def end(self, step: Step) -> None:
        """Record the end of the answer in its item: call it when the answer has ended."""
        self.item.status = "completed" if step is Step.FINISH else "incomplete"
        turn = self.answer.turn
        self.item.audio_ms = turn.samples_sent * 1000 // turn.format.rate

    def _add_item(self) -> Mapping[str, object]:
        previous = self._conversation.add(self.item)
        described = {**self.item.describe(), "content": []}
        return {"item": described, "previous_item_id": previous}

    def _end_item(self) -> Mapping[str, object]:
        self.item.status = "completed"
        previous = self._conversation.previous(self.item)
        return {"item": self.item.describe(), "previous_item_id": previous}

    def _report_part(self, kind: str, **fields: object) -> None:
        self._report(kind, {**self._part.ids(self._id), **fields})

    def _report(self, kind: str, fields: Mapping[str, object]) -> None:
        self._answers.report(self.answer, kind, fields)

    def _describe(self, status: str, output: list[dict[str, object]]) -> dict[str, object]:
        return server_events.response(
            self._id,
            self._conversation_id,
            status,
            output,
            audio=self._audio,
            details=None,
            metadata=self._metadata,
        )
