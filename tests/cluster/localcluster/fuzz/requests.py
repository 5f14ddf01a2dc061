"""Which event answers which request, and whether each request got its answer."""

from __future__ import annotations

import json
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from localcluster.fuzz import binary
from localcluster.fuzz.violation import Violation, require

if TYPE_CHECKING:
    from collections.abc import Mapping

ANSWERS: Final[Mapping[str, str | None]] = {
    "session.update": "session.updated",
    "input_audio_buffer.append": None,
    "input_audio_buffer.commit": "input_audio_buffer.committed",
    "input_audio_buffer.clear": "input_audio_buffer.cleared",
    "output_audio_buffer.clear": "output_audio_buffer.cleared",
    "conversation.item.create": "warning",
    "conversation.item.retrieve": "conversation.item.retrieved",
    "conversation.item.delete": "conversation.item.deleted",
    "conversation.item.truncate": "conversation.item.truncated",
    "response.create": None,
    "response.cancel": "response.done",
    "output_video_buffer.ack": None,
    "output_video_buffer.request_keyframe": None,
}
"""The event that answers each event of a client in drive mode, in the order of the requests.

An `error` with the `event_id` of the request is always an answer, and the only one to an event
that is not in the table. `None` has no other answer; a `response.create` is answered by a response
with its metadata, or by a `warning`, later.
"""
ENDS_OUTPUT: Final = ("response.cancel", "output_audio_buffer.clear", "conversation.item.truncate")
"""Events that cancel the active response."""
_NO_RESPONSE: Final = frozenset({"already_answered", "no_input_audio"})
"""Warnings that answer a `response.create`."""
MAX_EVENT_ID: Final = 512
_ERROR_ONLY: Final = "error"


@dataclass(frozen=True, slots=True)
class Rules:
    """What a mode answers."""

    answers: Mapping[str, str | None]
    """As in `DRIVE`."""
    may_be_empty: bool
    """Whether a cancelled response may have no output yet."""

    @property
    def solicited(self) -> frozenset[str]:
        """The events that only a request can cause."""
        return frozenset(filter(None, self.answers.values())) - {"warning", "response.done"}


DRIVE: Final = Rules(ANSWERS, may_be_empty=False)
SPEECH: Final = Rules(
    {**ANSWERS, "conversation.item.create": "conversation.item.added"}, may_be_empty=True
)


@dataclass(slots=True)
class Request:
    """One message of the client that has no answer yet."""

    event_id: str | None
    kind: str
    answer: str | None
    is_optional: bool = False
    """Whether there may be no answer."""


@dataclass(slots=True)
class _Creates:
    """The `response.create` events that no response has answered yet."""

    by_id: dict[str, str] = field(default_factory=dict)
    waiting: Counter[str] = field(default_factory=Counter)
    """By metadata as JSON."""

    def add(self, event_id: str | None, metadata: str) -> None:
        self.waiting[metadata] += 1
        if event_id is not None:
            self.by_id[event_id] = metadata

    def remove(self, event_id: str | None) -> bool:
        metadata = self.by_id.pop(event_id or "", None)
        if metadata is not None:
            self.answer(metadata)
        return metadata is not None

    def answer(self, metadata: str) -> bool:
        if not self.waiting[metadata]:
            return False
        self.waiting[metadata] -= 1
        return True


