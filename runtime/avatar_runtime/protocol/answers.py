"""The answers of a session: audio from outside, spoken one after the other.

A mode opens an answer, adds audio and events to it as they arrive, and finishes it. Events leave in
step with the audio, and the last ones after the last frame.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Generic, Protocol

from avatar_runtime.errors import ProtocolError, shown
from avatar_runtime.protocol.answer import Answer
from avatar_runtime.protocol.media import W
from avatar_runtime.protocol.speech import Speech
from avatar_runtime.protocol.turn import Step, Turn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from avatar_runtime.protocol.answer import Fields
    from avatar_runtime.protocol.answer_audio import AudioMap, Cut, Part
    from avatar_runtime.protocol.response import ActiveResponse
    from avatar_runtime.protocol.session_parts import SessionParts

MAX_ANSWERS: Final = 16
MAX_WAITING_S: Final = 600
"""Audio of all answers that was not sent, seconds."""
_MAX_ENDED: Final = 16
"""Ended answers whose cuts are known; the client has played older ones."""


class AnswerOwner(Protocol[W]):
    """The mode that the answers come from."""

    def on_cut(self, response_id: str, cuts: Sequence[Cut]) -> None:
        """Take notice of the parts whose audio the client does not play to the end."""
        ...

    def on_end(self, answer: Answer[W], step: Step, now: float) -> None:
        """Take notice of the end of an answer; `Step.FINISH` if all of it was spoken."""
        ...


class Answers(Generic[W]):
    """The answers of a session in their order. The first one may be active."""

    def __init__(self, parts: SessionParts[W], owner: AnswerOwner[W]) -> None:
        self.speech: Speech[W] = Speech(parts, self)
        self._parts = parts
        self._owner = owner
        self._queue: list[Answer[W]] = []
        self._ended: OrderedDict[str, AudioMap] = OrderedDict()

    # What the mode does

    def check_open(self) -> None:
        """Check that another answer can be opened.

        Raises:
            ProtocolError: too many answers wait.
        """
        if len(self._queue) >= MAX_ANSWERS:
            message = f"{MAX_ANSWERS} answers wait to be spoken"
            raise ProtocolError("too_many_answers", message, limit=MAX_ANSWERS)

    def open(self, response: Mapping[str, object], now: float) -> Answer[W]:
        """Open an answer and start it if no other one is active.

        `response` is the response object of its `response.created`, with a new `id`.

        Raises:
            ProtocolError: too many answers wait.
        """
        self.check_open()
        audio, parts = self.speech.config.format, self._parts
        turn = Turn(parts.open_utterance(audio), audio, parts.fps, can_be_live=False)
        answer = Answer(response, turn, parts.outbox, parts.fps)
        self._queue.append(answer)
        self.speech.start_next(now)
        return answer

    def say(self, answer: Answer[W], audio: bytes, part: Part, now: float) -> None:
        """Add whole samples in the format of the session; an answer that has ended ignores them.

        Raises:
            ProtocolError: too much audio waits; nothing is added.
        """
        if not answer.is_open:
            return
        audio_format = answer.turn.format
        samples = sum(waiting.turn.samples - waiting.turn.samples_sent for waiting in self._queue)
        seconds = samples / audio_format.rate
        seconds += len(audio) / (audio_format.bytes_per_sample * audio_format.rate)
        if seconds > MAX_WAITING_S:
            message = f"{seconds:.1f} s of answers wait, must be at most {MAX_WAITING_S} s"
            raise ProtocolError("output_audio_buffer_full", message, limit=MAX_WAITING_S)
        answer.say(audio, part, now)

    def report(
        self, answer: Answer[W], kind: str, fields: Fields, item_id: str | None = None
    ) -> None:
        """Add an event in step with the audio; an answer that has ended ignores it.

        Without audio before it, it leaves with the next `pull`. With `item_id`, the events of an
        item that is complete leave also if the answer is cut short: a tool call is not lost.

        Raises:
            ProtocolError: too many events wait.
        """
        if answer.is_open:
            answer.report(kind, fields, item_id)

    def finish(self, answer: Answer[W], done: Mapping[str, object], now: float) -> None:
        """Complete an answer: `response.done` with the object `done` leaves after the last frame.

        An answer that has ended ignores it.
        """
        if answer.is_open:
            answer.done = done
            answer.turn.commit(now)

    def fail(self, answer: Answer[W], failure: Mapping[str, object], now: float) -> None:
        """End an answer that is not complete; `failure` is `type` and `code` of its error."""
        if not answer.is_open:
            return
        answer.failure = failure
        if answer.turn.is_started:
            self.speech.end(Step.FAIL, now)
        else:
            answer.void = Step.FAIL
        self.speech.start_next(now)

    @property
    def first(self) -> Answer[W] | None:
        """The answer that is spoken, or will be next; `None` if there is none."""
        return self._queue[0] if self._queue else None

    def find(self, response_id: str) -> Answer[W] | None:
        """Return an answer that has not ended."""
        return next((answer for answer in self._queue if answer.id == response_id), None)

    def cancel(self, response_id: str | None, now: float) -> None:
        """End an answer at the request of the client; `None` names the active one.

        Raises:
            ProtocolError: there is no such answer.
        """
        answer = self._queue[0] if response_id is None and self._queue else None
        if response_id is not None:
            answer = self.find(response_id)
        if answer is None:
            raise ProtocolError(
                "response_cancel_not_active",
                "no such response is active",
                param="response_id",
                value=shown(response_id),
            )
        if answer.turn.is_started:
            self.speech.cancel(answer.id, now)
        else:
            answer.void = Step.CANCEL

    def clear_output(self, now: float) -> None:
        """End all answers and what the client still plays."""
        self._discard_waiting(Step.CANCEL)
        self.speech.clear_output(now)

    def interrupt(self, now: float) -> None:
        """End all answers and what the client still plays, because the client speaks."""
        self._discard_waiting(Step.INTERRUPT)
        self.speech.interrupt(now)
        self.speech.start_next(now)

    # What the speech asks

    @property
    def is_empty(self) -> bool:
        """Whether no answer waits or is spoken."""
        return not self._queue

    def start(self, source_frame: int, now: float) -> Answer[W] | None:
        """Start the next answer, or return `None` if there is none."""
        if not self._queue:
            return None
        answer = self._queue[0]
        answer.ref = self.speech.next_ref()
        if answer.heard_at is not None:
            answer.heard_at = now  # it waited for the answer before
        answer.has_video = self.speech.config.has_video
        answer.turn.start(source_frame, now)
        return answer

    def closes(self, response: ActiveResponse[W]) -> None:
        """Do nothing: an answer has no item of the user."""

    def ended(self, response: ActiveResponse[W], step: Step, now: float) -> None:
        """Forget the answer; only the place of its audio is still of interest."""
        answer = self._queue.pop(0)
        assert answer is response
        self._ended[answer.id] = answer.audio
        if len(self._ended) > _MAX_ENDED:
            self._ended.popitem(last=False)
        self._owner.on_end(answer, step, now)

    def cut_off(self, response_id: str, played_ms: int) -> None:
        """Tell the owner which parts the client does not play to the end."""
        audio = self._ended.get(response_id)
        cuts = audio.cuts(played_ms) if audio is not None else []
        if cuts:
            self._owner.on_cut(response_id, cuts)

    def _discard_waiting(self, step: Step) -> None:
        for answer in self._queue:
            if not answer.turn.is_started:
                answer.void = step
