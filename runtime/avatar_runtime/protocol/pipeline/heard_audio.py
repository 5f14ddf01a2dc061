"""The utterances of the caller in mode speech: their sound, and the items that they become."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from avatar_runtime.protocol import document_fields, input_errors
from avatar_runtime.protocol.conversation import Item, export_item
from avatar_runtime.protocol.document_fields import Count, Data, Format, Maybe, Table
from avatar_runtime.protocol.live_source import SourceClock

if TYPE_CHECKING:
    from avatar_runtime.protocol.audio_formats import AudioFormat
    from avatar_runtime.protocol.conversation import Conversation
    from avatar_runtime.protocol.outbox import Outbox
    from avatar_runtime.protocol.strict_fields import StrictFields

MAX_UTTERANCE_S: Final = 120
_STATE: Final[Table] = {
    "_items": Count(),
    "_audio": Maybe(Format()),
    "_sound": Data(make=bytearray),
    "_start_ms": Count(),
}


@dataclass(frozen=True, slots=True)
class Heard:
    """An utterance that has ended."""

    item_id: str
    sound: bytes
    audio: AudioFormat

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.sound) / (self.audio.bytes_per_sample * self.audio.rate)


class Hearer(Protocol):
    """Who uses the utterances."""

    def check_room(self) -> None:
        """Check that another utterance can be used.

        Raises:
            ProtocolError: it cannot.
        """
        ...

    def on_heard(self, heard: Heard, now: float) -> None:
        """Take an utterance, after its events; `check_room` has accepted it."""
        ...


class HeardAudio:
    """Collects the open utterance; it is the buffer of an `AudioIntake`."""

    def __init__(
        self,
        suffix: str,
        outbox: Outbox,
        conversation: Conversation,
        hearer: Hearer,
    ) -> None:
        self._suffix = suffix
        self._outbox = outbox
        self._conversation = conversation
        self._hearer = hearer
        self._items = 0
        self._item: Item | None = None
        self._audio: AudioFormat | None = None
        self._sound = bytearray()
        self._clock = SourceClock()
        self._start_ms = 0

    @property
    def is_open(self) -> bool:
        """Whether an utterance accepts audio."""
        return self._audio is not None

    @property
    def open_item_id(self) -> str | None:
        """The id of the item of the open utterance."""
        return self._item.id if self._item else None

    def check(self, size: int, unheard: int, audio_format: AudioFormat) -> None:
        """Check that `size` bytes can be added to `unheard` samples that no utterance has yet.

        Raises:
            ProtocolError: the utterance is too long.
        """
        samples = (len(self._sound) + size) // audio_format.bytes_per_sample + unheard
        input_errors.check_length(samples / audio_format.rate, MAX_UTTERANCE_S)

    def keeps_pace(self, start_ms: int, now: float) -> bool:
        """Return whether an utterance that starts now follows the last one at the pace of speech.

        `start_ms` is where its audio starts, milliseconds of audio of the session.
        """
        return self._clock.keeps_pace((start_ms - self._start_ms) / 1000, now)

    def open(self, audio_format: AudioFormat, start_ms: int) -> Item:
        """Open an utterance and return its item."""
        self._audio, self._start_ms = audio_format, start_ms
        self._sound.clear()
        self._clock = SourceClock()
        return self.open_item()

    def open_item(self) -> Item:
        """Return a new item of the user, which is not in the conversation yet."""
        self._items += 1
        self._item = Item(f"item_{self._suffix}_u{self._items}", "user", "in_progress")
        return self._item

    def append(self, audio: bytes, now: float) -> None:
        """Add audio to the open utterance. What is too long is left out."""
        if self._audio is None:
            return
        width, rate = self._audio.bytes_per_sample, self._audio.rate
        self._sound += audio[: MAX_UTTERANCE_S * rate * width - len(self._sound)]
        self._clock.add(len(self._sound) / (width * rate), now)

    def commit(self, now: float) -> None:
        """End the open utterance.

        Raises:
            ProtocolError: no utterance is open, or too many wait; it stays open then.
        """
        item, audio = self._item, self._audio
        if item is None:
            raise input_errors.nothing_to_commit()
        if audio is not None:
            self._hearer.check_room()
        sound = bytes(self._sound) if audio is not None else b""
        self.abandon()
        item.status = "completed"
        previous = self._conversation.last
        fields: dict[str, object] = {"item_id": item.id, "previous_item_id": previous}
        self._outbox.add("input_audio_buffer.committed", fields)
        add_item(self._conversation, self._outbox, item)
        if audio is not None:
            self._hearer.on_heard(Heard(item.id, sound, audio), now)

    def abandon(self) -> None:
        """Forget the open utterance."""
        self._item = self._audio = None
        self._sound.clear()

    def clear(self) -> None:
        """Discard the open utterance."""
        self.abandon()
        self._outbox.add("input_audio_buffer.cleared", {})

    def export(self, now: float) -> dict[str, object]:
        """Return the state as plain values."""
        return {
            **document_fields.export(self, _STATE),
            "clock": self._clock.export(now),
            "item": export_item(self._item),
        }

    def restore(self, fields: StrictFields, now: float) -> None:
        """Continue from what another session has exported.

        Raises:
            ProtocolError: a field is missing or wrong.
        """
        document_fields.restore(self, fields, _STATE)
        self._clock.restore(fields.nested("clock"), now)
        self._item = self._conversation.restore_item(fields, "item")


def add_item(conversation: Conversation, outbox: Outbox, item: Item) -> None:
    """Add a complete item to the conversation, and tell the client."""
    previous = conversation.add(item)
    for kind in ("conversation.item.added", "conversation.item.done"):
        outbox.add(kind, {"item": item.describe(), "previous_item_id": previous})