class RequestCheck:
    """Pairs the answers of a session with the requests of its client."""

    def __init__(self, rules: Rules = DRIVE) -> None:
        self._rules = rules
        self._solicited = rules.solicited
        self._own_items: set[str] = set()  # of responses and utterances: no request names them
        self._queue: deque[Request] = deque()
        self._creates = _Creates()
        self._unnamed_errors = 0  # since the session had nothing to send
        self._recent: list[tuple[str | None, str]] = []  # creates since then
        self._ids: set[str] = set()
        self._warned: set[tuple[str, str, str | None]] = set()
        self._server_item: str | None = None  # the session itself commits it
        self._interruptions = 0  # speech that has started since then
        self._cancels_done = 0  # responses that the oldest clear or truncation has ended

    @property
    def waits_for_response(self) -> bool:
        """Whether a `response.create` has no response yet."""
        return any(self._creates.waiting.values())

    def send(self, content: str | bytes) -> None:
        """Take notice of a message for the session."""
        fields = parse(content)
        event_id, kind = identity(fields)
        if event_id is not None:
            if event_id in self._ids:
                self._warned = {told for told in self._warned if told[0] != event_id}
            self._ids.add(event_id)
        answer = self._rules.answers.get(kind, _ERROR_ONLY)
        self._queue.append(Request(event_id, kind, answer, answer is None))
        if kind == "response.create":
            metadata = _metadata(fields.get("response"))
            self._creates.add(event_id, metadata)
            self._recent.append((event_id, metadata))

    def has_unique_id(self, content: str | bytes) -> bool:
        """Return whether an answer to the message can be told from those to other messages."""
        event_id, _ = identity(parse(content))
        return event_id is not None and event_id not in self._ids

    def read(self, event: Mapping[str, Any]) -> None:
        """Take notice of an event of the session.

        Raises:
            Violation: nothing has asked for it, or an older request has no answer.
        """
        kind = event["type"]
        match kind:
            case "response.output_item.added":
                self._own_items.add(event["item"]["id"])
            case "input_audio_buffer.committed":
                self._own_items.add(event["item_id"])
        match kind:
            case "error":
                self._error(event["error"])
            case "warning":
                self._warning(event["warning"])
            case "input_audio_buffer.speech_stopped" | "input_audio_buffer.timeout_triggered":
                self._server_item = event["item_id"]
            case "input_audio_buffer.committed" if event["item_id"] == self._server_item:
                self._server_item = None
            case "input_audio_buffer.speech_started":
                self._interruptions += 1
            case "output_audio_buffer.cleared" if self._interruptions:
                self._interruptions -= 1
            case "response.done":
                self._response_done(event["response"])
            case "conversation.item.added" if event["item"]["id"] in self._own_items:
                pass
            case _ if kind in self._solicited:
                self._answer(kind)

    def check_quiet(self) -> None:
        """Check that no request waits; the session has nothing to send.

        Raises:
            Violation: a request has no answer.
        """
        unanswered = [request for request in self._queue if not request.is_optional]
        if len(unanswered) > self._unnamed_errors:
            raise Violation(f"no answer to {unanswered[0]}")
        if self._unnamed_errors:
            # One of the errors may be the answer to a `response.create`.
            for event_id, metadata in self._recent:
                if event_id is None or event_id in self._creates.by_id:
                    self._creates.answer(metadata)
        self._recent.clear()
        self._queue.clear()
        self._unnamed_errors = self._cancels_done = self._interruptions = 0

    def check_end(self) -> None:
        """Check that each `response.create` had an answer; no audio waits for a response.

        Raises:
            Violation: one has none.
        """
        waiting = {metadata: count for metadata, count in self._creates.waiting.items() if count}
        require(not waiting, f"no answer to response.create with metadata {waiting}")

    def _error(self, error: Mapping[str, Any]) -> None:
        if error["type"] == "server_error" or error["code"] == "too_many_errors":
            require(error["event_id"] is None, f"{error['code']} names an event")
            return
        event_id = error["event_id"]
        if event_id is None:
            self._unnamed_errors += 1
            return
        found = next((r for r in self._queue if r.event_id == event_id), None)
        if found is None:
            raise Violation(f"an error for {event_id!r}, which has its answer: {error}")
        self._pop(found)
        if found.kind == "response.create":
            self._creates.remove(event_id)

    def _warning(self, warning: Mapping[str, Any]) -> None:
        event_id, code = warning["event_id"], warning["code"]
        require(event_id is None or event_id in self._ids, f"a warning for {event_id!r}")
        if event_id is not None:
            told = (event_id, code, warning["param"])
            require(told not in self._warned, f"a second warning {told}")
            self._warned.add(told)
        if code == "unsupported_in_mode" and "warning" in self._rules.answers.values():
            self._answer("warning")
        elif code in _NO_RESPONSE:
            self._creates.remove(event_id)

    def _response_done(self, response: Mapping[str, Any]) -> None:
        self._creates.answer(json.dumps(response["metadata"], sort_keys=True))
        details = response["status_details"] or {}
        if details.get("reason") != "client_cancelled":
            return
        if not response["output"]:
            self._empty_done()
            return
        found = next((r for r in self._queue if r.kind in ENDS_OUTPUT), None)
        if found is None:
            raise Violation(f"{response['id']} was cancelled and nothing has asked for that")
        if found.kind == "response.cancel":
            self._pop(found)
        else:
            self._cancels_done += 1
            require(self._cancels_done == 1, f"{found.kind} has ended two responses")

    def _empty_done(self) -> None:
        """Take the end of a response that was cancelled before it had an item.

        It may have waited when an earlier `output_audio_buffer.clear` has cancelled all of them.
        """
        if self._rules.may_be_empty:
            found = next((r for r in self._queue if r.kind == "response.cancel"), None)
            if found is not None:
                self._pop(found)

    def _answer(self, kind: str) -> None:
        found = next((request for request in self._queue if request.answer == kind), None)
        if found is None:
            raise Violation(f"{kind} that nothing has asked for")
        self._pop(found)
        if found.kind in ENDS_OUTPUT:
            self._cancels_done = 0

    def _pop(self, found: Request) -> None:
        """Remove a request that is answered, and the older ones, whose time is over."""
        while True:
            request = self._queue.popleft()
            if request is found:
                return
            if request.kind == "response.cancel" and self._cancels_done:
                # The response that it ended was taken for that of an older clear or truncation,
                # which an error without a name has refused.
                self._cancels_done = 0
            elif not request.is_optional:
                require(self._unnamed_errors > 0, f"no answer to {request} before {found}")
                self._unnamed_errors -= 1


def parse(content: str | bytes) -> Mapping[str, Any]:
    """Return the fields of a message; none if it is neither a JSON object nor audio."""
    if isinstance(content, bytes):
        return {} if binary.audio(content) is None else {"type": "input_audio_buffer.append"}
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def identity(fields: Mapping[str, Any]) -> tuple[str | None, str]:
    """Return the `event_id` that answers repeat, and the type."""
    event_id, kind = fields.get("event_id"), fields.get("type")
    is_named = isinstance(event_id, str) and len(event_id) <= MAX_EVENT_ID
    return event_id if is_named else None, kind if isinstance(kind, str) else ""


def _metadata(response: object) -> str:
    metadata = response.get("metadata") if isinstance(response, dict) else None
    return json.dumps(metadata, sort_keys=True)
