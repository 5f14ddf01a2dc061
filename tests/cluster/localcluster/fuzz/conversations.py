"""The order of the items, and what the client is told that it plays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from localcluster.fuzz.violation import Violation, require

if TYPE_CHECKING:
    from collections.abc import Mapping

    from localcluster.fuzz.video import VideoModes

    Event = Mapping[str, Any]

MAX_ITEMS: Final = 1000


class ConversationCheck:
    """Follows the items of a conversation by the events alone."""

    def __init__(self, *, repeats: bool = True) -> None:
        """`repeats` is whether each response says an utterance of the user, whose item it has."""
        self._repeats = repeats
        self._items: list[str] = []
        self._open: set[str] = set()
        self._done: set[str] = set()
        self._users = 0
        self._answers = 0

    def read(self, event: Event) -> None:
        """Take notice of an event of the session.

        Raises:
            Violation: an item is in the wrong place, or occurs twice.
        """
        match event["type"]:
            case "input_audio_buffer.committed":
                self._check_previous(event, event["item_id"])
            case "conversation.item.added":
                self._added(event)
            case "conversation.item.done":
                self._finished(event)
            case "conversation.item.deleted":
                require(event["item_id"] in self._items, f"{event['item_id']} is unknown")
                require(event["item_id"] not in self._open, f"{event['item_id']} is in progress")
                self._items.remove(event["item_id"])
                self._done.discard(event["item_id"])  # the client may use its id again
            case "conversation.item.retrieved":
                require(event["item"]["id"] in self._items, f"{event['item']['id']} is unknown")
            case "response.output_item.added":
                self._answers += 1
                is_early = self._repeats and self._answers > self._users
                require(not is_early, "a response before the item of the user")

    def check_end(self) -> None:
        """Check that each item of the conversation is done.

        Raises:
            Violation: one is still in progress.
        """
        require(not self._open, f"items in progress: {self._open}")

    def _added(self, event: Event) -> None:
        item = event["item"]
        item_id, previous = item["id"], event["previous_item_id"]
        require(item_id not in self._items and item_id not in self._done, f"{item_id} again")
        newest = self._items[-1] if self._items else None
        require(previous == newest, f"{item_id} after {previous} instead of {newest}")
        self._items.append(item_id)
        if len(self._items) > MAX_ITEMS:
            del self._items[0]
        self._open.add(item_id)
        self._users += item["role"] == "user"

    def _finished(self, event: Event) -> None:
        item = event["item"]
        require(item["id"] not in self._done, f"{item['id']} is done again")
        self._done.add(item["id"])
        self._open.discard(item["id"])
        require(item["status"] in ("completed", "incomplete"), f"done and {item['status']}")
        self._check_previous(event, item["id"])

    def _check_previous(self, event: Event, item_id: str) -> None:
        expected = self._items[-1] if self._items else None
        if item_id in self._items:
            at = self._items.index(item_id)
            expected = self._items[at - 1] if at else None
        previous = event["previous_item_id"]
        require(previous == expected, f"{item_id} after {previous} instead of {expected}")


class PlaybackCheck:
    """Follows what the client is told about the playback."""

    def __init__(self, modes: VideoModes) -> None:
        self._modes = modes
        self._speaking: str | None = None
        self._started: set[str] = set()
        self._playing: dict[str, None] = {}
        self._next: tuple[str, str] | None = None  # the event that comes next, and its turn

    @property
    def is_playing(self) -> bool:
        """Whether a response has started to play and has not stopped."""
        return bool(self._playing)

    def read(self, event: Event) -> None:
        """Take notice of an event of the session.

        Raises:
            Violation: a response starts or stops twice, or stops without a start.
        """
        if self._next is not None:
            found = (event["type"], event.get("turn_id"))
            require(found == self._next, f"{found} instead of {self._next}")
            self._next = None
        elif event["type"].startswith("session.avatar.switch"):
            raise Violation(f"{event['type']} without a start or a stop")
        match event["type"]:
            case "output_audio_buffer.started":
                response_id = event["response_id"]
                require(response_id not in self._started, f"{response_id} starts again")
                self._started.add(response_id)
                self._playing[response_id] = None
                if self._modes.has_video(response_id):
                    self._next = ("session.avatar.switch_to_speaking", response_id)
            case "output_audio_buffer.stopped":
                response_id = event["response_id"]
                require(response_id in self._playing, f"{response_id} stops and does not play")
                del self._playing[response_id]
                self._expect_idle(response_id)
            case "output_audio_buffer.cleared":
                self._playing.clear()
                self._expect_idle(self._speaking)
            case "session.avatar.switch_to_speaking":
                require(event["turn_id"] in self._playing, f"{event['turn_id']} does not play")
                self._speaking = event["turn_id"]
            case "session.avatar.switch_to_idle":
                require(event["turn_id"] == self._speaking, f"{event['turn_id']} does not speak")
                self._speaking = None
            case "response.output_audio.delta":
                self._check_started(event)
            case "response.video.delta" if not event["idle"]:
                self._check_started(event)

    def check_quiet(self) -> None:
        """Check that each start and each stop has its switch.

        Raises:
            Violation: one has none.
        """
        require(self._next is None, f"{self._next} is missing")

    def check_end(self) -> None:
        """Check that nothing plays any more; the client had the time to play all of it.

        Raises:
            Violation: a response has never stopped.
        """
        require(not self._playing, f"never stopped: {list(self._playing)}")
        require(self._speaking is None, f"speaks for ever: {self._speaking}")

    def _expect_idle(self, response_id: str | None) -> None:
        if self._speaking is not None and self._speaking == response_id:
            self._next = ("session.avatar.switch_to_idle", self._speaking)

    def _check_started(self, event: Event) -> None:
        require(event["response_id"] in self._started, f"media of {event['response_id']} too early")
