"""What a client has of its session, for a pod that continues it from a snapshot.

docs/wire-protocol.md, "A pod that is lost".
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from avatar_client import traces
from avatar_contracts.event_keys import MAX_KEYS, UNCOUNTED, event_key

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(slots=True)
class Position:
    """Counts the numbered messages of a server."""

    events: int = 0
    response_id: str | None = None
    frames: int = 0
    dropped: int = 0
    audio_bytes: int = 0
    _last: deque[tuple[str, Mapping[str, Any]]] = field(
        default_factory=lambda: deque(maxlen=MAX_KEYS)
    )

    def took(self, event: Mapping[str, Any]) -> None:
        """Count a message that was received."""
        kind = event.get("type")
        if event.get("seq") and kind not in UNCOUNTED:
            self.events += 1
            self._last.append((str(kind), event))
        if kind == "response.created":
            self.response_id = str(event["response"]["id"])
            self.frames = self.dropped = self.audio_bytes = 0
        elif event.get("response_id") != self.response_id:
            return
        elif kind == "response.video.delta":
            self.frames += 1
        elif kind == "response.video.dropped":
            self.dropped += int(event["last_frame_index"]) - int(event["first_frame_index"]) + 1
        elif kind == "response.output_audio.delta":
            self.audio_bytes += traces.decoded_length(event)

    def describe(self, messages: int) -> dict[str, object]:
        """Return `received` of `session.resume` for a client that has sent `messages`."""
        return {
            "events": self.events,
            "last_events": "".join(event_key(kind, event) for kind, event in self._last),
            "messages": messages,
            "response_id": self.response_id,
            "frames": self.frames,
            "dropped": self.dropped,
            "audio_bytes": self.audio_bytes,
        }
