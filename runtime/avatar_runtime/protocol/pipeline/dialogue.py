"""The replies of mode speech: what they ask of the endpoints, and what the endpoints bring."""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic

from avatar_runtime.errors import ProtocolError, shown
from avatar_runtime.protocol import document_fields, server_events
from avatar_runtime.protocol.answers import Answers
from avatar_runtime.protocol.document_fields import Count, List, Table, Text
from avatar_runtime.protocol.media import W
from avatar_runtime.protocol.pipeline.history import History
from avatar_runtime.protocol.pipeline.legs import (
    SPEECH,
    ChatRequest,
    LegFailure,
    SpeechRequest,
    TranscriptionRequest,
)
from avatar_runtime.protocol.pipeline.reply import Reply
from avatar_runtime.protocol.pipeline.turn_times import TurnTimes
from avatar_runtime.protocol.speech import not_movable
from avatar_runtime.protocol.spoken_answer import SpokenAnswer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from avatar_runtime.protocol.answer import Answer
    from avatar_runtime.protocol.answer_audio import Cut
    from avatar_runtime.protocol.pipeline.client_items import ResponseInput
    from avatar_runtime.protocol.pipeline.heard_audio import Heard
    from avatar_runtime.protocol.pipeline.history import Role
    from avatar_runtime.protocol.pipeline.legs import LegRequest
    from avatar_runtime.protocol.pipeline.turn_times import Leg
    from avatar_runtime.protocol.session_parts import SessionParts
    from avatar_runtime.protocol.strict_fields import StrictFields
    from avatar_runtime.protocol.turn import Step

MAX_TRANSCRIPTIONS = 8
"""Utterances whose text is not known yet, at most."""
MAX_UNANSWERED = 64
"""Messages of the user since the last reply, at most; older ones are not said."""

_STATE: Table = {
    "_unanswered": List(Text(), MAX_UNANSWERED),
    "_requests": Count(),
    "_opened": Count(),
}


@dataclass(frozen=True, slots=True)
class PipelineOptions:
    """Which endpoints a service has, and what its answers start from."""

    has_chat: bool = False
    has_transcription: bool = False
    instructions: str = ""
    """System prompt of sessions that set none."""
    max_history: int = 20
    """Messages in a request, at most."""


@dataclass(frozen=True, slots=True)
class _Transcription:
    item_id: str
    seconds: float


