"""The audio that a session has received: utterances that wait for their response."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic

from avatar_runtime.errors import ProtocolError
from avatar_runtime.protocol.conversation import Item
from avatar_runtime.protocol.media import W
from avatar_runtime.protocol.turn import Phase, Step, Turn

if TYPE_CHECKING:
    from collections.abc import Callable

    from avatar_runtime.protocol.audio_formats import AudioFormat
    from avatar_runtime.protocol.conversation import Conversation
    from avatar_runtime.protocol.media import Utterance
    from avatar_runtime.protocol.outbox import Outbox

MAX_BUFFERED_S: Final = 600
MAX_BUFFERED_TURNS: Final = 64


class InputBuffer(Generic[W]):
    """Turns in the order of their audio. The response of the first one may be active."""

    def __init__(
        self,
        suffix: str,
        fps: int,
        outbox: Outbox,
        conversation: Conversation,
        open_utterance: Callable[[AudioFormat], Utterance[W]],
    ) -> None:
        """`suffix` is the common suffix of the session's identifiers."""
        self._turns: list[Turn[W]] = []
        self._has_new_audio = False
        self._suffix = suffix
        self._fps = fps
        self._outbox = outbox
        self._conversation = conversation
        self._open_utterance = open_utterance
        self._commits = 0

    @property
    def oldest(self) -> Turn[W] | None:
        """The turn whose response is active or starts next."""
        return self._turns[0] if self._turns else None

    @property
    def oldest_unrequested(self) -> Turn[W] | None:
        """The oldest committed turn whose response no `response.create` has requested."""
        return next((t for t in self._turns if t.phase is Phase.WAITING and not t.requested), None)

    def append(self, audio: bytes, audio_format: AudioFormat, now: float) -> bool:
        """Add audio and return whether there was any; the first of it opens a turn.

        Raises:
            ProtocolError: the audio is not a whole number of samples, or the buffer is full.
        """
        width = audio_format.bytes_per_sample
        if len(audio) % width:
            raise ProtocolError(
                "invalid_audio_length",
                f"audio has {len(audio)} bytes, must be a multiple of {width}",
                param="audio",
                value=len(audio),
                limit=width,
            )
        self._check_duration(len(audio) // width, audio_format.rate)
        if not audio:
            return False
        if not self._is_open:
            self._open_turn(audio_format)
        self._turns[-1].append(audio, now)
        self._has_new_audio = True
        return True

    def commit(self, now: float) -> None:
        """End the open turn's audio.

        Raises:
            ProtocolError: no turn is open.
        """
        if not self._is_open:
            message = "input_audio_buffer.commit found no audio to commit"
            raise ProtocolError("input_audio_buffer_commit_empty", message, param="type")
        self._turns[-1].commit(now)
        self._commits += 1
        item = Item(f"item_{self._suffix}_u{self._commits}", "user", "completed")
        previous = self._conversation.add(item)
        self._send("input_audio_buffer.committed", item_id=item.id, previous_item_id=previous)
        for kind in ("added", "done"):
            described = item.describe()
            self._send(f"conversation.item.{kind}", item=described, previous_item_id=previous)

    def clear(self) -> None:
        """Discard the turns whose response has not started."""
        for turn in self._turns:
            if not turn.is_started:
                turn.step(Step.CLEAR)
                self._has_new_audio = False
        self._turns = [turn for turn in self._turns if turn.is_started]
        self._send("input_audio_buffer.cleared")

    def remove(self, turn: Turn[W]) -> None:
        """Remove a turn whose response has ended."""
        self._turns.remove(turn)

    def consume_new_audio(self) -> bool:
        """Return whether audio arrived since the last call."""
        is_new, self._has_new_audio = self._has_new_audio, False
        return is_new

    @property
    def _is_open(self) -> bool:
        return bool(self._turns) and self._turns[-1].accepts_audio

    def _check_duration(self, samples: int, rate: int) -> None:
        buffered = sum(turn.samples - turn.samples_sent for turn in self._turns) + samples
        if buffered > MAX_BUFFERED_S * rate:
            raise ProtocolError(
                "input_audio_buffer_full",
                f"{buffered / rate:.1f} s of audio would wait, must be at most {MAX_BUFFERED_S} s",
                param="audio",
                value=round(buffered / rate, 1),
                limit=MAX_BUFFERED_S,
            )

    def _open_turn(self, audio_format: AudioFormat) -> None:
        if len(self._turns) >= MAX_BUFFERED_TURNS:
            raise ProtocolError(
                "input_audio_buffer_full",
                f"{len(self._turns)} utterances wait, must be at most {MAX_BUFFERED_TURNS}",
                param="audio",
                value=len(self._turns),
                limit=MAX_BUFFERED_TURNS,
            )
        self._turns.append(Turn(self._open_utterance(audio_format), audio_format, self._fps))

    def _send(self, kind: str, **fields: object) -> None:
        self._outbox.add(kind, fields)
