"""The endpoints of mode speech at random: they write, speak, are slow, fail and go on too long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from avatar_runtime.protocol.pipeline.legs import (
    CHAT,
    SPEECH,
    TRANSCRIPTION,
    ChatRequest,
    LegFailure,
    SpeechRequest,
    TranscriptionRequest,
)
from localcluster.fuzz.violation import require

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from avatar_runtime.protocol.pipeline.dialogue import Dialogue, PipelineOptions
    from avatar_runtime.protocol.pipeline.legs import LegRequest

MAX_SENTENCE: Final = 300
MAX_PARALLEL: Final = 2
MAX_UTTERANCE_S: Final = 120
MAX_TRANSCRIPTIONS: Final = 8
MAX_OWN_MESSAGES: Final = 64
"""Messages of `response.input`, which replace those of the conversation."""
_LEGS: Final[dict[type, str]] = {
    SpeechRequest: SPEECH,
    ChatRequest: CHAT,
    TranscriptionRequest: TRANSCRIPTION,
}
_TEXTS: Final = (
    *(
        "Hello. ",
        "How are",
        " you? ",
        "I am fine! ",
        "...",
        "\n\n",
        "",
        " ",
        "\U0001f600",
        "1. 2. 3. ",
    ),
    *("no end " * 60, "x" * 700, "\u4f60\u597d\u3002", "Mr. Smith e.g. paid 3.50. "),
)
_HEARD: Final = ("", "Hello.", "How are you today? I am fine.")
_SAMPLES: Final = (1, 100, 959, 960, 2400, 9600, 24_000)


@dataclass(slots=True)
class _Running:
    request: LegRequest
    pieces: int
    """What it brings before its end."""


class Endpoints:
    """Serves the requests of one session, and checks them."""

    def __init__(
        self, random: Random, dialogue: Callable[[], Dialogue[Any]], options: PipelineOptions
    ) -> None:
        """`dialogue` returns the dialogue of the session."""
        self._random = random
        self._dialogue = dialogue
        self._options = options
        self._pace = random.choice((1.0, 0.5, 0.1))
        self._faults = random.choice((0.0, 0.0, 0.02, 0.2))
        self._running: dict[int, _Running] = {}
        self._sounds: dict[int, bytearray] = {}
        self._last_id = 0

    def said(self) -> bytes:
        """Return the sound of all sentences, in the order in which it is asked for."""
        return b"".join(self._sounds[each] for each in sorted(self._sounds))

    def work(self, now: float, *, is_prompt: bool) -> None:
        """Take the new requests and go on with some of them; all of them, if it is prompt.

        Raises:
            Violation: the session asks for what it must not.
        """
        random, dialogue = self._random, self._dialogue()
        for request in dialogue.take_requests(now):
            self._check(request)
            self._running[request.id] = _Running(request, random.choice((0, 1, 1, 2, 5)))
        for each in list(self._running.values()):
            if is_prompt or random.random() < self._pace:
                self._advance(each, now, is_prompt=is_prompt)

    def check_end(self) -> None:
        """Check that the session, which is at rest, wants nothing any more.

        Raises:
            Violation: it waits for a request.
        """
        wanted = [each for each in self._running if self._dialogue().is_wanted(each)]
        require(not wanted, f"the requests {wanted} are still wanted")

    def _advance(self, running: _Running, now: float, *, is_prompt: bool) -> None:
        random, dialogue, request = self._random, self._dialogue(), running.request
        if not dialogue.is_wanted(request.id) and random.random() < 0.5:
            del self._running[request.id]  # ended by the session; sometimes it goes on for a while
            return
        if not is_prompt and random.random() < self._faults:
            leg = _LEGS[type(request)]
            failure = LegFailure(leg, f"the {leg} endpoint answered with status 500", 500)
            dialogue.receive_failure(request.id, failure, now)
            del self._running[request.id]
            return
        if isinstance(request, TranscriptionRequest):
            dialogue.receive_transcript(request.id, random.choice(_HEARD))
            del self._running[request.id]
        elif running.pieces <= 0:
            dialogue.receive_end(request.id, now)
            del self._running[request.id]
        elif isinstance(request, ChatRequest):
            running.pieces -= 1
            dialogue.receive_text(request.id, random.choice(_TEXTS), now)
        elif dialogue.has_room:
            running.pieces -= 1
            self._speak(request, now)

    def _speak(self, request: SpeechRequest, now: float) -> None:
        dialogue = self._dialogue()
        sound = self._random.randbytes(
            self._random.choice(_SAMPLES) * request.audio.bytes_per_sample
        )
        if dialogue.is_wanted(request.id):
            self._sounds.setdefault(request.id, bytearray()).extend(sound)
        dialogue.receive_sound(request.id, sound, now)

    def _check(self, request: LegRequest) -> None:
        require(request.id > self._last_id, f"request {request.id} after {self._last_id}")
        require(self._dialogue().is_wanted(request.id), f"{request} is new and not wanted")
        self._last_id = request.id
        match request:
            case SpeechRequest():
                text = request.text
                require(any(map(str.isalnum, text)), f"{text!r} has no sound")
                require(len(text) <= MAX_SENTENCE, f"a sentence of {len(text)} characters")
                require(self._count(SpeechRequest) < MAX_PARALLEL, "too many requests for sound")
            case ChatRequest():
                self._check_chat(request)
            case TranscriptionRequest():
                audio = request.audio
                require(self._options.has_transcription, "there is no such endpoint")
                samples, rest = divmod(len(request.sound), audio.bytes_per_sample)
                require(not rest, f"{len(request.sound)} bytes are no whole samples")
                require(samples <= MAX_UTTERANCE_S * audio.rate, f"{samples} samples")
                waiting = self._count(TranscriptionRequest)
                require(waiting < MAX_TRANSCRIPTIONS, "too many utterances wait for their text")

    def _check_chat(self, request: ChatRequest) -> None:
        require(self._options.has_chat, "there is no such endpoint")
        roles = [each["role"] for each in request.messages]
        spoken = [role for role in roles if role != "system"]
        require(roles, "a conversation without messages")
        require(set(roles) <= {"system", "user", "assistant"}, f"roles {roles}")
        limit = max(self._options.max_history, MAX_OWN_MESSAGES)
        require(len(spoken) <= limit, f"{len(spoken)} messages")
        texts = [each["content"] for each in request.messages]
        require(all(isinstance(text, str) and text for text in texts), f"messages {texts}")

    def _count(self, kind: type[LegRequest]) -> int:
        dialogue = self._dialogue()
        return sum(
            isinstance(each.request, kind) and dialogue.is_wanted(each.request.id)
            for each in self._running.values()
        )