class Dialogue(Generic[W]):
    """The replies of a session, oldest first. The endpoints work on one at a time."""

    def __init__(
        self, parts: SessionParts[W], options: PipelineOptions, on_reply_end: Callable[[], None]
    ) -> None:
        self.answers: Answers[W] = Answers(parts, self)
        self.history = History()
        self._parts = parts
        self._options = options
        self._outbox = parts.outbox
        self._conversation = parts.conversation
        self._on_reply_end = on_reply_end
        self._replies: deque[Reply[W]] = deque()
        self._last: Reply[W] | None = None  # that has ended
        self._unanswered: list[str] = []  # items of the user since the last reply
        self._transcriptions: dict[int, _Transcription] = {}
        self._new: list[LegRequest] = []
        self._latencies_s: list[tuple[Leg, float]] = []
        self._requests = 0
        self._opened = 0

    # What the mode brings

    @property
    def has_question(self) -> bool:
        """Whether the conversation has something to answer."""
        is_chat = self._options.has_chat and bool(self.history.messages(1))
        return bool(self._unanswered) or is_chat

    def check_movable(self) -> None:
        """Check that another pod can continue the dialogue.

        Raises:
            ProtocolError: a reply is made, spoken or played, or an utterance has no text yet.
        """
        if self._replies or self._transcriptions or self._new:
            raise not_movable("requests to the endpoints of its speech are under way")
        if self.answers.speech.is_busy or not self.answers.is_empty:
            raise not_movable("the client has not played the reply to its end")
        self.answers.speech.check_movable()

    def export(self, now: float) -> dict[str, object]:
        """Return the state as plain values.

        Raises:
            ProtocolError: a reply is made, spoken or played, or an utterance has no text yet.
        """
        self.check_movable()
        return {
            **document_fields.export(self, _STATE),
            "history": self.history.export(),
            "speech": self.answers.speech.export(now),
        }

    def restore(self, fields: StrictFields, now: float) -> None:
        """Continue from what another session has exported.

        Raises:
            ProtocolError: a field is missing or wrong.
        """
        document_fields.restore(self, fields, _STATE)
        self.history.restore(fields, "history")
        self.answers.speech.restore(fields.nested("speech"), None, now)

    def add_message(self, item_id: str, role: Role, text: str | None) -> None:
        """Add a message; the text of an utterance comes later."""
        self.history.add(item_id, role, text)
        if role == "user":
            self._unanswered.append(item_id)
            del self._unanswered[:-MAX_UNANSWERED]

    def check_hearing(self) -> None:
        """Check that the text of another utterance can be asked for.

        Raises:
            ProtocolError: too many utterances wait for their text.
        """
        if len(self._transcriptions) >= MAX_TRANSCRIPTIONS:
            message = f"{MAX_TRANSCRIPTIONS} utterances wait for their text"
            raise ProtocolError("input_audio_buffer_full", message, limit=MAX_TRANSCRIPTIONS)

    def hear(self, heard: Heard) -> None:
        """Ask for the text of an utterance; `check_hearing` has accepted it."""
        request_id = self._next_request()
        self._new.append(TranscriptionRequest(request_id, heard.sound, heard.audio))
        self._transcriptions[request_id] = _Transcription(heard.item_id, heard.seconds)
        self.add_message(heard.item_id, "user", None)

    def reply(
        self,
        request: ResponseInput | None,
        metadata: Mapping[str, str] | None,
        instructions: str,
        voice: str,
        now: float,
    ) -> None:
        """Open a reply, which begins when the text of all utterances is known.

        `request` is that of the client; `None` answers the conversation if it has new text.
        `instructions` is the system prompt of the session, if it has one.

        Raises:
            ProtocolError: too many replies wait.
        """
        self._opened += 1
        spoken = SpokenAnswer(self.answers, self._parts, self._opened, metadata, now)
        waits_for = set(self._transcriptions)
        times = None
        if self._generating() is None:  # otherwise it waits for the reply before
            times = TurnTimes(self._measure, now, has_speech=bool(waits_for))
        self._replies.append(Reply(spoken, request, instructions, voice, waits_for, times))

    def truncate(self, item_id: str, audio_end_ms: int, now: float) -> None:
        """End the audio of an item; cancel its response first if it is active.

        Raises:
            ProtocolError: the item does not exist, is the user's, or has less audio.
        """
        item = self._conversation.get(item_id)
        reply = next((each for each in self._replies if each.spoken.item is item), None)
        if reply is not None:
            turn = reply.spoken.answer.turn
            item.audio_ms = turn.samples_sent * 1000 // turn.format.rate
        self._conversation.check_truncation(item, audio_end_ms)
        if reply is not None:
            self.answers.cancel(reply.spoken.answer.id, now)
        if self._last is not None and self._last.spoken.item is item:
            self.answers.speech.discard_unplayed(now)  # the client has stopped playing it
            self._record(self._last, audio_end_ms)
        self._conversation.truncate(item, audio_end_ms)

    # What the answers report

    def on_end(self, answer: Answer[W], step: Step, now: float) -> None:
        """Forget a reply, and record in the conversation what of it was sent."""
        self._on_reply_end()
        reply = next((each for each in self._replies if each.spoken.answer is answer), None)
        if reply is not None:
            self._replies.remove(reply)
            self._last = reply
            reply.spoken.end(step)
            self._record(reply, reply.spoken.item.audio_ms)

    def on_cut(self, response_id: str, cuts: Sequence[Cut]) -> None:
        """Record in the conversation what of a reply was played."""
        if self._last is not None and self._last.spoken.answer.id == response_id and cuts:
            self._record(self._last, cuts[0].audio_end_ms)

    # What the endpoints need

    def take_requests(self, now: float) -> list[LegRequest]:
        """Return the requests to start now; each of them is returned once."""
        while (reply := self._generating()) is not None:
            if not reply.has_begun and not reply.waits_for:
                self._begin(reply, now)
                continue
            text = reply.next_text()
            if text is None:
                break
            request_id = self._next_request()
            reply.requested(request_id, now)
            audio = reply.spoken.answer.turn.format
            self._new.append(SpeechRequest(request_id, text, audio, reply.voice))
        found, self._new = self._new, []
        return found

    def take_latencies(self) -> list[tuple[Leg, float]]:
        """Return the legs of turns that have ended since the last call, with their seconds."""
        taken, self._latencies_s = self._latencies_s, []
        return taken

    def is_wanted(self, request_id: int) -> bool:
        """Return whether what a request brings is still of use."""
        return request_id in self._transcriptions or self._awaiting(request_id) is not None

    @property
    def has_room(self) -> bool:
        """Whether more sound can be taken."""
        reply = self._generating()
        return reply is None or reply.has_room

    # What the endpoints bring

    def receive_transcript(self, request_id: int, text: str) -> None:
        """Take the text of an utterance; empty if nothing was said."""
        found = self._transcriptions.pop(request_id, None)
        if found is None:
            return
        item = self._conversation.find(found.item_id)
        if item is not None:
            item.transcript = text
        self.history.set_text(found.item_id, text)
        fields: dict[str, object] = {
            "item_id": found.item_id,
            "content_index": 0,
            "transcript": text,
            "usage": {"type": "duration", "seconds": round(found.seconds, 3)},
        }
        self._outbox.add("conversation.item.input_audio_transcription.completed", fields)
        for reply in self._replies:
            reply.waits_for.discard(request_id)

    def receive_text(self, request_id: int, text: str, now: float) -> None:
        """Take a part of the answer to a conversation."""
        reply = self._awaiting(request_id)
        if reply is not None and reply.chat_id == request_id:
            with self._limits_of(reply, now):
                reply.add_text(text, now)

    def receive_sound(self, request_id: int, sound: bytes, now: float) -> None:
        """Take sound of a sentence: whole samples in the format of its request."""
        reply = self._awaiting(request_id)
        if reply is not None:
            with self._limits_of(reply, now):
                reply.add_sound(request_id, sound, now)

    def receive_end(self, request_id: int, now: float) -> None:
        """Take notice that a request for text or sound has brought all of it."""
        reply = self._awaiting(request_id)
        if reply is None:
            return
        with self._limits_of(reply, now):
            if reply.chat_id == request_id:
                reply.end_text(now)
            else:
                reply.end_sound(request_id, now)

    def receive_failure(self, request_id: int, failure: LegFailure, now: float) -> None:
        """Take notice that a request has failed: the reply that needs it ends `failed`."""
        found = self._transcriptions.pop(request_id, None)
        if found is not None:
            error = {
                "type": "server_error",
                "code": failure.code,
                "message": failure.message,
                "param": None,
            }
            fields: dict[str, object] = {"item_id": found.item_id, "content_index": 0}
            kind = "conversation.item.input_audio_transcription.failed"
            self._outbox.add(kind, {**fields, "error": error})
        for reply in list(self._replies):
            if reply.is_open and (request_id in reply.waits_for or reply.awaits(request_id)):
                self._fail(reply, failure, now)

    # Details

    def _generating(self) -> Reply[W] | None:
        """Return the oldest reply that still needs endpoints."""
        return next((reply for reply in self._replies if not reply.is_generated), None)

    def _awaiting(self, request_id: int) -> Reply[W] | None:
        return next((reply for reply in self._replies if reply.awaits(request_id)), None)

    def _begin(self, reply: Reply[W], now: float) -> None:
        """Ask for the text of a reply, or say the text that is known."""
        reply.has_begun = True
        request, texts = reply.request, []
        if request is not None and request.messages is not None:
            texts = [each.text for each in request.messages]
        elif request is not None and request.instructions and not self._options.has_chat:
            texts = [request.instructions]
        else:
            texts = [text for each in self._unanswered if (text := self.history.text(each))]
            self._unanswered = []
        messages = self._messages(reply)
        self.history.add(reply.spoken.item.id, "assistant", None)
        is_asked = self._options.has_chat and messages and (request is not None or texts)
        if reply.times is not None:
            reply.times.begin(now, has_chat=bool(is_asked))
        if is_asked:
            reply.chat_id = self._next_request()
            self._new.append(ChatRequest(reply.chat_id, tuple(messages)))
            return
        with self._limits_of(reply, now):
            if not self._options.has_chat:
                reply.add_text("\n".join(texts), now)
            reply.end_text(now)

    def _messages(self, reply: Reply[W]) -> list[dict[str, str]]:
        """Return the conversation with its system prompt, as the chat endpoint gets it."""
        request = reply.request
        own = request.instructions if request is not None else ""
        prompt = own or reply.instructions or self._options.instructions
        if request is not None and request.messages is not None:
            messages = [{"role": each.role, "content": each.text} for each in request.messages]
        else:
            messages = self.history.messages(self._options.max_history)
        return [{"role": "system", "content": prompt}, *messages] if prompt else messages

    @contextmanager
    def _limits_of(self, reply: Reply[W], now: float) -> Iterator[None]:
        """End the reply, and not the session, if it breaks a limit of answers."""
        try:
            yield
        except ProtocolError as error:
            self._fail(reply, LegFailure(SPEECH, error.message, None), now)

    def _fail(self, reply: Reply[W], failure: LegFailure, now: float) -> None:
        fault = ProtocolError(
            failure.code,
            failure.message,
            param=f"upstream.{failure.leg}",
            value=shown(failure.status),
        )
        self._outbox.add("error", {"error": server_events.error(fault, None, "server_error")})
        details = {"type": "server_error", "code": failure.code}
        self.answers.fail(reply.spoken.answer, details, now)

    def _record(self, reply: Reply[W], audio_ms: int) -> None:
        """Set the text of a reply to what was said up to a position of its sound."""
        item, turn = reply.spoken.item, reply.spoken.answer.turn
        samples = audio_ms * turn.format.rate // 1000
        if item.status != "completed" or audio_ms < turn.samples * 1000 // turn.format.rate:
            item.transcript = reply.heard(samples)
        self.history.set_text(item.id, item.transcript.strip())

    def _measure(self, leg: Leg, seconds: float) -> None:
        self._latencies_s.append((leg, seconds))

    def _next_request(self) -> int:
        self._requests += 1
        return self._requests
