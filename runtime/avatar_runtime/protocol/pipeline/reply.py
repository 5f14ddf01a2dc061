"""One reply: its text as it arrives, sentence by sentence, and the sound of each sentence."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Generic

from avatar_runtime.protocol.media import W
from avatar_runtime.protocol.sentences import SentenceSplitter, is_speakable

if TYPE_CHECKING:
    from avatar_runtime.protocol.pipeline.client_items import ResponseInput
    from avatar_runtime.protocol.pipeline.turn_times import TurnTimes
    from avatar_runtime.protocol.spoken_answer import SpokenAnswer

MAX_PARALLEL: Final = 2
"""Requests for sound: that of the sentence which is spoken, and of the next one."""
MAX_AHEAD_S: Final = 20.0
"""Sound that was not sent, seconds: no more is asked for until some of it has left."""


@dataclass(slots=True)
class _Sentence:
    text: str
    request_id: int | None = None
    """The request for its sound; `None` if it was not made yet."""
    waiting: list[bytes] = field(default_factory=list)
    """Sound that arrived before the end of the sentence before it."""
    is_reported: bool = False
    """Whether the client knows the text, because its sound has begun."""
    is_complete: bool = False
    """Whether all its sound has arrived."""


class Reply(Generic[W]):
    """What the avatar says in one response."""

    def __init__(
        self,
        spoken: SpokenAnswer[W],
        request: ResponseInput | None,
        instructions: str,
        voice: str,
        waits_for: set[int],
        times: TurnTimes | None,
    ) -> None:
        """`waits_for` are the transcriptions that must end before the reply can begin.

        `times` measures its legs; `None` if it waits for the reply before.
        """
        self.spoken = spoken
        self.request = request
        """That of the client; `None` if the end of an utterance is answered."""
        self.instructions = instructions
        """System prompt of the session; empty if it has none."""
        self.voice = voice
        """Empty: that of the settings."""
        self.waits_for = waits_for
        self.times = times
        self.chat_id: int | None = None
        """The request for its text; `None` if it was not made."""
        self.has_begun = False
        self._splitter = SentenceSplitter()
        self._sentences: deque[_Sentence] = deque()
        self._is_text_complete = False
        self._said: list[tuple[int, str]] = []  # where the sound of each text starts, samples

    @property
    def is_open(self) -> bool:
        """Whether sound and text can be added: the response has not ended."""
        return self.spoken.is_open

    @property
    def is_generated(self) -> bool:
        """Whether nothing more is asked of endpoints for it."""
        return not self.is_open or (self._is_text_complete and not self._sentences)

    @property
    def has_room(self) -> bool:
        """Whether more sound can be taken."""
        turn = self.spoken.answer.turn
        return (turn.samples - turn.samples_sent) / turn.format.rate < MAX_AHEAD_S

    def add_text(self, text: str, now: float) -> None:
        """Add text that is to be said."""
        self._queue(self._splitter.push(text), now)

    def end_text(self, now: float) -> None:
        """Say what is left of the text; there is no more of it."""
        self._is_text_complete = True
        self._queue(self._splitter.finish(), now)

    def next_text(self) -> str | None:
        """Return the sentence whose sound must be asked for now, or `None`."""
        if not (self.is_open and self.has_room):
            return None
        sentence = self._unrequested()
        return None if sentence is None else sentence.text.strip()

    def requested(self, request_id: int, now: float) -> None:
        """Record the request for the sound of the sentence that `next_text` has returned."""
        sentence = self._unrequested()
        assert sentence is not None
        if self.times is not None:
            self.times.request_sound(now)
        sentence.request_id = request_id

    def awaits(self, request_id: int) -> bool:
        """Return whether the reply needs what a request brings."""
        if not self.is_open:
            return False
        return request_id == self.chat_id or self._find(request_id) is not None

    def add_sound(self, request_id: int, sound: bytes, now: float) -> None:
        """Add sound of a sentence; its text is reported with its first sound.

        Raises:
            ProtocolError: too much audio or too many events wait.
        """
        sentence = self._find(request_id)
        if sentence is None or not self.is_open:
            return
        if self.times is not None:
            self.times.hear_sound(now)
        sentence.waiting.append(sound)
        self._say_waiting(now)

    def end_sound(self, request_id: int, now: float) -> None:
        """End the sound of a sentence.

        Raises:
            ProtocolError: too much audio or too many events wait.
        """
        sentence = self._find(request_id)
        if sentence is not None and self.is_open:
            sentence.is_complete = True
            self._say_waiting(now)

    def heard(self, samples: int) -> str:
        """Return the text of the first `samples` of the sound; the last sentence may be cut."""
        text = ""
        total = self.spoken.answer.turn.samples
        for index, (start, sentence) in enumerate(self._said):
            if start >= samples:
                break
            end = self._said[index + 1][0] if index + 1 < len(self._said) else total
            share = 1.0 if end <= samples else (samples - start) / (end - start)
            text += sentence if share == 1.0 else _first_words(sentence, share)
        return text.strip()

    def _unrequested(self) -> _Sentence | None:
        running = [each for each in self._sentences if not each.is_complete][:MAX_PARALLEL]
        return next((each for each in running if each.request_id is None), None)

    def _find(self, request_id: int) -> _Sentence | None:
        return next((each for each in self._sentences if each.request_id == request_id), None)

    def _queue(self, pieces: list[str], now: float) -> None:
        # A piece without a letter or a digit has no sound.
        self._sentences.extend(
            _Sentence(each, is_complete=not is_speakable(each)) for each in pieces
        )
        self._say_waiting(now)

    def _say_waiting(self, now: float) -> None:
        """Say the sound of the first sentence, and of those after it that are complete."""
        while self._sentences and self.is_open:
            first = self._sentences[0]
            if not first.is_reported and (first.waiting or first.is_complete):
                first.is_reported = True
                self._said.append((self.spoken.answer.turn.samples, first.text))
                self.spoken.say_text(first.text)
            for sound in first.waiting:
                self.spoken.say(sound, now)
            first.waiting.clear()
            if not first.is_complete:
                return
            self._sentences.popleft()
        if self._is_text_complete and not self._sentences:
            self.spoken.finish(now)


def _first_words(text: str, share: float) -> str:
    """Return the words of a text that fit into a share of its characters."""
    return text[: int(len(text) * share)].rpartition(" ")[0]
