"""How far a player has come that plays the sound of an avatar as it arrives."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from avatar_client import traces

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(slots=True)
class _Response:
    """Sound that is played in one piece."""

    response_id: str
    received_ms: float = 0.0
    played_ms: float = 0.0
    is_complete: bool = False


class Playout:
    """Plays responses one after another at the pace of sound; without sound its clock stops.

    It has no clock and no output of its own: `now` is in seconds and never decreases.
    """

    def __init__(self) -> None:
        self._responses: deque[_Response] = deque()
        self._at = 0.0
        self._frame_ms = 40.0
        self._rate = 24_000

    @property
    def unplayed_ms(self) -> float:
        """Sound that was received and not played by the last call of `receive` or `position`."""
        return sum(each.received_ms - each.played_ms for each in self._responses)

    def receive(self, event: Mapping[str, Any], now: float) -> None:
        """Take notice of an event of the server that arrived at `now`."""
        self._advance(now)
        response = self._responses[-1] if self._responses else None
        match event.get("type"):
            case "session.created" | "session.updated":
                self._rate = traces.output_rate(event["session"])
                self._frame_ms = 1000 / event["session"]["avatar"]["fps"]
            case "response.created":
                self._responses.append(_Response(event["response"]["id"]))
            case "response.output_audio.delta" if response is not None:
                self._extend(response, event["pts_ms"] + self._sound_ms(event))
            case "response.video.delta" if response is not None and not event.get("idle"):
                # Without audio deltas, the frames say how long the sound is.
                self._extend(response, event["pts_ms"] + self._frame_ms)
            case "response.video.done" if response is not None:
                response.received_ms = event["audio_ms"]
                response.played_ms = min(response.played_ms, response.received_ms)
            case "response.done" if event["response"]["status"] == "cancelled":
                self._responses.clear()
            case "response.done" if response is not None:
                response.is_complete = True
            case "output_audio_buffer.cleared":
                self._responses.clear()

    def position(self, now: float) -> tuple[str, float] | None:
        """Return the response that is played, and its played milliseconds; `None` in silence.

        The end of a response is returned once.
        """
        self._advance(now)
        if not self._responses:
            return None
        response = self._responses[0]
        if response.is_complete and response.played_ms >= response.received_ms:
            self._responses.popleft()
        return response.response_id, round(response.played_ms, 3)

    def _advance(self, now: float) -> None:
        left_ms, self._at = (now - self._at) * 1000, now
        while self._responses and left_ms > 0:
            response = self._responses[0]
            step_ms = min(left_ms, response.received_ms - response.played_ms)
            response.played_ms += step_ms
            left_ms -= step_ms
            if not response.is_complete or len(self._responses) == 1:
                return
            if response.played_ms >= response.received_ms:
                self._responses.popleft()

    @staticmethod
    def _extend(response: _Response, until_ms: float) -> None:
        response.received_ms = max(response.received_ms, until_ms)

    def _sound_ms(self, event: Mapping[str, Any]) -> float:
        return traces.decoded_length(event) * 1000 / self._rate / (2 if self._rate != 8000 else 1)
