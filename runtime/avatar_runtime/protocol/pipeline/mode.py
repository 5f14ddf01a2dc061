"""Mode speech: the avatar speaks text, or answers the caller through endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic

from avatar_runtime.errors import ProtocolError
from avatar_runtime.protocol import client_events, document_fields
from avatar_runtime.protocol.audio_intake import AudioIntake
from avatar_runtime.protocol.conversation import Item
from avatar_runtime.protocol.document_fields import Count, Flag, Table
from avatar_runtime.protocol.media import W
from avatar_runtime.protocol.pipeline import client_items
from avatar_runtime.protocol.pipeline.dialogue import Dialogue
from avatar_runtime.protocol.pipeline.heard_audio import HeardAudio, add_item

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_runtime.protocol.pipeline.client_items import ResponseInput
    from avatar_runtime.protocol.pipeline.dialogue import PipelineOptions
    from avatar_runtime.protocol.pipeline.heard_audio import Heard
    from avatar_runtime.protocol.session_config import SessionConfig
    from avatar_runtime.protocol.session_parts import SessionParts
    from avatar_runtime.protocol.speech import Speech
    from avatar_runtime.protocol.strict_fields import StrictFields

_STATE: Final[Table] = {"_messages": Count(), "_has_warned": Flag()}


class Pipeline(Generic[W]):
    """The conversation of a session.

    After each change of the session its caller starts the requests that `dialogue.take_requests`
    returns, and ends those that are not wanted any more (`dialogue.is_wanted`). It passes on what
    the endpoints bring by the `receive` methods of `dialogue`.
    """

    announces_itself: Final = False
    forwards: Final = False
    can_repeat: Final = False
    can_receive: Final = True

    def __init__(self, parts: SessionParts[W], options: PipelineOptions) -> None:
        self._suffix = parts.suffix
        self._options = options
        self._outbox = parts.outbox
        self._conversation = parts.conversation
        self.dialogue: Dialogue[W] = Dialogue(parts, options, self._arm)
        self._heard = HeardAudio(parts.suffix, parts.outbox, parts.conversation, self)
        self._intake = AudioIntake(self._heard, parts.outbox, self, parts.open_detector)
        self._messages = 0
        self._has_warned = False

    # What the session asks

    @property
    def speech(self) -> Speech[W]:
        """What the avatar says."""
        return self.dialogue.answers.speech

    @property
    def has_open_audio(self) -> bool:
        """Whether an utterance has not ended."""
        return self._heard.is_open

    @property
    def config(self) -> SessionConfig:
        """The current configuration."""
        return self.speech.config

    def describe(self, session: dict[str, object]) -> dict[str, object]:
        """Return the session object for the client."""
        return session

    def configure(self, config: SessionConfig, now: float) -> None:
        """Apply a configuration that the client has changed."""
        before = self.speech.config
        self.speech.configure(config, now)
        self._intake.reconfigure(before, now)

    def forward(self, session: Mapping[str, object], event_id: str | None) -> bool:
        """Return false: there is no session of an upstream."""
        return False

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
        answers = self.dialogue.answers
        match event:
            case client_events.AppendAudio():
                self._append(event.audio, event_id, now)
            case client_events.Commit():
                self._intake.commit(now)
            case client_events.ClearInput():
                self._intake.clear(keeps_speech=False)
            case client_events.ClearOutput():
                answers.clear_output(now)
            case client_events.CreateItem():
                self._create_item(fields)
            case client_events.RetrieveItem():
                self._conversation.retrieve(event.item_id)
            case client_events.DeleteItem():
                self._conversation.delete(event.item_id)
                self.dialogue.history.remove(event.item_id)
            case client_events.TruncateItem():
                self.dialogue.truncate(event.item_id, event.audio_end_ms, now)
            case client_events.CreateResponse():
                self._create_response(fields, event, event_id, now)
            case client_events.CancelResponse():
                answers.cancel(event.response_id, now)
            case _:
                pass  # the session handles the others itself

    def listen(self, now: float) -> bool:
        """Handle the next part of the audio that was appended, and return whether more waits.

        Raises:
            ProtocolError: too many answers or utterances wait.
        """
        return self._intake.listen(now, is_busy=self.speech.is_busy)

    def check_movable(self) -> None:
        """Check that the session can move to another pod.

        Raises:
            ProtocolError: requests to the endpoints are under way, or a reply is played.
        """
        self.dialogue.check_movable()

    def export(self, now: float) -> dict[str, object]:
        """Return the state as plain values.

        Raises:
            ProtocolError: requests to the endpoints are under way, or a reply is played.
        """
        return {
            **document_fields.export(self, _STATE),
            "dialogue": self.dialogue.export(now),
            "heard": self._heard.export(now),
            "intake": self._intake.export(),
        }

    def restore(self, fields: StrictFields, now: float) -> None:
        """Continue from what another session has exported.

        Raises:
            ProtocolError: a field is missing or wrong.
        """
        document_fields.restore(self, fields, _STATE)
        self.dialogue.restore(fields.nested("dialogue"), now)
        self._heard.restore(fields.nested("heard"), now)
        self._intake.restore(fields.nested("intake"))

    # What the intake of audio asks

    def on_audio(self) -> None:
        """Do nothing: a reply starts at the end of the utterance."""

    def start_next(self, now: float) -> None:
        """Do nothing: a reply starts at the end of the utterance."""

    def interrupt(self, now: float) -> None:
        """End all replies, if the configuration lets new speech of the caller do that."""
        detection = self.config.turn_detection
        if detection is not None and detection.interrupt_response:
            self.dialogue.answers.interrupt(now)

    # What the utterances ask

    def check_room(self) -> None:
        """Check that an utterance can be heard and answered.

        Raises:
            ProtocolError: too many utterances or answers wait.
        """
        self.dialogue.check_hearing()
        if self._answers_utterances:
            self.dialogue.answers.check_open()

    def on_heard(self, heard: Heard, now: float) -> None:
        """Ask for the text of an utterance, and answer it unless the client asks for that."""
        self.dialogue.hear(heard)
        if self._answers_utterances:
            self._reply(None, None, now)

    # Details

    @property
    def _answers_utterances(self) -> bool:
        detection = self.config.turn_detection
        return detection is not None and detection.create_response

    def _arm(self) -> None:
        self._intake.arm()

    def _append(self, audio: bytes, event_id: str | None, now: float) -> None:
        if self._options.has_transcription:
            self._intake.append(audio, now, event_id)
        elif not self._has_warned:
            self._has_warned = True
            message = "audio has no effect: the service has no transcription endpoint"
            self._outbox.warn("unsupported_in_mode", message, param="audio", event_id=event_id)

    def _create_item(self, fields: StrictFields) -> None:
        described = fields.nested("item")
        message = client_items.parse_item(described)
        item_id = message.id
        if item_id is None:
            self._messages += 1
            item_id = f"item_{self._suffix}_t{self._messages}"
        elif item_id.startswith(own := f"item_{self._suffix}_"):
            raise described.invalid("id", f"must not start with {own}, as those of the session do")
        if self._conversation.find(item_id) is not None:
            raise described.invalid("id", "the conversation has an item with this id")
        item = Item(item_id, message.role, "completed", text=message.text)
        add_item(self._conversation, self._outbox, item)
        self.dialogue.add_message(item_id, message.role, message.text)

    def _create_response(
        self,
        fields: StrictFields,
        event: client_events.CreateResponse,
        event_id: str | None,
        now: float,
    ) -> None:
        request = client_items.parse_response(fields)
        is_own = bool(request.instructions) or request.messages is not None
        if not is_own and not self.dialogue.has_question:
            message = "response.create found no text to answer"
            raise ProtocolError("no_input_text", message, param="type")
        self._reply(request, event.metadata, now)
        for param in event.ignored:
            if param not in client_items.SERVED:
                message = f"{param} has no effect"
                self._outbox.warn("no_effect", message, param=param, event_id=event_id)

    def _reply(
        self, request: ResponseInput | None, metadata: Mapping[str, str] | None, now: float
    ) -> None:
        instructions = self.config.stored.get("instructions")
        voice = self.config.stored_output.get("voice")
        self.dialogue.reply(
            request,
            metadata,
            instructions if isinstance(instructions, str) else "",
            voice if isinstance(voice, str) else "",
            now,
        )
