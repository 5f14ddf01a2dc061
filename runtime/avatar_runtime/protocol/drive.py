"""Mode drive: the avatar speaks the client's own audio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic

from avatar_runtime.errors import ProtocolError
from avatar_runtime.protocol import client_events, document_fields
from avatar_runtime.protocol.audio_intake import AudioIntake
from avatar_runtime.protocol.conversation import Item, export_item
from avatar_runtime.protocol.document_fields import Count, Flag, Maybe, Table, Text
from avatar_runtime.protocol.input_buffer import InputBuffer
from avatar_runtime.protocol.media import W
from avatar_runtime.protocol.response import EmptyResponse, Response
from avatar_runtime.protocol.session_config import StartTrigger
from avatar_runtime.protocol.speech import Speech
from avatar_runtime.protocol.turn import Phase, ResponseRequest, Step

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_runtime.protocol.audio_formats import AudioFormat
    from avatar_runtime.protocol.response import ActiveResponse
    from avatar_runtime.protocol.session_config import SessionConfig
    from avatar_runtime.protocol.session_parts import SessionParts
    from avatar_runtime.protocol.strict_fields import StrictFields
    from avatar_runtime.protocol.turn import Turn

_STATE: Final[Table] = {"_unclaimed_id": Maybe(Text())}
_RESPONSE: Final[Table] = {"ref": Count(1), "id": Text(), "has_video": Flag()}


class Drive(Generic[W]):
    """The turns of the client's audio, each of which is one response."""

    announces_itself: Final = False
    forwards: Final = False
    can_repeat: Final = True
    can_receive: Final = True
    has_open_audio: Final = False  # an open turn is one of the speech

    def __init__(self, parts: SessionParts[W]) -> None:
        self.speech: Speech[W] = Speech(parts, self)
        self._suffix = parts.suffix
        self._fps = parts.fps
        self._outbox = parts.outbox
        self._conversation = parts.conversation
        self._input: InputBuffer[W] = InputBuffer(
            parts.suffix, parts.fps, parts.outbox, parts.conversation, parts.open_utterance
        )
        self._intake = AudioIntake(self._input, parts.outbox, self, parts.open_detector)
        self._spoken: Response[W] | None = None
        self._last_item: Item | None = None  # of the assistant
        self._unclaimed_id: str | None = None  # a finished response that no create has asked for

    @property
    def config(self) -> SessionConfig:
        """The current configuration."""
        return self.speech.config

    # Events of the client

    def describe(self, session: dict[str, object]) -> dict[str, object]:
        """Return the session object as it is."""
        return session

    def forward(self, session: Mapping[str, object], event_id: str | None) -> bool:
        """Return false: the configuration is all that this mode has."""
        return False

    def configure(self, config: SessionConfig, now: float) -> None:
        """Apply a new configuration; audio of an open turn stays in it."""
        before = self.speech.config
        self.speech.configure(config, now)
        self._intake.reconfigure(before, now)

    def handle(
        self,
        event: client_events.ClientEvent,
        fields: StrictFields,
        event_id: str | None,
        now: float,
    ) -> None:
        """Handle an event of the client.

        Raises:
            ProtocolError: the event cannot be accepted; nothing changes.
        """
        match event:
            case client_events.AppendAudio():
                self._intake.append(event.audio, now, event_id)
            case client_events.Commit():
                self._intake.commit(now)
            case client_events.ClearInput():
                self._clear_input()
            case client_events.ClearOutput():
                self.speech.clear_output(now)
            case client_events.CreateItem():
                message = "conversation.item.create has no effect in mode drive"
                self._outbox.warn("unsupported_in_mode", message, param="type", event_id=event_id)
            case client_events.RetrieveItem():
                self._conversation.retrieve(event.item_id)
            case client_events.DeleteItem():
                self._conversation.delete(event.item_id)
            case client_events.TruncateItem():
                self._truncate(event.item_id, event.audio_end_ms, now)
            case client_events.CreateResponse():
                self._create_response(ResponseRequest(event_id, event.metadata), now)
                for param in event.ignored:
                    message = f"{param} has no effect"
                    self._outbox.warn("no_effect", message, param=param, event_id=event_id)
            case client_events.CancelResponse():
                self.speech.cancel(event.response_id, now)
            case _:
                pass  # the session handles the others itself

    def listen(self, now: float) -> bool:
        """Handle the next part of the audio that was appended, and return whether more waits.

        Raises:
            ProtocolError: too many turns wait.
        """
        return self._intake.listen(now, is_busy=self.speech.is_busy)

    # What the intake of audio asks

    def on_audio(self) -> None:
        """Forget the finished response that answered the audio before."""
        self._unclaimed_id = None

    def start_next(self, now: float) -> None:
        """Start the response of the oldest turn, if it may start."""
        self.speech.start_next(now)

    def interrupt(self, now: float) -> None:
        """Cancel what is spoken, if the configuration lets new speech of the client do that."""
        detection = self.config.turn_detection
        if detection is not None and detection.interrupt_response:
            self.speech.interrupt(now)

    # What the speech asks

    @property
    def is_empty(self) -> bool:
        """Whether no turn waits or is spoken."""
        return self._input.oldest is None

    def start(self, source_frame: int, now: float) -> Response[W] | None:
        """Start the response of the oldest turn, or return `None` if it may not start."""
        turn = self._input.oldest
        if turn is None or (self.config.waits_for_request and turn.request is None):
            return None
        if self.config.start is StartTrigger.COMMIT:
            if turn.accepts_audio:
                return None
            turn.clock.restart(now)  # nothing of it is late before
        if turn.accepts_audio:
            self._input.announce()
        turn.start(source_frame, now)
        ref, suffix = self.speech.next_ref(), self._suffix
        self._last_item = Item(f"item_{suffix}_a{ref}", "assistant", "in_progress")
        self._spoken = Response(
            turn,
            ref,
            f"resp_{suffix}_{ref}",
            f"conv_{suffix}",
            self._last_item,
            self._fps,
            self._outbox,
            turn.request.metadata if turn.request else None,
            has_video=self.config.has_video,
        )
        return self._spoken

    def closes(self, response: ActiveResponse[W]) -> None:
        """Give up the item of an utterance whose response ends while it is still open."""
        if response.turn.accepts_audio and not self._intake.is_speech:
            self._input.abandon()

    def ended(self, response: ActiveResponse[W], step: Step, now: float) -> None:
        """Remove the turn of a response that has ended."""
        turn, spoken = response.turn, self._spoken
        self._input.remove(turn)
        self._spoken = None
        self._intake.arm()
        is_finished = step is Step.FINISH and turn.request is None
        is_unclaimed = is_finished and self._input.is_newest(turn)
        self._unclaimed_id = response.id if is_unclaimed else None
        if spoken is not None and spoken.late_metadata is not None:
            self._answer(spoken.late_metadata, turn.format, turn.phase)

    def cut_off(self, response_id: str, played_ms: int) -> None:
        """Do nothing: the client knows what it has played of its own audio."""

    # Moving

    def check_movable(self) -> None:
        """Check that the session can move to another pod.

        Raises:
            ProtocolError: it cannot as it is now.
        """
        self.speech.check_movable()

    def export(self, now: float) -> dict[str, object]:
        """Return the state as plain values.

        Raises:
            ProtocolError: the session cannot move as it is now.
        """
        return {
            **document_fields.export(self, _STATE),
            "speech": self.speech.export(now),
            "input": self._input.export(now),
            "intake": self._intake.export(),
            "response": None if self._spoken is None else self._export_response(self._spoken),
            "last_item": export_item(self._last_item),
        }

    def restore(self, fields: StrictFields, now: float) -> None:
        """Continue from what another session has exported.

        Raises:
            ProtocolError: a field is missing or wrong.
        """
        document_fields.restore(self, fields, _STATE)
        response = document_fields.optional(fields, "response")
        is_spoken = response is not None
        self._input.restore(fields.nested("input"), is_spoken=is_spoken, now=now)
        self._intake.restore(fields.nested("intake"))
        self._last_item = self._conversation.restore_item(fields, "last_item")
        turn = self._input.oldest
        if response is not None and turn is not None:
            self._spoken = self._read_response(response, turn)
        self.speech.restore(fields.nested("speech"), self._spoken, now)

    def _export_response(self, spoken: Response[W]) -> dict[str, object]:
        metadata = None if spoken.metadata is None else dict(spoken.metadata)
        item = export_item(spoken.item)
        return {**document_fields.export(spoken, _RESPONSE), "metadata": metadata, "item": item}

    def _read_response(self, fields: StrictFields, turn: Turn[W]) -> Response[W]:
        item = self._conversation.restore_item(fields, "item")
        document_fields.check(item is not None, fields, "item", "must be an item")
        assert item is not None
        if self._last_item is not None and self._last_item.id == item.id:
            self._last_item = item  # the conversation may have forgotten it
        has_metadata = fields.value("metadata") is not None
        return Response(
            turn,
            **document_fields.read(fields, _RESPONSE),
            conversation_id=f"conv_{self._suffix}",
            item=item,
            fps=self._fps,
            outbox=self._outbox,
            metadata=client_events.read_metadata(fields) if has_metadata else None,
        )

    # Details

    def _clear_input(self) -> None:
        """Discard the turns whose response has not started."""
        is_spoken = self._spoken is not None and self._spoken.turn.accepts_audio
        self._intake.clear(keeps_speech=is_spoken)

    def _create_response(self, request: ResponseRequest, now: float) -> None:
        """Start the response of the oldest turn that is not requested, or answer for it.

        Raises:
            ProtocolError: there is no new audio to speak.
        """
        needs_commit = self.config.start is StartTrigger.RESPONSE_CREATE
        turn = self._input.unrequested(committed=needs_commit)
        if turn is not None:
            turn.request = request
            if self.config.waits_for_request and not turn.is_started:
                turn.clock.restart(now)  # its frames are late from now on, and not before
            self.speech.start_next(now)
        elif self._unclaimed_id is not None and request.metadata is not None:
            self._unclaimed_id = None
            self._answer(request.metadata, self.config.format, Phase.COMPLETED)
        elif self._unclaimed_id is not None:
            message = f"{self._unclaimed_id} has spoken this audio; there is no other response"
            self._unclaimed_id = None
            self._outbox.warn("already_answered", message, param="type", event_id=request.event_id)
        else:
            message = "response.create found no new audio to speak"
            raise ProtocolError("no_input_audio", message, param="type")

    def _truncate(self, item_id: str, audio_end_ms: int, now: float) -> None:
        """End the audio of an item; cancel its response first if it is active.

        Raises:
            ProtocolError: the item does not exist, is the user's, or has less audio.
        """
        item = self._conversation.get(item_id)
        self._conversation.check_truncation(item, audio_end_ms)
        if self._spoken is not None and self._spoken.item is item:
            self.speech.end(Step.CANCEL, now)
        if item is self._last_item:
            self.speech.discard_unplayed(now)  # the client has stopped playing it
        self._conversation.truncate(item, audio_end_ms)
        self.speech.start_next(now)

    def _answer(self, metadata: Mapping[str, str], audio: AudioFormat, phase: Phase) -> None:
        """Answer a `response.create` whose audio another response has spoken."""
        ref, suffix = self.speech.next_ref(), self._suffix
        empty = EmptyResponse(f"resp_{suffix}_{ref}", ref, f"conv_{suffix}", audio, metadata, phase)
        empty.announce(self._outbox, self.speech.epoch)
