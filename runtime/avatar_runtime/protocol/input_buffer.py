"""The audio that a session has received: utterances that wait for their response."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic

from avatar_runtime.errors import ProtocolError
from avatar_runtime.protocol import document_fields, input_errors
from avatar_runtime.protocol.conversation import Item, export_item
from avatar_runtime.protocol.document_fields import Count, Format, Maybe, Table
from avatar_runtime.protocol.media import W
from avatar_runtime.protocol.turn import Phase, Step, Turn

if TYPE_CHECKING:
    from collections.abc import Callable

    from avatar_runtime.protocol.audio_formats import AudioFormat
    from avatar_runtime.protocol.conversation import Conversation
    from avatar_runtime.protocol.media import Utterance
    from avatar_runtime.protocol.outbox import Outbox
    from avatar_runtime.protocol.strict_fields import StrictFields

MAX_BUFFERED_S: Final = 600
MAX_BUFFERED_TURNS: Final = 64
_STATE: Final[Table] = {"_items": Count()}
_TURN: Final[Table] = {"format": Format(), "start_ms": Count()}


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
        self._newest: Turn[W] | None = None
        self._suffix = suffix
        self._fps = fps
        self._outbox = outbox
        self._conversation = conversation
        self._open_utterance = open_utterance
        self._items = 0
        self._open_item: Item | None = None

    @property
    def oldest(self) -> Turn[W] | None:
        """The turn whose response is active or starts next."""
        return self._turns[0] if self._turns else None

    def is_newest(self, turn: Turn[W]) -> bool:
        """Return whether no turn was opened after this one."""
        return turn is self._newest

    @property
    def is_open(self) -> bool:
        """Whether a turn accepts audio."""
        return bool(self._turns) and self._turns[-1].accepts_audio

    @property
    def open_item_id(self) -> str | None:
        """The id of the item of the utterance that has started and was not committed."""
        return self._open_item.id if self._open_item else None

    def unrequested(self, *, committed: bool) -> Turn[W] | None:
        """Return the oldest turn that no `response.create` has requested.

        `committed` is whether the turn must have ended.
        """
        return next(
            (
                turn
                for turn in self._turns
                if turn.request is None and (turn.phase is Phase.WAITING or not committed)
            ),
            None,
        )

    def check(self, size: int, unheard: int, audio_format: AudioFormat) -> None:
        """Check that `size` bytes can be added to `unheard` samples that no turn has yet.

        The bytes are whole samples.

        Raises:
            ProtocolError: the buffer is full.
        """
        width = audio_format.bytes_per_sample
        buffered = sum(turn.samples - turn.samples_sent for turn in self._turns)
        seconds = (buffered + unheard + size // width) / audio_format.rate
        input_errors.check_length(seconds, MAX_BUFFERED_S)

    def keeps_pace(self, start_ms: int, now: float) -> bool:
        """Return whether a turn that starts now follows the newest one no faster than speech.

        `start_ms` is where its audio starts, milliseconds of audio of the session.
        """
        newest = self._newest
        if newest is None:
            return True
        return newest.clock.keeps_pace((start_ms - newest.start_ms) / 1000, now)

    def open(self, audio_format: AudioFormat, start_ms: int) -> Item:
        """Open a turn and return the item of the user that it becomes.

        `start_ms` is where its audio starts, milliseconds of audio of the session.

        Raises:
            ProtocolError: too many turns wait.
        """
        if len(self._turns) >= MAX_BUFFERED_TURNS:
            raise ProtocolError(
                "input_audio_buffer_full",
                f"{len(self._turns)} utterances wait, must be at most {MAX_BUFFERED_TURNS}",
                param="audio",
                value=len(self._turns),
                limit=MAX_BUFFERED_TURNS,
            )
        utterance = self._open_utterance(audio_format)
        self._newest = Turn(utterance, audio_format, self._fps, start_ms)
        self._turns.append(self._newest)
        return self.open_item()

    def open_item(self) -> Item:
        """Return a new item of the user, which is not in the conversation yet."""
        self._items += 1
        self._open_item = Item(f"item_{self._suffix}_u{self._items}", "user", "in_progress")
        return self._open_item

    def append(self, audio: bytes, now: float) -> None:
        """Add audio to the open turn."""
        self._turns[-1].append(audio, now)

    def announce(self) -> None:
        """Add the item of the open turn to the conversation: its response starts.

        The item precedes the item of the response, as in a conversation without a live answer.
        """
        if self._open_item is not None and not self._conversation.has(self._open_item):
            self._send_added(self._open_item)

    def commit(self, now: float) -> None:
        """End the open utterance: its turn, unless that has ended already, and its item.

        Raises:
            ProtocolError: no utterance is open.
        """
        item = self._open_item
        if item is None:
            raise input_errors.nothing_to_commit()
        if self.is_open:
            self._turns[-1].commit(now)
        item.status = "completed"
        is_new = not self._conversation.has(item)
        previous = self._conversation.last if is_new else self._conversation.previous(item)
        self._send("input_audio_buffer.committed", item_id=item.id, previous_item_id=previous)
        if is_new:
            self._send_added(item)
        self._close_item()

    def abandon(self) -> None:
        """End the item of an utterance whose audio is no longer accepted."""
        item = self._open_item
        if item is not None and self._conversation.has(item):
            item.status = "incomplete"
            self._close_item()
        self._open_item = None

    def clear(self) -> None:
        """Discard the turns whose response has not started, and reject their requests."""
        discarded = [turn for turn in self._turns if not turn.is_started]
        if not (self.is_open and self._turns[-1].is_started):
            self.abandon()
        self._turns = [turn for turn in self._turns if turn.is_started]
        self._send("input_audio_buffer.cleared")
        for turn in discarded:
            turn.step(Step.CLEAR)
            if turn.request is not None:
                message = "the audio of this response.create was cleared; there is no response"
                self._outbox.warn("no_input_audio", message, event_id=turn.request.event_id)

    def remove(self, turn: Turn[W]) -> None:
        """Remove a turn whose response has ended."""
        self._turns.remove(turn)

    def export(self, now: float) -> dict[str, object]:
        """Return the state as plain values."""
        return {
            **document_fields.export(self, _STATE),
            "open_item": export_item(self._open_item),
            "turns": [
                {**document_fields.export(turn, _TURN), **turn.export(now)} for turn in self._turns
            ],
            "newest": None if self._newest is None else self._export_newest(self._newest, now),
        }

    def _export_newest(self, newest: Turn[W], now: float) -> dict[str, object]:
        """Return the place of the newest turn, and its clock, which may outlive it."""
        index = self._turns.index(newest) if newest in self._turns else None
        state = document_fields.export(newest, _TURN)
        return {**state, "index": index, "clock": newest.clock.export(now)}

    def restore(self, fields: StrictFields, *, is_spoken: bool, now: float) -> None:
        """Continue from what another session has exported.

        `is_spoken` is whether the response of the first turn is active.

        Raises:
            ProtocolError: a field is missing or wrong.
        """
        document_fields.restore(self, fields, _STATE)
        self._open_item = self._conversation.restore_item(fields, "open_item")
        found = fields.objects("turns", MAX_BUFFERED_TURNS)
        for index, each in enumerate(found):
            turn = self._new_turn(each)
            turn.restore(each, now)
            self._turns.append(turn)
            is_last = index == len(found) - 1
            allowed = (
                (Phase.LIVE, Phase.ENDING)
                if is_spoken and not index
                else (Phase.OPEN, Phase.WAITING)
            )
            document_fields.check(
                turn.phase in allowed and (is_last or not turn.accepts_audio),
                each,
                "phase",
                "does not fit the place of the turn",
            )
        document_fields.check(
            bool(found) or not is_spoken, fields, "turns", "must have the turn of the response"
        )
        newest = document_fields.optional(fields, "newest")
        if newest is not None:
            index = Maybe(Count(0, len(found) - 1)).read(newest, "index", now)
            self._newest = self._new_turn(newest) if index is None else self._turns[index]
            if index is None:
                self._newest.clock.restore(newest.nested("clock"), now)

    def _new_turn(self, fields: StrictFields) -> Turn[W]:
        values = document_fields.read(fields, _TURN)
        audio: AudioFormat = values["format"]
        return Turn(self._open_utterance(audio), audio, self._fps, values["start_ms"])

    def _close_item(self) -> None:
        item, self._open_item = self._open_item, None
        assert item is not None
        previous = self._conversation.previous(item)
        self._send("conversation.item.done", item=item.describe(), previous_item_id=previous)

    def _send_added(self, item: Item) -> None:
        previous = self._conversation.add(item)
        self._send("conversation.item.added", item=item.describe(), previous_item_id=previous)

    def _send(self, kind: str, **fields: object) -> None:
        self._outbox.add(kind, fields)
