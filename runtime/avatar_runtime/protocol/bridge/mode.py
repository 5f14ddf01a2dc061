"""Mode bridge: the client speaks to an upstream Realtime endpoint, whose answers the avatar speaks.

This is the side of the client; the other one is `UpstreamSide`.
"""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Final, Generic

from avatar_runtime.protocol import client_events, wav_header
from avatar_runtime.protocol.bridge import upstream_events, upstream_session
from avatar_runtime.protocol.bridge.truncation import check_end
from avatar_runtime.protocol.bridge.upstream_side import UpstreamSide
from avatar_runtime.protocol.media import W
from avatar_runtime.protocol.speech import not_movable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_runtime.protocol.answer import Answer
    from avatar_runtime.protocol.bridge.upstream_side import BridgeOptions
    from avatar_runtime.protocol.session_config import SessionConfig
    from avatar_runtime.protocol.session_parts import SessionParts
    from avatar_runtime.protocol.strict_fields import StrictFields

_STAYS: Final = "its conversation is in the connection of this pod to the upstream"


class Bridge(Generic[W]):
    """The mode of a session whose answers come from an upstream."""

    forwards: Final = True
    can_repeat: Final = False
    announces_itself: Final = True

    def __init__(self, parts: SessionParts[W], options: BridgeOptions, now: float) -> None:
        self.upstream: UpstreamSide[W] = UpstreamSide(parts, options, now)
        """The side of the upstream, which a shell reads and writes."""
        self.speech = self.upstream.answers.speech
        self._answers = self.upstream.answers
        self._outbox = parts.outbox
        self._before = parts.config

    # The client

    @property
    def has_open_audio(self) -> bool:
        """Return false: the upstream hears the audio as it arrives."""
        return False

    @property
    def can_receive(self) -> bool:
        """Whether the upstream takes the events of the client in time."""
        return not self.upstream.requests.is_full

    def describe(self, session: dict[str, object]) -> dict[str, object]:
        """Return the session object for the client."""
        return upstream_session.merged(session, self.upstream.settings.upstream)

    def check_movable(self) -> None:
        """Refuse: the conversation is in the connection to the upstream.

        Raises:
            ProtocolError: always.
        """
        raise not_movable(_STAYS)

    def export(self, now: float) -> dict[str, object]:
        """Refuse, as `check_movable` does.

        Raises:
            ProtocolError: always.
        """
        raise not_movable(_STAYS)

    def restore(self, fields: StrictFields, now: float) -> None:
        """Refuse, as `export` does.

        Raises:
            ProtocolError: always.
        """
        raise not_movable("a session in mode bridge has no document")

    def configure(self, config: SessionConfig, now: float) -> None:
        """Apply a configuration that the client has changed."""
        self._before = self.speech.config
        self.speech.configure(config, now)
        if config.format != self._before.format:
            self.upstream.set_formats(config)

    def forward(self, session: Mapping[str, object], event_id: str | None) -> bool:
        """Ask the upstream for the changes of a `session.update`; false if none concerns it.

        Before `session.created`, an update that does not concern it waits for that event, too.
        """
        changes = upstream_session.changes(
            session, self.speech.config, self.upstream.formats.describe()
        )
        if not changes and self.upstream.link.connections:
            return False
        if changes and self.upstream.link.is_open:
            self.upstream.settings.ask(changes, self._before, event_id)
        else:
            self.upstream.settings.owe(event_id)
        return True

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
                self._append(event.audio, event_id)
            case client_events.Commit():
                self._send_audio(self.upstream.input.finish(), None)
                self.upstream.input = self.upstream.formats.to_upstream()
                self.upstream.turn_ended_at = now
                self._forward(fields, event_id)
            case client_events.ClearInput():
                self.upstream.input = self.upstream.formats.to_upstream()
                self._forward(fields, event_id)
            case client_events.CreateResponse():
                self.upstream.turn_ended_at = now
                self._create_response(fields, event_id)
            case client_events.CancelResponse():
                self._cancel(event.response_id, fields, event_id, now)
            case client_events.ClearOutput():
                self._answers.clear_output(now)
            case client_events.TruncateItem():
                self._truncate(event, fields, event_id, now)
            case _:
                self._forward(fields, event_id)

    def listen(self, now: float) -> bool:
        """Return false: the upstream finds the speech in the audio."""
        return False

    # Events of the client

    def _append(self, audio: bytes, event_id: str | None) -> None:
        header = wav_header.describe(audio)
        if header is not None:
            message = f"audio starts with the header of a WAV file ({header}); send samples alone"
            self._outbox.warn("wav_header", message, param="audio", event_id=event_id)
        self._send_audio(self.upstream.input.add(audio), event_id)

    def _send_audio(self, audio: bytes, event_id: str | None) -> None:
        if audio:
            fields = {"audio": b64encode(audio).decode("ascii")}
            self.upstream.requests.forward("input_audio_buffer.append", fields, event_id)

    def _forward(self, fields: StrictFields, event_id: str | None) -> None:
        body = upstream_events.body(dict(fields.document))
        self.upstream.requests.forward(fields.text("type"), body, event_id)

    def _create_response(self, fields: StrictFields, event_id: str | None) -> None:
        """Forward a `response.create`; the format of the audio is that of the session."""
        body = upstream_events.body(dict(fields.document))
        response = body.get("response")
        audio = response.get("audio") if isinstance(response, dict) else None
        output = audio.get("output") if isinstance(audio, dict) else None
        if isinstance(response, dict) and isinstance(output, dict) and "format" in output:
            output = {**output, "format": self.upstream.formats.describe()["output"]}
            body["response"] = {**response, "audio": {"output": output}}
        self.upstream.requests.forward("response.create", body, event_id)

    def _cancel(
        self, response_id: str | None, fields: StrictFields, event_id: str | None, now: float
    ) -> None:
        """End an answer, or let the upstream answer for one that has not begun to arrive."""
        is_known = not self._answers.is_empty and response_id is None
        if is_known or (response_id is not None and self._answers.find(response_id) is not None):
            self._answers.cancel(response_id, now)
        else:
            self._forward(fields, event_id)

    def _truncate(
        self,
        event: client_events.TruncateItem,
        fields: StrictFields,
        event_id: str | None,
        now: float,
    ) -> None:
        item_id, end_ms = event.item_id, event.audio_end_ms
        answer = self._answer_with(item_id)
        if answer is None and not self.upstream.items.knows(item_id):
            self._forward(fields, event_id)
            return
        if answer is not None:
            sent = answer.audio.durations(answer.turn.samples_sent)
            check_end(end_ms, sum(ms for part, ms in sent.items() if part.item_id == item_id))
            self.upstream.client_end_ms[item_id] = end_ms
            try:
                self._answers.cancel(answer.id, now)
            finally:
                self.upstream.client_end_ms.clear()
        else:
            self.upstream.items.check(item_id, end_ms)
            if self.upstream.link.is_open and self.upstream.items.truncate(item_id, end_ms):
                self.upstream.requests.send(
                    "conversation.item.truncate",
                    {"item_id": item_id, "content_index": 0, "audio_end_ms": end_ms},
                )
        if item_id in self.upstream.last_items and not self.speech.is_active:
            self.speech.discard_unplayed(now)  # the client has stopped playing it
        truncated = {"item_id": item_id, "content_index": 0, "audio_end_ms": end_ms}
        self._outbox.add("conversation.item.truncated", truncated)

    def _answer_with(self, item_id: str) -> Answer[W] | None:
        """Return the answer that speaks an item now."""
        answer = self._answers.first
        if answer is None:
            return None
        parts = answer.audio.durations(answer.turn.samples_sent)
        return answer if any(part.item_id == item_id for part in parts) else None

    # Details
