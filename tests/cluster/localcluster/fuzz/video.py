"""Which responses have video, by the session objects that the client gets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from localcluster.fuzz.violation import require

if TYPE_CHECKING:
    from collections.abc import Mapping

    Event = Mapping[str, Any]


class VideoModes:
    """Follows `avatar.video.mode`; a response keeps the mode that it started with."""

    def __init__(self) -> None:
        self._is_on = True
        self.streams_idle_frames = False
        """Whether the client gets frames between responses."""
        self.has_patches = False
        """Whether the client has asked for patches; some may be on their way afterwards."""
        self.mode = "jpeg"
        self._silent: set[str] = set()  # responses without video

    def read(self, event: Event) -> None:
        """Take notice of an event of the session, before the other checks read it."""
        match event["type"]:
            case "session.created" | "session.updated":
                avatar = event["session"]["avatar"]
                self.mode = avatar["video"]["mode"]
                is_patch = avatar["video"]["region"] == "patch"
                require(is_patch == ("idle_url" in avatar), f"no pictures below: {avatar}")
                require(not is_patch or self.mode in ("jpeg", "none"), f"patches in {self.mode}")
                self.has_patches |= is_patch
                self._is_on = self.mode != "none"
                self.streams_idle_frames = self._is_on and avatar["idle"] == "stream"
            case "response.created" if not self._is_on:
                self._silent.add(event["response"]["id"])

    def check_patch(self, event: Event) -> None:
        """Check that a frame says where it belongs, and only if it is a part of one.

        Raises:
            Violation: it does not.
        """
        is_patch = "rect" in event
        require(is_patch == ("source_frame" in event), "a rectangle over no frame")
        require(not is_patch or self.has_patches, "a patch that was not asked for")
        require(not is_patch or event["mode"] == "jpeg", f"a patch in {event['mode']}")
        shape = [type(number) for number in event.get("rect", [0] * 4)]
        require(shape == [int] * 4, f"a rectangle of {shape}")

    def has_video(self, response_id: str) -> bool:
        """Return whether the client gets the frames of a response that was created."""
        return response_id not in self._silent
