"""What holds for a session whose answers come from an upstream, whatever that sends."""

from __future__ import annotations

import base64
import json
from typing import Any

from localcluster.fuzz.messages import View
from localcluster.fuzz.violation import require


class BridgeOracle:
    """Follows one session in mode bridge; raises `Violation` for what is wrong."""

    def __init__(self) -> None:
        self.view = View()
        self.active: set[str] = set()
        """Responses that were created and are not done."""
        self._seen: set[str] = set()
        self._seq = 0
        self._epoch = 1
        self._silent: str | None = None  # a response whose sound has started without video
        self._positions: dict[str, int] = {}  # frames by response
        self._samples: dict[str, int] = {}

    def read(self, text: str) -> dict[str, Any]:
        """Check one event of the session and return it.

        Raises:
            Violation: it is not allowed here.
        """
        event: dict[str, Any] = json.loads(text)
        kind = event["type"]
        if "seq" not in event:
            require(kind == "response.video.delta" and event["idle"], f"{kind} has no seq")
            return event
        self._seq += 1
        self.view.seq = event["seq"]
        require(event["seq"] == self._seq, f"seq {event['seq']} after {self._seq - 1}")
        epoch = event.get("epoch")
        if epoch is not None:
            require(epoch >= self._epoch, f"{kind} of epoch {epoch} after {self._epoch}")
            is_media = kind in ("response.output_audio.delta", "response.video.delta")
            require(not is_media or epoch == self._epoch, f"{kind} of the epoch {epoch} too early")
            self._epoch = epoch
        is_video = kind.startswith("response.video.") and not event.get("idle")
        require(
            not is_video or event["response_id"] != self._silent,
            f"{kind} of a response without video",
        )
        if kind == "output_audio_buffer.started":
            self._silent = event["response_id"]
        elif kind == "session.avatar.switch_to_speaking":
            require(event["turn_id"] == self._silent, f"{event['turn_id']} has not started")
            self._silent = None
        match kind:
            case "session.created" | "session.updated":
                self.view.is_binary = event["session"]["avatar"]["transport"] == "binary"
            case "response.created":
                response_id = event["response"]["id"]
                require(response_id not in self._seen, f"{response_id} is created again")
                require(not self.active, f"{response_id} starts while {self.active} is active")
                self._seen.add(response_id)
                self.active.add(response_id)
                self.view.responses.append(response_id)
            case "response.done":
                response_id = event["response"]["id"]
                require(response_id in self.active, f"{response_id} is done and not active")
                require(event["response"]["status"] != "in_progress", "done and in progress")
                self.active.remove(response_id)
            case "conversation.item.added" if isinstance(event["item"].get("id"), str):
                self.view.items.append(event["item"]["id"])
            case "response.output_audio.delta":
                self._audio(event)
            case "response.video.delta" if not event["idle"]:
                self._video(event)
            case "response.video.dropped":
                self._require_active(event)
                first = event["first_frame_index"]
                self._advance(event["response_id"], first, event["last_frame_index"] + 1)
        return event

    def check_end(self) -> None:
        """Check that each response has its end; the session is over.

        Raises:
            Violation: one has none.
        """
        require(not self.active, f"never done: {self.active}")

    def _audio(self, event: dict[str, Any]) -> None:
        self._require_active(event)
        response_id, offset = event["response_id"], event["offset_samples"]
        require(offset >= self._samples.get(response_id, 0), f"offset {offset} again")
        data = base64.b64decode(event["delta"], validate=True)
        self._samples[response_id] = offset + max(1, len(data) // 2)

    def _video(self, event: dict[str, Any]) -> None:
        self._require_active(event)
        index = event["frame_index"]
        self._advance(event["response_id"], index, index + 1)

    def _advance(self, response_id: str, first: int, after: int) -> None:
        position = self._positions.get(response_id, 0)
        require(first == position and after > first, f"frames {first} to {after} at {position}")
        self._positions[response_id] = after

    def _require_active(self, event: dict[str, Any]) -> None:
        is_active = event["response_id"] in self.active
        require(is_active, f"{event['type']} of {event['response_id']}, which is not active")
