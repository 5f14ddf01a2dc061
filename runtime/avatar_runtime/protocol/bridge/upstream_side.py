"""What the upstream of a session is sent and sends.

It has no socket. Its shell connects at `link.connects_at`, sends what `pull` returns, and passes
what comes to `receive`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic

from avatar_runtime.errors import ProtocolError
from avatar_runtime.protocol import client_events
from avatar_runtime.protocol.answers import Answers
from avatar_runtime.protocol.bridge import beta, upstream_events, upstream_session
from avatar_runtime.protocol.bridge.link_state import Link, LinkState, UpstreamFault
from avatar_runtime.protocol.bridge.relay import ResponseRelay
from avatar_runtime.protocol.bridge.requests import Requests
from avatar_runtime.protocol.bridge.settings_exchange import SettingsExchange
from avatar_runtime.protocol.bridge.truncation import SpokenItems
from avatar_runtime.protocol.bridge.upstream_audio import Formats
from avatar_runtime.protocol.bridge.upstream_events import Route
from avatar_runtime.protocol.media import W
from avatar_runtime.protocol.rate_limit import RateLimiter
from avatar_runtime.protocol.turn import Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from avatar_runtime.protocol.answer import Answer
    from avatar_runtime.protocol.answer_audio import Cut
    from avatar_runtime.protocol.bridge.upstream_audio import OpenConverter
    from avatar_runtime.protocol.bridge.upstream_events import Document
    from avatar_runtime.protocol.session_config import SessionConfig
    from avatar_runtime.protocol.session_parts import SessionParts

UPSTREAM_LOST: Final = 4502
"""Close code: there is no upstream any more."""
MAX_INVALID_PER_10_S: Final = 100
_MAX_MESSAGE: Final = 1024  # characters of an error of the upstream
_MAX_NAME: Final = 64


@dataclass(frozen=True, slots=True)
class BridgeOptions:
    """What a bridge knows of its upstream."""

    open_converter: OpenConverter
    """Opens a converter from one sample rate of PCM to another."""
    is_beta: bool = False
    """Whether the upstream uses the names of the beta interface."""
    input_rate: int = 24000
    """Sample rate of the PCM that the upstream hears."""
    output_rate: int = 24000
    """Sample rate of the PCM that the upstream speaks."""


class UpstreamSide(Generic[W]):
    """The connection of a session to its upstream, and the answers that come from it."""

    def __init__(self, parts: SessionParts[W], options: BridgeOptions, now: float) -> None:
        self.answers: Answers[W] = Answers(parts, self)
        self.link = Link(now)
        self.requests = Requests(parts.suffix, is_beta=options.is_beta)
        self.settings = SettingsExchange(self.requests)
        self.items = SpokenItems()
        self.client_end_ms: dict[str, int] = {}
        """The end of the item that the client truncates now, milliseconds."""
        self.last_items: frozenset[str] = frozenset()
        """The items of the answer that has ended last: the client may still play them."""
        self.turn_ended_at: float | None = None
        """When the last turn of the user ended, until its answer starts, monotonic seconds."""
        self._parts = parts
        self._options = options
        self._outbox = parts.outbox
        self._relay: ResponseRelay[W] = ResponseRelay(
            self.answers,
            f"conv_{parts.suffix}",
            lambda: self.formats.from_upstream(),
            self._measure,
        )
        self.set_formats(parts.config)
        self._invalid = RateLimiter(MAX_INVALID_PER_10_S, 10.0)
        self._latencies_s: list[float] = []
        self._cuts: dict[str, Document] | None = None  # by item, during an interruption
        self._is_outage_told = False

    def set_formats(self, config: SessionConfig) -> None:
        """Convert audio for the format of a configuration from now on."""
        options = self._options
        self.formats = Formats(
            config.format, options.input_rate, options.output_rate, options.open_converter
        )
        self.input = self.formats.to_upstream()
        """The audio of the user on its way to the upstream."""

    # The answers

    def on_end(self, answer: Answer[W], step: Step, now: float) -> None:
        """Stop the upstream, if it still generates an answer that has ended."""
        self._relay.forget(answer)
        spoken = answer.audio.durations(answer.turn.samples_sent)
        self.items.add(spoken)
        self.last_items = frozenset(part.item_id for part in spoken)
        if step in (Step.CANCEL, Step.FAIL) and answer.done is None and self.link.is_open:
            self.requests.send("response.cancel", {"response_id": answer.id})

    def on_cut(self, response_id: str, cuts: Sequence[Cut]) -> None:
        """Tell the upstream how much the client has played."""
        for cut in cuts:
            item_id = cut.part.item_id
            end_ms = self.client_end_ms.get(item_id, cut.audio_end_ms)
            fields: Document = {
                "item_id": item_id,
                "content_index": cut.part.content_index,
                "audio_end_ms": end_ms,
            }
            if self.link.is_open and self.items.truncate(item_id, end_ms):
                self.requests.send("conversation.item.truncate", fields)
            if self._cuts is not None:
                self._cuts.setdefault(item_id, fields)

    # The upstream

    @property
    def can_receive(self) -> bool:
        """Whether the client takes the events of the upstream in time."""
        return self._outbox.characters < upstream_events.MAX_MESSAGE_BYTES

    def pull(self) -> str | None:
        """Return the next message for the upstream, or `None`."""
        return self.requests.pull() if self.link.is_open else None

    def receive(self, text: str, now: float) -> UpstreamFault | None:
        """Handle a message of the upstream, and return a fault that ends the connection."""
        try:
            event = upstream_events.load(text)
            for translated in beta.from_beta(event) if self._options.is_beta else [event]:
                self._receive(translated, now)
        except ProtocolError as error:
            if not self._invalid.admits(now):
                message = f"the upstream sent {MAX_INVALID_PER_10_S} invalid events: {error}"
                return UpstreamFault("upstream_unavailable", message[:_MAX_MESSAGE])
        return None

    def take_latencies(self) -> list[float]:
        """Return the new times from the end of a turn to the first audio, seconds."""
        taken, self._latencies_s = self._latencies_s, []
        return taken

    def lose(self, fault: UpstreamFault, now: float, chance: float) -> None:
        """Handle the end of a connection or of a try; `chance` is a random number from 0 to 1."""
        if self.link.is_closed:
            return
        self.link.lost(fault, now, chance)
        is_last = self.link.is_closed
        if not self._is_outage_told or is_last:
            self._is_outage_told = True
            self._report_error(fault.code, fault.message)
        for answer in self._relay.unfinished:
            self.answers.fail(answer, {"type": "server_error", "code": fault.code}, now)
        self.requests.clear()
        self.settings.disconnect()
        self.items.disconnect()
        self.input = self.formats.to_upstream()
        self.turn_ended_at = None
        if is_last:
            self._parts.end(UPSTREAM_LOST, fault.code, now)

    # Events of the upstream

    def _receive(self, event: Document, now: float) -> None:
        route = upstream_events.route(event)
        kind, fields = str(event.get("type")), upstream_events.body(event)
        match route:
            case Route.SESSION:
                self._receive_session(kind, fields, now)
            case _ if not self.link.is_open and route is not Route.ERROR:
                pass  # a session starts with session.created
            case Route.ERROR:
                self._receive_error(fields)
            case Route.RESPONSE:
                self._relay_response(kind, fields, now)
            case Route.ITEM:
                if not self._relay.receive_item(kind, fields, now):
                    self._outbox.add(kind, fields)
            case Route.DIRECT:
                self._receive_direct(kind, fields, now)
            case None:
                pass

    def _receive_session(self, kind: str, fields: Document, now: float) -> None:
        session = fields["session"]
        assert isinstance(session, dict)
        if kind == "session.updated":
            for _ in range(self.settings.answered(session)):
                self._parts.report("session.updated")
            return
        if self.link.state is not LinkState.GREETING:
            return
        self.link.greeted(now)
        self.settings.learn(session)
        self._is_outage_told = False
        if self.link.connections == 1:
            self._parts.report("session.created")
        else:
            message = "the upstream was connected again; it does not know the conversation so far"
            self._outbox.warn("upstream_reconnected", message)
        self.settings.greet(self.answers.speech.config, self.formats.describe())

    def _receive_direct(self, kind: str, fields: Document, now: float) -> None:
        if kind == "conversation.item.truncated" and self.items.is_awaited(str(fields["item_id"])):
            return
        self._outbox.add(kind, fields)
        is_committed = kind == "input_audio_buffer.committed" and self.turn_ended_at is None
        if kind == "input_audio_buffer.speech_stopped" or is_committed:
            self.turn_ended_at = now
        elif kind == "input_audio_buffer.speech_started":
            self._interrupt(now)

    def _interrupt(self, now: float) -> None:
        if not upstream_session.interrupts(self.settings.upstream):
            return
        cuts: dict[str, Document] = {}
        self._cuts = cuts
        self.answers.interrupt(now)
        self._cuts = None
        for cut in cuts.values():
            self._outbox.add("conversation.item.truncated", cut)

    def _relay_response(self, kind: str, fields: Document, now: float) -> None:
        try:
            self._relay.receive(kind, fields, now)
        except ProtocolError as error:
            self._report_error(error.code, f"an answer of the upstream has failed: {error}")
            response = fields.get("response_id", upstream_events.identifier(fields.get("response")))
            answer = self.answers.find(str(response))
            if answer is not None:
                self.answers.fail(answer, {"type": "server_error", "code": error.code}, now)
            else:
                self.requests.send("response.cancel", {"response_id": response})

    def _receive_error(self, fields: Document) -> None:
        error = fields["error"]
        assert isinstance(error, dict)
        event_id, code = error.get("event_id"), error.get("code")
        refused = self.settings.refused(event_id, self.answers.speech.config)
        if refused is not None:
            before = self.answers.speech.config
            self.answers.speech.config, event_id = refused
            if self.answers.speech.config.format != before.format:
                self.set_formats(self.answers.speech.config)
        elif self.requests.is_own(event_id):
            return  # the response had ended, or the item was shorter
        shown = {
            "type": _cut(error.get("type"), _MAX_NAME) or "server_error",
            "code": _cut(code, _MAX_NAME),
            "message": _cut(error.get("message"), _MAX_MESSAGE) or "the upstream gives no reason",
            "param": _cut(error.get("param"), 4 * _MAX_NAME),
            "event_id": _cut(event_id, client_events.MAX_EVENT_ID_CHARACTERS),
            "value": None,
            "limit": None,
        }
        self._outbox.add("error", {"error": shown})

    # Details

    def _measure(self, now: float) -> None:
        if self.turn_ended_at is not None:
            self._latencies_s.append(now - self.turn_ended_at)
            self.turn_ended_at = None

    def _report_error(self, code: str, message: str) -> None:
        error = {
            "type": "server_error",
            "code": code,
            "message": message,
            "param": None,
            "event_id": None,
            "value": None,
            "limit": None,
        }
        self._outbox.add("error", {"error": error})


def _cut(value: object, characters: int) -> str | None:
    return value[:characters] if isinstance(value, str) else None
