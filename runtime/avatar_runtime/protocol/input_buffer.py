"""The sound that a session has been given: utterances that wait for their response."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic

from avatar_runtime.errors import ProtocolError
from avatar_runtime.protocol.conversation import Item, Items
from avatar_runtime.protocol.turn import Phase, Step, Turn, Utterance, W

if TYPE_CHECKING:
    from collections.abc import Callable

    from avatar_runtime.protocol.audio_formats import AudioFormat
    from avatar_runtime.protocol.outbox import Outbox

UNSPOKEN_S: Final = 600
WAITING_TURNS: Final = 64


class InputBuffer(Generic[W]):
    """Turns in the order of their sound; the first may be the one that is spoken."""

    def __init__(
        self,
        suffix: str,
        fps: int,
        outbox: Outbox,
        items: Items,
        open_utterance: Callable[[AudioFormat], Utterance[W]],
    ) -> None:
        """`suffix` is that of the session's identifiers."""
        self._turns: list[Turn[W]] = []
        self._has_new_audio = False
        self._suffix = suffix
        self._fps = fps
        self._outbox = outbox
        self._items = items
        self._open_utterance = open_utterance
        self._commits = 0

    @property
    def oldest(self) -> Turn[W] | None:
        """The utterance that is spoken or will be next."""
        return self._turns[0] if self._turns else None

    @property
    def oldest_unasked(self) -> Turn[W] | None:
        """The oldest committed utterance whose response nobody asked for."""
        return next((t for t in self._turns if t.phase is Phase.WAITING and not t.requested), None)

    def append(self, audio: bytes, audio_format: AudioFormat, now: float) -> bool:
        """Take sound and return whether there was any; the first of it opens an utterance."""
        width = audio_format.bytes_per_sample
        if len(audio) % width:
            raise ProtocolError(
                "invalid_audio_length",
                f"audio has {len(audio)} bytes, must be a multiple of {width}",
                param="audio",
                value=len(audio),
                limit=width,
            )
        self._check_room(len(audio) // width, audio_format.rate)
        if not audio:
            return False
        if not self._is_open:
            self._open_turn(audio_format)
        self._turns[-1].append(audio, now)
        self._has_new_audio = True
        return True

    def commit(self, now: float) -> None:
        """End the open utterance."""
        if not self._is_open:
            message = "input_audio_buffer.commit found no audio to commit"
            raise ProtocolError("input_audio_buffer_commit_empty", message, param="type")
        self._turns[-1].commit(now)
        self._commits += 1
        item = Item(f"item_{self._suffix}_u{self._commits}", "user", "completed")
        previous = self._items.add(item)
        self._send("input_audio_buffer.committed", item_id=item.id, previous_item_id=previous)
        for kind in ("added", "done"):
            described = item.describe()
            self._send(f"conversation.item.{kind}", item=described, previous_item_id=previous)

    def clear(self) -> None:
        """Throw away the utterances whose response has not started."""
        for turn in self._turns:
            if not turn.is_started:
                turn.step(Step.CLEAR)
                self._has_new_audio = False
        self._turns = [turn for turn in self._turns if turn.is_started]
        self._send("input_audio_buffer.cleared")

    def remove(self, turn: Turn[W]) -> None:
        """Forget an utterance whose response has ended."""
        self._turns.remove(turn)

    def take_new_audio(self) -> bool:
        """Return whether sound came since this was asked last."""
        is_new, self._has_new_audio = self._has_new_audio, False
        return is_new

    @property
    def _is_open(self) -> bool:
        return bool(self._turns) and self._turns[-1].takes_audio

    def _check_room(self, samples: int, rate: int) -> None:
        unspoken = sum(turn.samples - turn.samples_sent for turn in self._turns) + samples
        if unspoken > UNSPOKEN_S * rate:
            raise ProtocolError(
                "input_audio_buffer_full",
                f"{unspoken / rate:.1f} s of audio would wait, at most {UNSPOKEN_S} s are kept",
                param="audio",
                value=round(unspoken / rate, 1),
                limit=UNSPOKEN_S,
            )

    def _open_turn(self, audio_format: AudioFormat) -> None:
        if len(self._turns) >= WAITING_TURNS:
            raise ProtocolError(
                "input_audio_buffer_full",
                f"{len(self._turns)} utterances wait, at most {WAITING_TURNS} are kept",
                param="audio",
                value=len(self._turns),
                limit=WAITING_TURNS,
            )
        self._turns.append(Turn(self._open_utterance(audio_format), audio_format, self._fps))

    def _send(self, kind: str, **fields: object) -> None:
        self._outbox.add(kind, fields)
