"""Turns binary messages of a server into the events that carry the same media as JSON."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

from avatar_client import traces
from avatar_contracts import binary_messages
from avatar_contracts.binary_messages import Flag, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_contracts.binary_messages import Header

_MODES: Final[Mapping[Kind, str]] = {Kind.JPEG: "jpeg", Kind.H264: "h264", Kind.FMP4: "fmp4"}
_MAX_RESPONSES: Final = 64
"""Responses whose number is known; a server sends media of the last one only."""


class BinaryMediaReader:
    """Knows of each response what its binary messages leave out: identifiers and the rate."""

    def __init__(self) -> None:
        self._rate = 24_000
        self._responses: dict[int, str] = {}
        self._part: Mapping[str, Any] = {}

    def observe(self, event: Mapping[str, Any]) -> None:
        """Take notice of an event of the server; call it with each one, in order.

        Raises:
            KeyError: the event lacks a field that the protocol requires.
        """
        match event.get("type"):
            case "session.created" | "session.updated":
                self._rate = traces.output_rate(event["session"])
            case "response.created":
                self._responses[int(event.get("response_ref", 0))] = event["response"]["id"]
                if len(self._responses) > _MAX_RESPONSES:
                    del self._responses[next(iter(self._responses))]
            case "response.content_part.added":
                names = ("item_id", "output_index", "content_index")
                self._part = {name: event[name] for name in names}

    def read(self, message: bytes) -> dict[str, Any]:
        """Return the event of a binary message: `data` is the payload in place of `delta`.

        The fields of audio that name its content part are those of the part that was added last.

        Raises:
            BinaryMessageError: the message is not a binary message of a server.
        """
        header, payload = binary_messages.unpack(message)
        if header.kind is Kind.OUTPUT_AUDIO:
            event = {
                "type": "response.output_audio.delta",
                "response_id": self._responses.get(header.response_ref),
                **self._part,
                **self._position(header),
            }
        elif header.kind in _MODES:
            is_idle = Flag.IDLE in header.flags
            mode = _MODES[header.kind]
            event = {
                "type": "response.video.delta",
                "response_id": None if is_idle else self._responses.get(header.response_ref),
                "item_id": None if is_idle else self._part.get("item_id"),
                "output_index": 0,
                "codec": "jpeg" if mode == "jpeg" else "h264",
                "mode": mode,
                "frame_index": header.frame_index,
                **self._position(header),
                "keyframe": Flag.KEYFRAME in header.flags,
                "idle": is_idle,
            }
        else:
            raise binary_messages.BinaryMessageError(
                "kind", int(header.kind), list(map(int, _SENT)), "a server does not send it"
            )
        if header.seq:
            event["seq"] = header.seq
        if Flag.PATCH in header.flags:
            rect, source_frame, payload = binary_messages.unpack_patch(payload)
            event |= {"rect": list(rect), "source_frame": source_frame}
        event["data"] = payload
        return event

    def _position(self, header: Header) -> dict[str, Any]:
        pts_ms = Fraction(header.offset_samples * 1000, self._rate)
        whole = pts_ms.denominator == 1
        return {
            "epoch": header.epoch,
            "offset_samples": header.offset_samples,
            "pts_ms": int(pts_ms) if whole else round(float(pts_ms), 3),
        }


_SENT: Final = (*_MODES, Kind.OUTPUT_AUDIO)
