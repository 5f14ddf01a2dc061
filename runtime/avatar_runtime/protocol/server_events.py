"""The bodies of server events that more than one place sends, in the shape of wire protocol §3."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_runtime.errors import ProtocolError
    from avatar_runtime.protocol.audio_formats import AudioFormat
    from avatar_runtime.protocol.conversation import Item
    from avatar_runtime.protocol.turn import AudioPiece, Picture

PART: Final[Mapping[str, object]] = {"type": "output_audio", "transcript": ""}


def place(response_id: str, item: Item) -> dict[str, object]:
    """Return the four fields that place a content part."""
    return {
        "response_id": response_id,
        "item_id": item.id,
        "output_index": 0,
        "content_index": 0,
    }


def audio_delta(
    response_id: str, item: Item, epoch: int, audio: AudioFormat, piece: AudioPiece
) -> dict[str, object]:
    """Return the fields of `response.output_audio.delta`."""
    return {
        **place(response_id, item),
        "epoch": epoch,
        "pts_ms": milliseconds(piece.offset_samples, audio.rate),
        "offset_samples": piece.offset_samples,
        "delta": b64encode(piece.data).decode("ascii"),
    }


def video_delta(
    response_id: str, item: Item, epoch: int, picture: Picture, offset_samples: int, rate: int
) -> dict[str, object]:
    """Return the fields of `response.video.delta`."""
    return {
        "response_id": response_id,
        "item_id": item.id,
        "output_index": 0,
        "codec": "jpeg",
        "mode": "jpeg",
        "epoch": epoch,
        "frame_index": picture.frame_index,
        "offset_samples": offset_samples,
        "pts_ms": milliseconds(offset_samples, rate),
        "keyframe": True,
        "idle": False,
        "delta": b64encode(picture.jpeg).decode("ascii"),
    }


def response(
    response_id: str,
    conversation_id: str,
    status: str,
    output: list[dict[str, object]],
    *,
    audio: AudioFormat,
    details: Mapping[str, object] | None,
) -> dict[str, object]:
    """Return the response object of `response.created` and `response.done`."""
    return {
        "id": response_id,
        "object": "realtime.response",
        "status": status,
        "status_details": details,
        "output": output,
        "conversation_id": conversation_id,
        "output_modalities": ["audio"],
        "audio": {"output": {"format": audio.describe()}},
        "metadata": None,
        "usage": None,
    }


def error(
    fault: ProtocolError, event_id: str | None, kind: str = "invalid_request_error"
) -> dict[str, object]:
    """Return the error object of wire protocol §13."""
    return {
        "type": kind,
        "code": fault.code,
        "message": fault.message,
        "param": fault.param,
        "event_id": event_id,
        "value": fault.value,
        "limit": fault.limit,
    }


def milliseconds(samples: int, rate: int) -> int | float:
    """Return a duration as a whole number wherever it is one."""
    return whole(samples * 1000 / rate)


def whole(number: float) -> int | float:
    """Return an integer if the number is one, else at most three decimals."""
    return int(number) if number == int(number) else round(number, 3)
