"""The order of the events of a response: in one sequence, or in step with its sound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from localcluster.fuzz.violation import require

if TYPE_CHECKING:
    from collections.abc import Mapping

    from localcluster.fuzz.video import VideoModes

    Event = Mapping[str, Any]

START: Final = (
    *("response.created", "response.output_item.added"),
    *("conversation.item.added", "response.content_part.added"),
)
END: Final = (
    *("response.output_audio.done", "response.video.done", "response.content_part.done"),
    *("response.output_item.done", "conversation.item.done", "response.done"),
)
_SHARED: Final = ("conversation.item.added", "conversation.item.done")
"""Events that items outside a response have too."""


def is_answer(event: Event) -> bool:
    """Return whether a response ends that has only the metadata of a late `response.create`."""
    if event["type"] != "response.done":
        return False
    response = event["response"]
    return not response["output"] and response["metadata"] is not None


class Order(Protocol):
    """Checks where the events of responses may stand."""

    def read(self, event: Event) -> None:
        """Take notice of an event of the session.

        Raises:
            Violation: it is in the wrong place.
        """
        ...

    def is_empty(self, event: Event) -> bool:
        """Return whether a `response.done` is that of a response which may have no output."""
        ...

    def check_quiet(self) -> None:
        """Check that no sequence of events is incomplete.

        Raises:
            Violation: one is.
        """
        ...


class Sequences:
    """Mode drive: the events at the start and at the end of a response have no others between."""

    def __init__(self, modes: VideoModes) -> None:
        self._modes = modes
        self._expected: tuple[str, ...] = ()

    def read(self, event: Event) -> None:
        """Take notice of an event of the session."""
        kind = event["type"]
        if self._expected == START[1:] and is_answer(event):
            self._expected = ()
        elif self._expected:
            require(kind == self._expected[0], f"{kind} instead of {self._expected[0]}")
            self._expected = self._expected[1:]
        elif kind == START[0]:
            self._expected = START[1:]
        elif kind == END[0]:
            has_video = self._modes.has_video(event["response_id"])
            self._expected = END[1:] if has_video else END[2:]
        else:
            require(kind not in _INNER, f"{kind} outside its sequence")

    def is_empty(self, event: Event) -> bool:
        """Return whether the response is that of a late request."""
        return is_answer(event)

    def check_quiet(self) -> None:
        """Check that no sequence is incomplete."""
        require(not self._expected, f"{self._expected} are missing")


class Steps:
    """Mode speech: the events of a response come one after the other, with others between them."""

    def __init__(self, modes: VideoModes) -> None:
        self._modes = modes
        self._response_id = self._item_id = ""
        self._stage = len(_STAGES) - 1
        self._has_video_done = False
        self._text = ""

    def read(self, event: Event) -> None:
        """Take notice of an event of the session."""
        kind = event["type"]
        if kind in _SHARED and event["item"]["id"] != self._item_id:
            return
        match kind:
            case "response.created":
                self._response_id, self._item_id = event["response"]["id"], ""
                self._has_video_done, self._text = False, ""
            case "response.output_item.added":
                self._item_id = event["item"]["id"]
            case "response.output_audio.delta" | "response.output_audio_transcript.delta":
                require(self._stage == _SPOKEN, f"{kind} after {_STAGES[self._stage]}")
                if "transcript" in kind:
                    self._text += event["delta"]
            case "response.output_audio_transcript.done":
                require(event["transcript"] == self._text, f"{event['transcript']!r} was not said")
            case "response.video.done":
                require(not self._has_video_done, "a second response.video.done")
                is_early = 0 < self._stage < _STAGES.index("response.output_audio.done")
                require(not is_early, f"{kind} after {_STAGES[self._stage]}")
                self._has_video_done = True
            case "response.done":
                self._end(event)
        if kind in _STAGES:
            self._advance(kind)

    def is_empty(self, event: Event) -> bool:
        """Return whether the response has ended before its item was announced."""
        return not event["response"]["output"]

    def check_quiet(self) -> None:
        """Check nothing: the events wait for the sound."""

    def _end(self, event: Event) -> None:
        response = event["response"]
        has_video = self._modes.has_video(self._response_id)
        require(self._has_video_done is has_video, f"response.video.done: {self._has_video_done}")
        if response["output"]:
            [part] = response["output"][0]["content"]
            is_whole = response["status"] == "completed"
            require(
                not is_whole or part["transcript"] == self._text, f"{part} is not what was said"
            )

    def _advance(self, kind: str) -> None:
        stage = _STAGES.index(kind)
        is_cut = kind == "response.done" and self._stage == 0  # before its item was announced
        is_next = stage == (self._stage + 1) % len(_STAGES)
        require(is_next or is_cut, f"{kind} after {_STAGES[self._stage]}")
        self._stage = stage


_INNER: Final = frozenset({*START[1:], *END[1:]}) - frozenset(_SHARED)
_STAGES: Final = (
    *START,
    *("response.output_audio.done", "response.output_audio_transcript.done"),
    *("response.content_part.done", "response.output_item.done", "conversation.item.done"),
    "response.done",
)
_SPOKEN: Final = len(START) - 1
"""The stage in which the sound and its text come."""
