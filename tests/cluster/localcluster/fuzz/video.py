"""Which responses have video, by the session objects that the client gets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    Event = Mapping[str, Any]


class VideoModes:
    """Follows `avatar.video.mode`; a response keeps the mode that it started with."""

    def __init__(self) -> None:
        self._is_on = True
        self.streams_idle_frames = False
        """Whether the client gets frames between responses."""
        self.mode = "jpeg"
        self._silent: set[str] = set()  # responses without video

    def read(self, event: Event) -> None:
        """Take notice of an event of the session, before the other checks read it."""
        match event["type"]:
            case "session.created" | "session.updated":
                avatar = event["session"]["avatar"]
                self.mode = avatar["video"]["mode"]
                self._is_on = self.mode != "none"
                self.streams_idle_frames = self._is_on and avatar["idle"] == "stream"
            case "response.created" if not self._is_on:
                self._silent.add(event["response"]["id"])

    def has_video(self, response_id: str) -> bool:
        """Return whether the client gets the frames of a response that was created."""
        return response_id not in self._silent
